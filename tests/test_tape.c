/* test_tape.c: recording, planning, preparing and running, with a backend made up for it.
 *
 * The made-up backend computes with one 64-bit number for a whole tensor and fills the tensor's
 * memory with it. If two tensors that are needed at the same time share any memory, or a fold or an
 * in-place op changed the meaning of a tape, a run ends in wrong numbers. */
#include "backend.h"
#include "tape.h"
#include "test.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the made-up backend ---- */

typedef struct {
    MojiBackend b;
    MojiTape *tape;
    char *block;
    int memories, prepared; /* how many are held now */
    int runs, records;      /* calls, and records that ran */
    int cancel_at;          /* record after which `cancel` is cancelled */
    GCancellable *cancel;
    gboolean no_memory, no_prepare;
    int damaged; /* inputs of records that were not filled with one number throughout */
} Fake;

static guint64 mix(guint64 h, guint64 v)
{
    h ^= v;
    h *= 0x9E3779B97F4A7C15u;
    return h ^ (h >> 29);
}

/* The number of a record's output given those of its inputs. Adding is adding, so that an add and a
 * layer with a residual come to the same. */
static guint64 evaluate(const MojiRecord *r, const guint64 in[MOJI_MAX_INPUTS])
{
    if (r->op == MOJI_OP_ADD)
        return in[0] + in[1];
    guint64 h = mix(r->op, g_str_hash(r->name));
    gboolean layer = r->op == MOJI_OP_CONV2D || r->op == MOJI_OP_LINEAR;
    for (int k = 0; k < (layer ? 3 : MOJI_MAX_INPUTS); k++)
        if (r->in[k])
            h = mix(h, in[k]);
    return layer && r->in[3] ? h + in[3] : h;
}

static guint64 parameter_number(const MojiTensor *t)
{
    return g_str_hash(t->name);
}

static void fill(char *memory, gsize bytes, guint64 number)
{
    for (gsize i = 0; i < bytes; i++)
        memory[i] = (char)(number >> (i % 8 * 8));
}

/* The number that memory is filled with; counts it if it is not one number throughout. */
static guint64 number_in(Fake *f, const MojiTensor *t)
{
    const guint8 *memory = (const guint8 *)f->block + t->offset;
    gsize bytes = moji_tensor_bytes(t);
    guint64 number = 0;
    for (gsize i = 0; i < 8; i++)
        number |= (guint64)memory[i] << (i * 8);
    for (gsize i = 8; i < bytes; i++)
        if (memory[i] != memory[i - 8]) {
            f->damaged++;
            break;
        }
    return number;
}

static void *fake_memory_new(MojiBackend *b, gsize bytes, GError **error)
{
    Fake *f = (Fake *)b;
    if (f->no_memory) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_MEMORY, "no memory");
        return NULL;
    }
    f->memories++;
    return f->block = g_malloc(bytes);
}

static void fake_memory_free(MojiBackend *b, void *memory)
{
    ((Fake *)b)->memories--;
    g_free(memory);
}

static void fake_write(MojiBackend *b, void *memory, const void *host, gsize bytes)
{
    (void)b;
    memcpy(memory, host, bytes);
}

static void fake_read(MojiBackend *b, const void *memory, void *host, gsize bytes)
{
    (void)b;
    memcpy(host, memory, bytes);
}

static gboolean fake_prepare(MojiBackend *b, MojiTape *tape, void *block, MojiWeight **weight,
                             void **prepared, GError **error)
{
    Fake *f = (Fake *)b;
    if (f->no_prepare) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_BACKEND, "not today");
        return FALSE;
    }
    for (int id = 0; id < moji_tape_tensors(tape); id++) {
        MojiTensor *t = moji_tape_tensor(tape, id);
        gboolean named = weight[id] && g_str_has_suffix(t->name, weight[id]->name);
        MOJI_CHECK(t->kind != MOJI_PARAMETER ? !weight[id] : named, "wrong weight for tensor %d",
                   id);
    }
    f->tape = tape;
    f->block = block;
    f->prepared++;
    *prepared = f;
    return TRUE;
}

static void fake_unprepare(MojiBackend *b, void *prepared)
{
    MOJI_CHECK(prepared == b, "another tape's state");
    ((Fake *)b)->prepared--;
}

static gboolean fake_supports(MojiBackend *b, MojiType type)
{
    (void)b;
    return type != MOJI_F16;
}

static gboolean fake_run(MojiBackend *b, void *prepared, int first, int end, GError **error)
{
    (void)prepared;
    (void)error;
    Fake *f = (Fake *)b;
    f->runs++;
    for (int i = first; i < end; i++) {
        MojiRecord *r = moji_tape_record(f->tape, i);
        guint64 in[MOJI_MAX_INPUTS] = {0};
        f->records++;
        for (int k = 0; k < MOJI_MAX_INPUTS; k++)
            if (r->in[k])
                in[k] = r->in[k]->kind == MOJI_PARAMETER ? parameter_number(r->in[k])
                                                         : number_in(f, r->in[k]);
        fill(f->block + r->out->offset, moji_tensor_bytes(r->out), evaluate(r, in));
        if (i == f->cancel_at && f->cancel)
            g_cancellable_cancel(f->cancel);
    }
    return TRUE;
}

static Fake fake_new(void)
{
    return (Fake){.b = {.name = "fake",
                        .span = 1,
                        .supports = fake_supports,
                        .memory_new = fake_memory_new,
                        .memory_free = fake_memory_free,
                        .write = fake_write,
                        .read = fake_read,
                        .prepare = fake_prepare,
                        .unprepare = fake_unprepare,
                        .run = fake_run},
                  .cancel_at = -1};
}

/* ---- weights made up for it ---- */

typedef struct {
    const char *name, *type, *shape;
    gsize bytes;
} Stored;

/* rows ends with {0}. Caller frees. */
static MojiWeights *weights_of(const Stored *rows)
{
    g_autoptr(GString) header = g_string_new("{");
    gsize bytes = 0;
    for (const Stored *s = rows; s->name; s++) {
        g_string_append_printf(
            header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
            s == rows ? "" : ",", s->name, s->type, s->shape, bytes, bytes + s->bytes);
        bytes += s->bytes;
    }
    g_string_append_c(header, '}');
    while (header->len % 8)
        g_string_append_c(header, ' ');
    guint64 length = GUINT64_TO_LE(header->len);
    GByteArray *file = g_byte_array_new();
    g_byte_array_append(file, (guint8 *)&length, sizeof length);
    g_byte_array_append(file, (guint8 *)header->str, header->len);
    g_autofree guint8 *zeros = g_malloc0(MAX(bytes, 1));
    g_byte_array_append(file, zeros, bytes);
    g_autoptr(GBytes) all = g_byte_array_free_to_bytes(file);
    g_autoptr(GError) error = NULL;
    MojiWeights *w = moji_weights_parse(all, "folder/made.safetensors", &error);
    MOJI_CHECK(w, "%s", error ? error->message : "no weights and no error");
    return w;
}

/* Zeros under every parameter's own name. Caller frees. */
static MojiWeights *weights_for(MojiTape *tape)
{
    g_autoptr(GArray) rows = g_array_new(TRUE, TRUE, sizeof(Stored));
    g_autoptr(GPtrArray) shapes = g_ptr_array_new_with_free_func(g_free);
    for (int id = 0; id < moji_tape_tensors(tape); id++) {
        MojiTensor *t = moji_tape_tensor(tape, id);
        if (t->kind != MOJI_PARAMETER)
            continue;
        char *shape = g_malloc(96);
        g_ptr_array_add(shapes, shape);
        Stored s = {t->name, "F16", moji_tensor_shape(t, shape, 96),
                    2 * (gsize)moji_tensor_count(t)};
        g_array_append_val(rows, s);
    }
    return weights_of((Stored *)rows->data);
}

/* ---- recording ---- */

static gboolean shape_is(const MojiTensor *t, const char *expected)
{
    char shape[96];
    return MOJI_CHECK(g_str_equal(moji_tensor_shape(t, shape, sizeof shape), expected),
                      "shape %s, expected %s", shape, expected);
}

static MojiTensor *image(MojiTape *tape, int h, int w, int c)
{
    return moji_input(tape, "x", moji_tape_compute(tape), 4, (gint64[]){2, h, w, c});
}

static void test_shapes(void)
{
    MojiTape *tape = moji_tape_new(MOJI_F32);
    MojiTensor *x = image(tape, 9, 8, 6);
    MojiConv conv = {.out = 5, .kernel = 3, .stride = 2, .pad = 1};
    shape_is(moji_conv2d(tape, "a", x, conv), "[2,5,4,5]");
    conv.pad_end_only = TRUE;
    shape_is(moji_conv2d(tape, "b", x, conv), "[2,4,4,5]");
    shape_is(moji_conv2d(tape, "c", x, (MojiConv){.out = 7, .kernel = 1}), "[2,9,8,7]");
    shape_is(moji_upsample(tape, x), "[2,18,16,6]");
    shape_is(moji_concat(tape, x, moji_conv2d(tape, "c", x, (MojiConv){.out = 7, .kernel = 1})),
             "[2,9,8,13]");
    MojiTensor *tokens = moji_reshape(tape, x, 3, (gint64[]){2, 72, 6});
    shape_is(moji_linear(tape, "d", tokens, 10, TRUE), "[2,72,10]");
    shape_is(moji_geglu(tape, tokens), "[2,72,3]");
    shape_is(moji_attention(tape, tokens, tokens, tokens, 3, 1, TRUE), "[2,72,6]");
    MojiTensor *ids = moji_input(tape, "ids", MOJI_I32, 2, (gint64[]){2, 7});
    shape_is(moji_embed(tape, "e", ids, 100, 12), "[2,7,12]");
    MojiTensor *t = moji_input(tape, "t", MOJI_F32, 1, (gint64[]){2});
    shape_is(moji_sinusoid(tape, t, 16, TRUE, 0), "[2,16]");
    MojiTensor *half = moji_cast(tape, x, MOJI_BF16);
    shape_is(half, "[2,9,8,6]");
    MOJI_CHECK(half->type == MOJI_BF16 && moji_tensor_bytes(half) * 2 == moji_tensor_bytes(x),
               "a cast to bf16 has half the bytes");
    MOJI_CHECK(moji_cast(tape, x, MOJI_F32) == x, "a cast to the same type is a record");
    MojiRecord *r = moji_tape_record(tape, 1);
    MOJI_CHECK(r->attr.conv.pad_begin == 0 && r->attr.conv.pad_end == 1 && r->attr.conv.stride == 2,
               "padding at the end only: %d %d", r->attr.conv.pad_begin, r->attr.conv.pad_end);
    moji_tape_free(tape);
}

static void test_names(void)
{
    MojiTape *tape = moji_tape_new(MOJI_BF16);
    MojiTensor *x = image(tape, 4, 4, 8);
    moji_scope(tape, "down_blocks.%d", 1);
    moji_scope(tape, "resnets.%d", 0);
    x = moji_conv2d(tape, "conv1", x, (MojiConv){.out = 8, .kernel = 1});
    moji_silu(tape, x);
    moji_scope_end(tape);
    moji_linear(tape, "to_q", x, 8, FALSE);
    moji_scope_end(tape);
    moji_group_norm(tape, "norm", x, 4, 1e-5f, FALSE);
    static const char *const record[] = {"down_blocks.1.resnets.0.conv1", "down_blocks.1.resnets.0",
                                         "down_blocks.1.to_q", "norm"};
    for (guint i = 0; i < G_N_ELEMENTS(record); i++)
        MOJI_CHECK(g_str_equal(moji_tape_record(tape, i)->name, record[i]), "record %u is \"%s\"",
                   i, moji_tape_record(tape, i)->name);
    MojiRecord *conv = moji_tape_record(tape, 0), *linear = moji_tape_record(tape, 2);
    MOJI_CHECK(g_str_equal(conv->in[2]->name, "down_blocks.1.resnets.0.conv1.bias"), "\"%s\"",
               conv->in[2]->name);
    MOJI_CHECK(conv->in[1]->type == MOJI_BF16 && !linear->in[2], "types or biases are wrong");
    moji_tape_free(tape);
}

static void test_parameter_once(void)
{
    MojiTape *tape = moji_tape_new(MOJI_F32);
    MojiTensor *x = image(tape, 4, 4, 8);
    moji_linear(tape, "to_q", x, 8, TRUE);
    moji_linear(tape, "to_q", x, 8, TRUE);
    MOJI_CHECK(moji_tape_record(tape, 0)->in[1] == moji_tape_record(tape, 1)->in[1],
               "one name is two tensors");
    moji_tape_free(tape);
}

static void test_words(void)
{
    for (int op = 0; op < MOJI_OP_COUNT; op++) {
        const char *name = moji_op_name(op);
        MOJI_CHECK(name && name[0], "op %d has no name", op);
        for (int other = 0; other < op; other++)
            MOJI_CHECK(!g_str_equal(name, moji_op_name(other)), "two ops are called %s", name);
    }
    MOJI_CHECK(g_str_equal(moji_op_name(MOJI_OP_MIX), "mix"), "the last op's name");
    MOJI_CHECK(moji_type_bytes(MOJI_BF16) == 2 && moji_type_bytes(MOJI_I64) == 8, "bytes of types");
    MOJI_CHECK(g_str_equal(moji_type_name(MOJI_I32), "i32"), "names of types");
}

/* ---- mistakes of ours ---- */

static void add_of_unlike(void)
{
    MojiTape *tape = moji_tape_new(MOJI_F32);
    moji_scope(tape, "mid_block");
    moji_add(tape, image(tape, 4, 4, 8), image(tape, 4, 2, 8));
}

static void linear_of_f32_at_bf16(void)
{
    MojiTape *tape = moji_tape_new(MOJI_BF16);
    moji_linear(tape, "x", moji_input(tape, "x", MOJI_F32, 2, (gint64[]){3, 77}), 2, TRUE);
}

static void heads_that_do_not_divide(void)
{
    MojiTape *tape = moji_tape_new(MOJI_F32);
    MojiTensor *x = moji_input(tape, "x", MOJI_F32, 3, (gint64[]){1, 5, 10});
    moji_attention(tape, x, x, x, 3, 1, FALSE);
}

static void reshape_of_another_count(void)
{
    MojiTape *tape = moji_tape_new(MOJI_F32);
    moji_reshape(tape, image(tape, 3, 3, 3), 2, (gint64[]){2, 26});
}

static void record_after_plan(void)
{
    MojiTape *tape = moji_tape_new(MOJI_F32);
    MojiTensor *x = image(tape, 3, 3, 3);
    moji_tape_plan(tape);
    moji_silu(tape, x);
}

/* Runs fn in a child, which must stop by an assert whose text has both words in it. */
static void must_stop(MojiTestFn fn, const char *one, const char *two)
{
    int ends[2], status = 0;
    char text[4096] = "";
    gsize used = 0;
    if (!MOJI_CHECK(pipe(ends) == 0, "no pipe"))
        return;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 1); /* GLib announces asserts there too */
        dup2(ends[1], 2);
        fn();
        _exit(0);
    }
    close(ends[1]);
    for (gssize n; (n = read(ends[0], text + used, sizeof text - 1 - used)) > 0;)
        used += n;
    close(ends[0]);
    waitpid(child, &status, 0);
    MOJI_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "not stopped: status %d, \"%s\"",
               status, text);
    MOJI_CHECK(strstr(text, one) && strstr(text, two), "\"%s\" has not both %s and %s", text, one,
               two);
}

static void test_mistakes(void)
{
    must_stop(add_of_unlike, "mid_block", "[2,4,4,8] f32 and [2,4,2,8] f32");
    must_stop(linear_of_f32_at_bf16, "[3,77] f32", "compute");
    must_stop(heads_that_do_not_divide, "[1,5,10]", "heads");
    must_stop(reshape_of_another_count, "[2,3,3,3]", "[2,26]");
    must_stop(record_after_plan, "planned", "tape");
}

/* ---- folding ---- */

static void test_fold(void)
{
    MojiTape *tape = moji_tape_new(MOJI_F32);
    MojiTensor *x = image(tape, 4, 4, 8);
    MojiTensor *h = moji_conv2d(tape, "conv", x, (MojiConv){.out = 8, .kernel = 3, .pad = 1});
    MojiTensor *y = moji_output(tape, moji_add(tape, x, h));
    moji_tape_plan(tape);
    MojiRecord *r = moji_tape_record(tape, 0);
    MOJI_CHECK(moji_tape_length(tape) == 1 && r->op == MOJI_OP_CONV2D, "the add is still there");
    MOJI_CHECK(r->in[3] == x && r->out == y, "the residual or the output is wrong");
    MOJI_CHECK(moji_tape_block_bytes(tape) == 2 * moji_tensor_bytes(x),
               "the intermediate has memory");
    moji_tape_free(tape);
}

/* What must stay an add, each alone on a tape. */
static MojiTensor *read_twice(MojiTape *tape, MojiTensor *x)
{
    MojiTensor *h = moji_linear(tape, "a", x, 8, TRUE);
    return moji_add(tape, moji_add(tape, h, x), moji_silu(tape, h));
}

static MojiTensor *wanted(MojiTape *tape, MojiTensor *x)
{
    return moji_add(tape, moji_output(tape, moji_linear(tape, "a", x, 8, TRUE)), x);
}

static MojiTensor *wanted_as_view(MojiTape *tape, MojiTensor *x)
{
    MojiTensor *h = moji_linear(tape, "a", x, 8, TRUE);
    moji_output(tape, moji_reshape(tape, h, 3, (gint64[]){2, 16, 8}));
    return moji_add(tape, h, x);
}

static MojiTensor *residual_comes_later(MojiTape *tape, MojiTensor *x)
{
    MojiTensor *h = moji_linear(tape, "a", x, 8, TRUE);
    return moji_add(tape, h, moji_silu(tape, x));
}

static MojiTensor *through_a_view(MojiTape *tape, MojiTensor *x)
{
    MojiTensor *h = moji_linear(tape, "a", x, 8, TRUE);
    gint64 tokens[] = {2, 16, 8};
    return moji_add(tape, moji_reshape(tape, h, 3, tokens), moji_reshape(tape, x, 3, tokens));
}

static MojiTensor *broadcast(MojiTape *tape, MojiTensor *x)
{
    MojiTensor *one = moji_input(tape, "one", MOJI_F32, 4, (gint64[]){2, 1, 1, 8});
    return moji_add(tape, moji_linear(tape, "a", x, 8, TRUE), one);
}

static MojiTensor *to_itself(MojiTape *tape, MojiTensor *x)
{
    MojiTensor *h = moji_linear(tape, "a", x, 8, TRUE);
    return moji_add(tape, h, h);
}

static MojiTensor *not_a_layer(MojiTape *tape, MojiTensor *x)
{
    return moji_add(tape, moji_gelu(tape, x), x);
}

static void test_no_fold(void)
{
    MojiTensor *(*const row[])(MojiTape *, MojiTensor *) = {
        read_twice,     wanted,    wanted_as_view, residual_comes_later,
        through_a_view, broadcast, to_itself,      not_a_layer};
    for (guint i = 0; i < G_N_ELEMENTS(row); i++) {
        MojiTape *tape = moji_tape_new(MOJI_F32);
        moji_output(tape, row[i](tape, image(tape, 4, 4, 8)));
        int before = moji_tape_length(tape);
        moji_tape_plan(tape);
        MOJI_CHECK(moji_tape_length(tape) == before, "row %u: %d records became %d", i, before,
                   moji_tape_length(tape));
        moji_tape_free(tape);
    }
}

/* ---- random tapes ---- */

typedef struct {
    GRand *random;
    MojiTape *tape;
    GPtrArray *pool; /* of MojiTensor*, rank 4, of the compute type */
    int layers;      /* for names */
} Maker;

static MojiTensor *any(Maker *m)
{
    /* recent ones more often, as in real networks, but now and then one from far back */
    int n = m->pool->len, back = g_rand_boolean(m->random) ? MIN(n, 3) : n;
    return m->pool->pdata[n - 1 - g_rand_int_range(m->random, 0, back)];
}

/* Another tensor that agrees with x in the first `axes` axes; x itself if there is none. */
static MojiTensor *alike(Maker *m, MojiTensor *x, int axes)
{
    for (int tries = 0; tries < 8; tries++) {
        MojiTensor *t = any(m);
        if (memcmp(t->dim, x->dim, axes * sizeof *x->dim) == 0)
            return t;
    }
    return x;
}

static MojiTensor *random_layer(Maker *m, MojiTensor *x)
{
    char name[16];
    g_snprintf(name, sizeof name, "layer%d", m->layers++);
    int out = g_rand_boolean(m->random) ? (int)x->dim[3] : 8 * g_rand_int_range(m->random, 1, 4);
    switch (g_rand_int_range(m->random, 0, 4)) {
    case 0:
        return moji_conv2d(m->tape, name, x, (MojiConv){.out = out, .kernel = 3, .pad = 1});
    case 1:
        return moji_conv2d(m->tape, name, x,
                           (MojiConv){.out = out, .kernel = 3, .pad = 1, .stride = 2});
    case 2:
        return moji_group_norm(m->tape, name, x, 4, 1e-5f, TRUE);
    default:
        return moji_linear(m->tape, name, x, out, TRUE);
    }
}

/* As wide as x. */
static MojiTensor *random_linear(Maker *m, MojiTensor *x)
{
    char name[16];
    g_snprintf(name, sizeof name, "layer%d", m->layers++);
    return moji_linear(m->tape, name, x, (int)x->dim[x->rank - 1], TRUE);
}

/* Through tokens and back, so that there are views of outputs and of inputs. */
static MojiTensor *random_attention(Maker *m, MojiTensor *x)
{
    gint64 tokens[] = {x->dim[0], x->dim[1] * x->dim[2], x->dim[3]};
    MojiTensor *q = moji_reshape(m->tape, x, 3, tokens), *k, *v = q;
    if (g_rand_boolean(m->random)) {
        k = random_linear(m, q);
        v = random_linear(m, q);
    } else
        k = moji_silu(m->tape, q);
    MojiTensor *h = moji_attention(m->tape, q, k, v, 2, 1, FALSE);
    return moji_reshape(m->tape, g_rand_boolean(m->random) ? moji_add(m->tape, h, q) : h, 4,
                        x->dim);
}

/* What folds, unless the dice have x and the layer's output in the way of it. */
static MojiTensor *random_residual(Maker *m, MojiTensor *x)
{
    MojiTensor *h = random_linear(m, x);
    MojiTensor *other = alike(m, x, 4);
    if (g_rand_int_range(m->random, 0, 4) == 0)
        g_ptr_array_add(m->pool, h);
    return g_rand_boolean(m->random) ? moji_add(m->tape, h, other) : moji_add(m->tape, other, h);
}

static MojiTensor *random_op(Maker *m)
{
    MojiTensor *x = any(m);
    switch (g_rand_int_range(m->random, 0, 12)) {
    case 0:
        return moji_silu(m->tape, x);
    case 1:
        return moji_quick_gelu(m->tape, x);
    case 2:
        return g_rand_boolean(m->random) ? moji_relu(m->tape, x) : moji_scale(m->tape, x, 2);
    case 3:
        return x->dim[1] < 16 ? moji_upsample(m->tape, x) : moji_gelu(m->tape, x);
    case 4:
        return x->dim[3] < 64 ? moji_concat(m->tape, x, alike(m, x, 3)) : moji_gelu(m->tape, x);
    case 5:
        return x->dim[3] % 16 == 0 ? moji_geglu(m->tape, x) : moji_silu(m->tape, x);
    case 6:
        return random_attention(m, x);
    case 7:
    case 8:
        return moji_add(m->tape, x, alike(m, x, 4));
    case 9:
        return random_residual(m, x);
    default:
        return random_layer(m, x);
    }
}

static MojiTape *random_tape(guint32 seed)
{
    Maker m = {g_rand_new_with_seed(seed), moji_tape_new(seed % 2 ? MOJI_F32 : MOJI_BF16),
               g_ptr_array_new(), 0};
    int inputs = g_rand_int_range(m.random, 1, 4), ops = g_rand_int_range(m.random, 1, 60);
    for (int i = 0; i < inputs; i++) {
        gint64 side = 4 * g_rand_int_range(m.random, 1, 3);
        gint64 dim[] = {1, side, side, 8 * g_rand_int_range(m.random, 1, 3)};
        MojiTensor *x = moji_input(m.tape, "x", moji_tape_compute(m.tape), 4, dim);
        if (g_rand_int_range(m.random, 0, 6) == 0)
            moji_output(m.tape, x);
        if (g_rand_boolean(m.random))
            moji_steady(m.tape, x);
        g_ptr_array_add(m.pool, x);
    }
    for (int i = 0; i < ops; i++) {
        MojiTensor *y = random_op(&m);
        if (g_rand_int_range(m.random, 0, 10) == 0)
            moji_output(m.tape, y);
        g_ptr_array_add(m.pool, y);
    }
    moji_output(m.tape, m.pool->pdata[m.pool->len - 1]);
    g_ptr_array_unref(m.pool);
    g_rand_free(m.random);
    return m.tape;
}

/* Three runs of one tape: inputs that are not steady change each time, steady ones before the last
 * only. */
enum { TURNS = 3 };

static guint64 input_number(const MojiTensor *t, int turn)
{
    return mix(77 + (t->steady ? turn / 2 : turn), t->id);
}

static MojiTensor *base_of(MojiTensor *t)
{
    while (t->view_of)
        t = t->view_of;
    return t;
}

/* What every tensor should hold in a turn, from the tape as it was recorded. Caller frees. */
static guint64 *expect(MojiTape *tape, int turn)
{
    guint64 *number = g_new0(guint64, moji_tape_tensors(tape));
    for (int id = 0; id < moji_tape_tensors(tape); id++) {
        MojiTensor *t = moji_tape_tensor(tape, id);
        number[id] = t->kind == MOJI_PARAMETER ? parameter_number(t) : input_number(t, turn);
    }
    for (int i = 0; i < moji_tape_length(tape); i++) {
        MojiRecord *r = moji_tape_record(tape, i);
        guint64 in[MOJI_MAX_INPUTS] = {0};
        for (int k = 0; k < MOJI_MAX_INPUTS; k++)
            if (r->in[k])
                in[k] = number[base_of(r->in[k])->id];
        number[r->out->id] = evaluate(r, in);
    }
    return number;
}

static void write_inputs(MojiTape *tape, int turn)
{
    for (int id = 0; id < moji_tape_tensors(tape); id++) {
        MojiTensor *t = moji_tape_tensor(tape, id);
        if (t->kind != MOJI_INPUT || t->view_of || (t->steady && turn == 1))
            continue;
        g_autofree char *host = g_malloc(moji_tensor_bytes(t));
        fill(host, moji_tensor_bytes(t), input_number(t, turn));
        moji_tape_write(tape, t, host);
    }
}

static void check_outputs(MojiTape *tape, const guint64 *expected, guint32 seed, int turn)
{
    for (int id = 0; id < moji_tape_tensors(tape); id++) {
        MojiTensor *t = moji_tape_tensor(tape, id);
        if (!t->output)
            continue;
        g_autofree guint8 *host = g_malloc(moji_tensor_bytes(t));
        g_autofree char *want = g_malloc(moji_tensor_bytes(t));
        moji_tape_read(tape, t, host);
        fill(want, moji_tensor_bytes(t), expected[base_of(t)->id]);
        MOJI_CHECK(memcmp(host, want, moji_tensor_bytes(t)) == 0,
                   "tape %u, run %d: output %d is wrong", seed, turn + 1, id);
    }
}

static void check_runs(MojiTape *tape, guint64 *const *expected, guint32 seed)
{
    Fake f = fake_new();
    MojiWeights *weights = weights_for(tape);
    g_autoptr(GError) error = NULL;
    gboolean prepared = moji_tape_prepare(tape, &f.b, weights, &error);
    MOJI_CHECK(prepared, "tape %u: %s", seed, error ? error->message : "?");
    for (int turn = 0; prepared && turn < TURNS; turn++) {
        int all = moji_tape_length(tape) - (turn == 1 ? moji_tape_steady(tape) : 0);
        f.records = 0;
        write_inputs(tape, turn);
        MOJI_CHECK(moji_tape_run(tape, NULL, NULL), "tape %u does not run", seed);
        MOJI_CHECK(f.damaged == 0, "tape %u: %d inputs were damaged", seed, f.damaged);
        MOJI_CHECK(f.records == all, "tape %u, run %d: %d records ran, expected %d", seed, turn + 1,
                   f.records, all);
        check_outputs(tape, expected[turn], seed, turn);
    }
    moji_tape_free(tape);
    moji_weights_free(weights);
}

static gboolean placed(const MojiTensor *t)
{
    return !t->view_of && t->kind != MOJI_PARAMETER && (t->kind == MOJI_INPUT || t->first >= 0);
}

/* TRUE if the record that ends a and begins b may write b over a. */
static gboolean may_share(MojiTape *tape, const MojiTensor *a, const MojiTensor *b)
{
    if (b->first < 0 || a->last != b->first || a->output)
        return FALSE;
    MojiRecord *r = moji_tape_record(tape, b->first);
    return moji_op_in_place(r->op) && base_of(r->in[0]) == a && a->offset == b->offset &&
           a->type == b->type && moji_tensor_bytes(a) == moji_tensor_bytes(b);
}

static void check_offsets(MojiTape *tape, guint32 seed)
{
    int n = moji_tape_tensors(tape);
    for (int i = 0; i < n; i++) {
        MojiTensor *a = moji_tape_tensor(tape, i);
        if (!placed(a))
            continue;
        gsize end = a->offset + moji_tensor_bytes(a);
        MOJI_CHECK(a->offset % 64 == 0 && end <= moji_tape_block_bytes(tape),
                   "tape %u: tensor %d at %zu of %zu", seed, i, a->offset,
                   moji_tape_block_bytes(tape));
        for (int j = 0; j < n; j++) {
            MojiTensor *b = moji_tape_tensor(tape, j);
            if (i == j || !placed(b) || b->first < a->first || b->first > a->last ||
                may_share(tape, a, b))
                continue;
            MOJI_CHECK(end <= b->offset || b->offset + moji_tensor_bytes(b) <= a->offset,
                       "tape %u: tensors %d and %d overlap", seed, i, j);
        }
    }
}

/* The most bytes that are needed at once: no plan can do with less, in-place ops apart. */
static gsize most_needed(MojiTape *tape)
{
    gsize most = 0;
    for (int i = -1; i < moji_tape_length(tape); i++) {
        gsize now = 0;
        for (int id = 0; id < moji_tape_tensors(tape); id++) {
            MojiTensor *t = moji_tape_tensor(tape, id);
            if (placed(t) && (t->first <= i || t->kept) && i <= MAX(t->last, t->first))
                now += (moji_tensor_bytes(t) + 63) / 64 * 64;
        }
        most = MAX(most, now);
    }
    return most;
}

/* Outputs of records in a row that are alike lie one after another. Returns how many there are. */
static int check_alike(MojiTape *tape, guint32 seed)
{
    int found = 0;
    for (int i = 1; i < moji_tape_length(tape); i++) {
        MojiRecord *a = moji_tape_record(tape, i - 1), *b = moji_tape_record(tape, i);
        if (!moji_records_alike(a, b))
            continue;
        gsize apart = (moji_tensor_bytes(a->out) + 63) / 64 * 64;
        MOJI_CHECK(b->out->offset == a->out->offset + apart, "tape %u: %s is at %zu, %s at %zu",
                   seed, a->name, a->out->offset, b->name, b->out->offset);
        found++;
    }
    return found;
}

static void test_random(void)
{
    double planned = 0, needed = 0;
    int in_place = 0, folded = 0, kept = 0, alike = 0;
    for (guint32 seed = 0; seed < 400; seed++) {
        MojiTape *tape = random_tape(seed);
        guint64 *expected[TURNS];
        for (int turn = 0; turn < TURNS; turn++)
            expected[turn] = expect(tape, turn);
        int records = moji_tape_length(tape);
        moji_tape_plan(tape);
        folded += records - moji_tape_length(tape);
        for (int i = 0; i < moji_tape_length(tape); i++) {
            MojiRecord *r = moji_tape_record(tape, i);
            in_place += r->in[0]->kind != MOJI_PARAMETER && r->in[0]->offset == r->out->offset;
        }
        MOJI_CHECK(moji_tape_block_bytes(tape) <= moji_tape_unplanned_bytes(tape),
                   "tape %u: planning made it larger", seed);
        planned += moji_tape_block_bytes(tape);
        needed += most_needed(tape);
        check_offsets(tape, seed);
        alike += check_alike(tape, seed);
        kept += moji_tape_steady(tape) > 0 && moji_tape_steady(tape) < moji_tape_length(tape);
        check_runs(tape, expected, seed);
        for (int turn = 0; turn < TURNS; turn++)
            g_free(expected[turn]);
    }
    /* else the rows above would have tested little */
    MOJI_CHECK(in_place > 400 && folded > 100 && kept > 50 && alike > 100,
               "%d in place, %d folded, %d kept, %d alike", in_place, folded, kept, alike);
    MOJI_CHECK(planned <= 1.02 * needed, "%.3f times what is needed at once", planned / needed);
}

/* Self-attention's three layers, cross-attention's two for two blocks from a steady context, and
 * what keeps layers apart. */
static void test_alike(void)
{
    MojiTape *tape = moji_tape_new(MOJI_F32);
    gint64 tokens[] = {1, 5, 8};
    MojiTensor *x = moji_input(tape, "x", MOJI_F32, 3, tokens);
    MojiTensor *context = moji_steady(tape, moji_input(tape, "context", MOJI_F32, 3, tokens));
    MojiTensor *layer[9], *y = x;
    for (int i = 0; i < 9; i++) {
        char name[] = {(char)('a' + i), 0};
        MojiTensor *of = i < 3 || i == 8 ? x : context;
        layer[i] = moji_linear(tape, name, of, i == 7 ? 4 : 8, i == 8);
    }
    y = moji_attention(tape, layer[0], layer[1], layer[2], 2, 1, FALSE);
    y = moji_attention(tape, y, layer[3], layer[4], 2, 1, FALSE);
    y = moji_attention(tape, y, layer[5], layer[6], 2, 1, FALSE);
    moji_output(tape, moji_add(tape, moji_gelu(tape, y), layer[8]));
    moji_output(tape, layer[7]);
    moji_tape_plan(tape);
    static const char order[] = "defghabci";
    static const gboolean alike[] = {TRUE, TRUE, TRUE, FALSE, FALSE, TRUE, TRUE, FALSE};
    for (int i = 0; i < 8; i++) {
        MojiRecord *a = moji_tape_record(tape, i), *b = moji_tape_record(tape, i + 1);
        MOJI_CHECK(a->name[0] == order[i], "record %d is %s, expected %c", i, a->name, order[i]);
        MOJI_CHECK(moji_records_alike(a, b) == alike[i], "%s and %s are%s alike", a->name, b->name,
                   alike[i] ? " not" : "");
    }
    check_alike(tape, 0);
    check_offsets(tape, 0);
    moji_tape_free(tape);
}

/* ---- preparing ---- */

/* linear "proj" 4 -> 3 with a bias, then conv "conv" 3 -> 2 */
static MojiTape *small_tape(MojiTensor **x, MojiTensor **y)
{
    MojiTape *tape = moji_tape_new(MOJI_F32);
    *x = moji_input(tape, "x", MOJI_F32, 4, (gint64[]){1, 2, 2, 4});
    moji_scope(tape, "part");
    MojiTensor *h = moji_linear(tape, "proj", *x, 4, TRUE);
    h = moji_silu(tape, h);
    *y = moji_output(tape, moji_conv2d(tape, "conv", h, (MojiConv){.out = 4, .kernel = 1}));
    moji_scope_end(tape);
    moji_tape_plan(tape);
    return tape;
}

static const Stored good[] = {{"part.proj.weight", "BF16", "[4,4,1,1]", 32},
                              {"part.proj.bias", "F32", "[4]", 16},
                              {"part.conv.weight", "F16", "[4,4]", 32},
                              {"part.conv.bias", "F16", "[4]", 8},
                              {"unused", "I64", "[1]", 8},
                              {0}};

/* Prepares small_tape with `good` after row `change` was replaced; the error must have all words.
 */
static void refuse(int change, Stored row, const char *one, const char *two, const char *three)
{
    Stored rows[G_N_ELEMENTS(good)];
    memcpy(rows, good, sizeof good);
    rows[change] = row;
    MojiTensor *x, *y;
    MojiTape *tape = small_tape(&x, &y);
    MojiWeights *w = weights_of(rows);
    Fake f = fake_new();
    g_autoptr(GError) error = NULL;
    gboolean ok = w && moji_tape_prepare(tape, &f.b, w, &error);
    if (MOJI_CHECK(!ok && g_error_matches(error, MOJI_ERROR, MOJI_ERROR_FILE), "accepted: %s",
                   row.name))
        MOJI_CHECK(strstr(error->message, "folder/made.safetensors") &&
                       strstr(error->message, one) && strstr(error->message, two) &&
                       strstr(error->message, three),
                   "\"%s\" lacks the path, %s, %s or %s", error->message, one, two, three);
    MOJI_CHECK(f.memories == 0 && f.prepared == 0, "something was left behind");
    moji_tape_free(tape);
    moji_weights_free(w);
}

static void test_prepare_refuses(void)
{
    refuse(0, (Stored){"part.proj.weight", "F32", "[4,5]", 80}, "part.proj.weight", "[4,5]",
           "[4,4]");
    refuse(0, (Stored){"part.proj.weight", "F32", "[4,4,1,2]", 128}, "part.proj.weight",
           "[4,4,1,2]", "[4,4]");
    refuse(2, (Stored){"part.conv.weight", "F32", "[16]", 64}, "part.conv.weight", "[16]",
           "[4,4,1,1]");
    refuse(1, (Stored){"part.proj.bias", "I32", "[4]", 16}, "part.proj.bias", "i32", "bf16");
    refuse(1, (Stored){"part.proj.basis", "F32", "[4]", 16}, "1 of the 4", "part.proj.bias", "not");
}

static void test_many_missing(void)
{
    MojiTape *tape = moji_tape_new(MOJI_F32);
    MojiTensor *x = moji_input(tape, "x", MOJI_F32, 2, (gint64[]){1, 4});
    for (int i = 0; i < 20; i++) {
        moji_scope(tape, "layers.%d", i);
        x = moji_linear(tape, "fc", x, 4, FALSE);
        moji_scope_end(tape);
    }
    moji_output(tape, x);
    moji_tape_plan(tape);
    MojiWeights *w = weights_of((Stored[]){{"layers.3.fc.weight", "F32", "[4,4]", 64}, {0}});
    Fake f = fake_new();
    g_autoptr(GError) error = NULL;
    if (MOJI_CHECK(!moji_tape_prepare(tape, &f.b, w, &error), "accepted an empty file"))
        MOJI_CHECK(strstr(error->message, "19 of the 20") &&
                       strstr(error->message, "layers.0.fc.weight, layers.1.fc.weight") &&
                       !strstr(error->message, "layers.3.") && strlen(error->message) < 300,
                   "\"%s\"", error->message);
    moji_tape_free(tape);
    moji_weights_free(w);
}

static void test_prepare_fails_and_recovers(void)
{
    MojiTensor *x, *y;
    MojiTape *tape = small_tape(&x, &y);
    MojiWeights *w = weights_of(good);
    Fake f = fake_new();
    g_autoptr(GError) error = NULL;
    f.no_memory = TRUE;
    MOJI_CHECK(!moji_tape_prepare(tape, &f.b, w, &error) &&
                   g_error_matches(error, MOJI_ERROR, MOJI_ERROR_MEMORY),
               "no memory, no error");
    g_clear_error(&error);
    f.no_memory = FALSE;
    f.no_prepare = TRUE;
    MOJI_CHECK(!moji_tape_prepare(tape, &f.b, w, &error) &&
                   g_error_matches(error, MOJI_ERROR, MOJI_ERROR_BACKEND),
               "not prepared, no error");
    MOJI_CHECK(f.memories == 0, "the block was left behind");
    f.no_prepare = FALSE;
    MOJI_CHECK(moji_tape_prepare(tape, &f.b, w, NULL), "the third time fails too");
    MOJI_CHECK(f.memories == 1 && f.prepared == 1, "%d blocks, %d prepared", f.memories,
               f.prepared);
    moji_tape_free(tape);
    MOJI_CHECK(f.memories == 0 && f.prepared == 0, "freeing left something behind");
    moji_weights_free(w);
}

/* ---- running ---- */

static void test_cancel(void)
{
    MojiTensor *x, *y;
    MojiTape *tape = small_tape(&x, &y);
    MojiWeights *w = weights_of(good);
    Fake f = fake_new();
    g_autoptr(GCancellable) cancel = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    MOJI_CHECK(moji_tape_prepare(tape, &f.b, w, NULL), "not prepared");
    f.cancel = cancel;
    f.cancel_at = 1;
    MOJI_CHECK(!moji_tape_run(tape, cancel, &error) &&
                   g_error_matches(error, MOJI_ERROR, MOJI_ERROR_CANCELLED),
               "a cancelled run has no such error");
    MOJI_CHECK(f.runs == 2, "%d records ran before the end, expected 2", f.runs);
    g_cancellable_reset(cancel);
    f.cancel = NULL;
    MOJI_CHECK(moji_tape_run(tape, cancel, NULL), "the tape does not run after a cancelled run");
    f.runs = 0;
    MOJI_CHECK(moji_tape_run(tape, NULL, NULL) && f.runs == 1,
               "%d calls without a cancellable, expected 1", f.runs);
    moji_tape_free(tape);
    moji_weights_free(w);
}

/* silu(silu(x)), each kept. */
static MojiTape *two_records(MojiType type)
{
    MojiTape *tape = moji_tape_new(type);
    MojiTensor *x = moji_input(tape, "x", type, 1, (gint64[]){16});
    moji_output(tape, moji_silu(tape, moji_output(tape, moji_silu(tape, x))));
    moji_tape_plan(tape);
    return tape;
}

static void test_span(void)
{
    static const int spans[] = {1, 2, G_MAXINT}, calls[] = {2, 1, 1};
    for (guint i = 0; i < G_N_ELEMENTS(spans); i++) {
        Fake f = fake_new();
        g_autoptr(GCancellable) cancel = g_cancellable_new();
        MojiTape *tape = two_records(MOJI_F32);
        f.b.span = spans[i];
        MOJI_CHECK(moji_tape_prepare(tape, &f.b, NULL, NULL) && moji_tape_run(tape, cancel, NULL),
                   "it does not run");
        MOJI_CHECK(f.runs == calls[i], "span %d: %d calls, expected %d", spans[i], f.runs,
                   calls[i]);
        moji_tape_free(tape);
    }
}

static void test_lacking_type(void)
{
    Fake f = fake_new();
    GError *error = NULL;
    MojiTape *tape = two_records(MOJI_F16);
    MOJI_CHECK(!moji_tape_prepare(tape, &f.b, NULL, &error) &&
                   g_error_matches(error, MOJI_ERROR, MOJI_ERROR_USAGE) && !f.prepared,
               "f16 was prepared");
    g_clear_error(&error);
    moji_tape_free(tape);
}

static void test_read_write(void)
{
    MojiTape *tape = moji_tape_new(MOJI_F32);
    MojiTensor *a = moji_output(tape, moji_input(tape, "a", MOJI_F32, 1, (gint64[]){3}));
    MojiTensor *b = moji_input(tape, "b", MOJI_I32, 2, (gint64[]){5, 1});
    moji_output(tape, moji_reshape(tape, b, 1, (gint64[]){5}));
    MojiTensor *view = moji_tape_tensor(tape, 2);
    moji_tape_plan(tape);
    Fake f = fake_new();
    float floats[3] = {1, 2, 3}, floats_back[3];
    gint32 ints[5] = {5, 4, 3, 2, 1}, ints_back[5];
    MOJI_CHECK(moji_tape_prepare(tape, &f.b, NULL, NULL), "a tape with no parameters or records");
    moji_tape_write(tape, a, floats);
    moji_tape_write(tape, b, ints);
    MOJI_CHECK(moji_tape_run(tape, NULL, NULL), "an empty tape does not run");
    moji_tape_read(tape, a, floats_back);
    moji_tape_read(tape, view, ints_back);
    MOJI_CHECK(memcmp(floats, floats_back, sizeof floats) == 0, "a came back changed");
    MOJI_CHECK(memcmp(ints, ints_back, sizeof ints) == 0, "b came back changed through its view");
    moji_tape_free(tape);
}

/* ---- explain ---- */

static void test_explain(void)
{
    MojiTape *tape = moji_tape_new(MOJI_BF16);
    MojiTensor *x = moji_input(tape, "sample", MOJI_F32, 4, (gint64[]){2, 4, 4, 8});
    MojiTensor *t = moji_input(tape, "timestep", MOJI_F32, 1, (gint64[]){2});
    MojiTensor *h = moji_cast(tape, x, MOJI_BF16);
    moji_scope(tape, "block.%d", 0);
    MojiTensor *n = moji_group_norm(tape, "norm1", h, 4, 1e-5f, TRUE);
    n = moji_conv2d(tape, "conv1", n, (MojiConv){.out = 8, .kernel = 3, .pad = 1});
    MojiTensor *e = moji_cast(tape, moji_sinusoid(tape, t, 8, TRUE, 0), MOJI_BF16);
    e = moji_silu(tape, moji_linear(tape, "time_emb_proj", e, 8, TRUE));
    n = moji_add(tape, n, moji_reshape(tape, e, 4, (gint64[]){2, 1, 1, 8}));
    h = moji_add(tape, h, moji_conv2d(tape, "conv2", n, (MojiConv){.out = 8, .kernel = 1}));
    MojiTensor *q = moji_reshape(tape, h, 3, (gint64[]){2, 16, 8});
    MojiTensor *c = moji_input(tape, "context", MOJI_F32, 3, (gint64[]){2, 3, 8});
    c = moji_cast(tape, moji_steady(tape, c), MOJI_BF16);
    MojiTensor *k = moji_linear(tape, "to_k", c, 8, FALSE);
    moji_scope_end(tape);
    h = moji_scale(tape, moji_attention(tape, q, k, k, 2, 0.5f, FALSE), 0.25f);
    h = moji_reshape(tape, h, 4, (gint64[]){2, 4, 4, 8});
    MojiConv down = {.out = 4, .kernel = 3, .stride = 2, .pad = 1, .pad_end_only = TRUE};
    h = moji_conv2d(tape, "down", moji_concat(tape, h, h), down);
    moji_output(tape, moji_cast(tape, h, MOJI_F32));
    g_autofree char *before = moji_tape_explain(tape);
    MOJI_CHECK(strstr(before, " add ") && !strstr(before, "planned"), "before planning: %s",
               before);
    moji_tape_plan(tape);

    g_autofree char *text = moji_tape_explain(tape), *golden = NULL;
    g_autofree char *path = moji_test_path("explain_tiny.txt");
    if (g_getenv("MOJI_WRITE_GOLDEN"))
        g_file_set_contents(path, text, -1, NULL);
    g_file_get_contents(path, &golden, NULL, NULL);
    MOJI_CHECK(g_strcmp0(text, golden) == 0, "differs from %s; it is now\n%s", path, text);
    moji_tape_free(tape);
}

int main(void)
{
    moji_test("tape: shapes", test_shapes);
    moji_test("tape: names follow scopes", test_names);
    moji_test("tape: a parameter's name is one tensor", test_parameter_once);
    moji_test("tape: words for ops and types", test_words);
    moji_test("tape: our mistakes stop with both shapes", test_mistakes);
    moji_test("plan: an add becomes a residual", test_fold);
    moji_test("plan: adds that must stay", test_no_fold);
    moji_test("plan: layers that are alike", test_alike);
    moji_test("plan: 400 random tapes", test_random);
    moji_test("tape: weights that do not fit", test_prepare_refuses);
    moji_test("tape: many weights missing", test_many_missing);
    moji_test("tape: preparing fails, then does not", test_prepare_fails_and_recovers);
    moji_test("tape: cancelling between two records", test_cancel);
    moji_test("tape: a backend that takes many records at once", test_span);
    moji_test("tape: a type that the backend lacks", test_lacking_type);
    moji_test("tape: inputs and outputs", test_read_write);
    moji_test("tape: explain", test_explain);
    return moji_test_end();
}
