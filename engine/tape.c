/* tape.c: the recorders, and preparing and running what they recorded; see tape.h.
 *
 * The surprising rule: a recorder never fails. It either appends a record or, if the shapes are
 * wrong, stops the program, because shapes come from a config that was checked when it was read. */
#include "tape_private.h"
#include "backend.h"
#include <stdarg.h>
#include <string.h>

gboolean moji_type_parse(const char *name, MojiType *type)
{
    for (MojiType t = MOJI_F32; t <= MOJI_F16; t++)
        if (!strcmp(name, moji_type_name(t))) {
            *type = t;
            return TRUE;
        }
    return FALSE;
}

gsize moji_type_bytes(MojiType type)
{
    static const gsize bytes[] = {4, 2, 2, 4, 8};
    g_assert((guint)type < G_N_ELEMENTS(bytes));
    return bytes[type];
}

static gboolean is_float(MojiType type)
{
    return type == MOJI_F32 || type == MOJI_BF16 || type == MOJI_F16;
}

const char *moji_type_name(MojiType type)
{
    static const char *const names[] = {"f32", "bf16", "f16", "i32", "i64"};
    g_assert((guint)type < G_N_ELEMENTS(names));
    return names[type];
}

const char *moji_op_name(MojiOp op)
{
    static const char *const names[MOJI_OP_COUNT] = {
        "conv2d", "linear",     "group_norm", "layer_norm", "attention", "silu",
        "gelu",   "quick_gelu", "relu",       "geglu",      "add",       "scale",
        "concat", "upsample",   "embed",      "sinusoid",   "cast",      "mix",
    };
    g_assert((guint)op < MOJI_OP_COUNT);
    return names[op];
}

/* ---- tensors ---- */

gint64 moji_tensor_count(const MojiTensor *t)
{
    gint64 count = 1;
    for (int i = 0; i < t->rank; i++)
        count *= t->dim[i];
    return count;
}

gsize moji_tensor_bytes(const MojiTensor *t)
{
    return (gsize)moji_tensor_count(t) * moji_type_bytes(t->type);
}

static const char *shape_text(int rank, const gint64 *dim, char *buffer, gsize buffer_bytes)
{
    gsize used = g_strlcpy(buffer, "[", buffer_bytes);
    for (int i = 0; i < rank && used < buffer_bytes; i++)
        used += g_snprintf(buffer + used, buffer_bytes - used, "%s%" G_GINT64_FORMAT, i ? "," : "",
                           dim[i]);
    g_strlcat(buffer, "]", buffer_bytes);
    return buffer;
}

const char *moji_tensor_shape(const MojiTensor *t, char *buffer, gsize buffer_bytes)
{
    return shape_text(t->rank, t->dim, buffer, buffer_bytes);
}

MojiTensor *moji_tensor_base(MojiTensor *t)
{
    while (t->view_of)
        t = t->view_of;
    return t;
}

static void tensor_free(gpointer data)
{
    MojiTensor *t = data;
    g_free(t->name);
    g_free(t);
}

static MojiTensor *tensor_new(MojiTape *tape, MojiKind kind, MojiType type, int rank,
                              const gint64 *dim)
{
    g_assert(rank >= 1 && rank <= MOJI_MAX_RANK);
    MojiTensor *t = g_new0(MojiTensor, 1);
    t->id = tape->tensors->len;
    t->kind = kind;
    t->type = type;
    t->rank = rank;
    t->first = t->last = -1;
    for (int i = 0; i < rank; i++) {
        g_assert(dim[i] >= 1);
        t->dim[i] = dim[i];
    }
    g_ptr_array_add(tape->tensors, t);
    return t;
}

/* ---- the tape ---- */

static void record_free(gpointer data)
{
    MojiRecord *record = data;
    g_free(record->name);
    g_free(record);
}

MojiTape *moji_tape_new(MojiType compute)
{
    g_assert(is_float(compute));
    MojiTape *tape = g_new0(MojiTape, 1);
    tape->compute = compute;
    tape->tensors = g_ptr_array_new_with_free_func(tensor_free);
    tape->records = g_ptr_array_new_with_free_func(record_free);
    tape->parameters = g_hash_table_new(g_str_hash, g_str_equal);
    tape->scope = g_string_new(NULL);
    tape->scope_lengths = g_array_new(FALSE, FALSE, sizeof(gsize));
    return tape;
}

void moji_tape_free(MojiTape *tape)
{
    if (!tape)
        return;
    if (tape->prepared)
        tape->backend->unprepare(tape->backend, tape->prepared);
    if (tape->block)
        tape->backend->memory_free(tape->backend, tape->block);
    g_hash_table_unref(tape->parameters);
    g_ptr_array_unref(tape->records);
    g_ptr_array_unref(tape->tensors);
    g_string_free(tape->scope, TRUE);
    g_array_unref(tape->scope_lengths);
    g_free(tape);
}

MojiType moji_tape_compute(const MojiTape *tape)
{
    return tape->compute;
}

int moji_tape_length(const MojiTape *tape)
{
    return tape->records->len;
}

int moji_tape_steady(const MojiTape *tape)
{
    g_assert(tape->planned);
    return tape->steady;
}

MojiRecord *moji_tape_record(MojiTape *tape, int i)
{
    g_assert(i >= 0 && (guint)i < tape->records->len);
    return tape->records->pdata[i];
}

int moji_tape_tensors(const MojiTape *tape)
{
    return tape->tensors->len;
}

MojiTensor *moji_tape_tensor(MojiTape *tape, int id)
{
    g_assert(id >= 0 && (guint)id < tape->tensors->len);
    return tape->tensors->pdata[id];
}

/* ---- names ---- */

void moji_scope(MojiTape *tape, const char *format, ...)
{
    gsize before = tape->scope->len;
    g_array_append_val(tape->scope_lengths, before);
    va_list args;
    va_start(args, format);
    g_string_append_vprintf(tape->scope, format, args);
    va_end(args);
    g_string_append_c(tape->scope, '.');
}

void moji_scope_end(MojiTape *tape)
{
    g_assert(tape->scope_lengths->len > 0);
    guint last = tape->scope_lengths->len - 1;
    g_string_truncate(tape->scope, g_array_index(tape->scope_lengths, gsize, last));
    g_array_set_size(tape->scope_lengths, last);
}

/* SCOPE.name, or the scope alone for ops that are no module of their own. Caller frees. */
static char *scoped(MojiTape *tape, const char *name)
{
    if (name)
        return g_strconcat(tape->scope->str, name, NULL);
    return g_strndup(tape->scope->str, tape->scope->len ? tape->scope->len - 1 : 0);
}

/* ---- inputs, outputs, parameters, views ---- */

MojiTensor *moji_input(MojiTape *tape, const char *name, MojiType type, int rank, const gint64 *dim)
{
    g_assert(!tape->planned);
    MojiTensor *t = tensor_new(tape, MOJI_INPUT, type, rank, dim);
    t->name = g_strdup(name);
    return t;
}

MojiTensor *moji_output(MojiTape *tape, MojiTensor *t)
{
    g_assert(!tape->planned && t->kind != MOJI_PARAMETER);
    t->output = TRUE;
    return t;
}

MojiTensor *moji_steady(MojiTape *tape, MojiTensor *input)
{
    g_assert(!tape->planned && input->kind == MOJI_INPUT && !input->view_of);
    input->steady = TRUE;
    return input;
}

MojiTensor *moji_parameter(MojiTape *tape, const char *name, int rank, const gint64 *dim)
{
    g_assert(!tape->planned);
    g_autofree char *full = scoped(tape, name);
    MojiTensor *t = g_hash_table_lookup(tape->parameters, full);
    if (t) { /* a module used twice has one set of weights */
        g_assert(t->rank == rank && memcmp(t->dim, dim, rank * sizeof *dim) == 0);
        return t;
    }
    t = tensor_new(tape, MOJI_PARAMETER, tape->compute, rank, dim);
    t->name = g_steal_pointer(&full);
    g_hash_table_insert(tape->parameters, t->name, t);
    return t;
}

/* ---- recording ---- */

/* Stops the program with the scope and both shapes unless condition holds. */
#define CHECK_SHAPES(condition, tape, a, b)                                                        \
    do {                                                                                           \
        if (!(condition))                                                                          \
            shape_mismatch(tape, __LINE__, G_STRFUNC, #condition, a, b);                           \
    } while (0)

static void shape_mismatch(MojiTape *tape, int line, const char *function, const char *condition,
                           const MojiTensor *a, const MojiTensor *b)
{
    char one[96], two[96] = "nothing";
    g_autofree char *text = g_strdup_printf(
        "%s at \"%s\": %s %s and %s %s", condition, tape->scope->str,
        moji_tensor_shape(a, one, sizeof one), moji_type_name(a->type),
        b ? moji_tensor_shape(b, two, sizeof two) : two, b ? moji_type_name(b->type) : "");
    g_assertion_message(G_LOG_DOMAIN, __FILE__, line, function, text);
}

static gboolean same_shape(const MojiTensor *a, const MojiTensor *b)
{
    return a->rank == b->rank && memcmp(a->dim, b->dim, a->rank * sizeof *a->dim) == 0;
}

/* Appends; name is the module in the present scope, NULL for none. Returns r.out. */
static MojiTensor *append(MojiTape *tape, const char *name, MojiRecord r)
{
    g_assert(!tape->planned);
    MojiRecord *copy = g_new(MojiRecord, 1);
    *copy = r;
    copy->name = scoped(tape, name);
    g_ptr_array_add(tape->records, copy);
    return r.out;
}

static MojiTensor *activation(MojiTape *tape, MojiType type, int rank, const gint64 *dim)
{
    return tensor_new(tape, MOJI_ACTIVATION, type, rank, dim);
}

static MojiTensor *activation_like(MojiTape *tape, const MojiTensor *x)
{
    return activation(tape, x->type, x->rank, x->dim);
}

/* As x, with another number of channels (the last axis). */
static MojiTensor *activation_channels(MojiTape *tape, const MojiTensor *x, gint64 channels)
{
    MojiTensor *out = activation_like(tape, x);
    out->dim[x->rank - 1] = channels;
    return out;
}

static gint64 channels(const MojiTensor *x)
{
    return x->dim[x->rank - 1];
}

MojiTensor *moji_reshape(MojiTape *tape, MojiTensor *x, int rank, const gint64 *dim)
{
    g_assert(!tape->planned && x->kind != MOJI_PARAMETER);
    MojiTensor *view = tensor_new(tape, x->kind, x->type, rank, dim);
    view->view_of = moji_tensor_base(x);
    CHECK_SHAPES(moji_tensor_count(view) == moji_tensor_count(x), tape, x, view);
    return view;
}

static MojiTensor *weight_of(MojiTape *tape, const char *name, int rank, const gint64 *dim)
{
    g_autofree char *full = g_strconcat(name, ".weight", NULL);
    return moji_parameter(tape, full, rank, dim);
}

static MojiTensor *bias_of(MojiTape *tape, const char *name, gint64 out)
{
    g_autofree char *full = g_strconcat(name, ".bias", NULL);
    return moji_parameter(tape, full, 1, &out);
}

MojiTensor *moji_conv2d(MojiTape *tape, const char *name, MojiTensor *x, MojiConv conv)
{
    CHECK_SHAPES(x->rank == 4 && x->type == tape->compute, tape, x, NULL);
    int stride = conv.stride ? conv.stride : 1;
    int begin = conv.pad_end_only ? 0 : conv.pad;
    gint64 h = (x->dim[1] + begin + conv.pad - conv.kernel) / stride + 1;
    gint64 w = (x->dim[2] + begin + conv.pad - conv.kernel) / stride + 1;
    CHECK_SHAPES(h >= 1 && w >= 1, tape, x, NULL);
    MojiTensor *weight =
        weight_of(tape, name, 4, (gint64[]){conv.out, x->dim[3], conv.kernel, conv.kernel});
    MojiTensor *bias = conv.no_bias ? NULL : bias_of(tape, name, conv.out);
    MojiTensor *out = activation(tape, x->type, 4, (gint64[]){x->dim[0], h, w, conv.out});
    return append(tape, name,
                  (MojiRecord){.op = MOJI_OP_CONV2D,
                               .in = {x, weight, bias},
                               .out = out,
                               .attr.conv = {conv.kernel, stride, begin, conv.pad}});
}

MojiTensor *moji_linear(MojiTape *tape, const char *name, MojiTensor *x, int out, gboolean bias)
{
    CHECK_SHAPES(x->type == tape->compute, tape, x, NULL);
    MojiTensor *weight = weight_of(tape, name, 2, (gint64[]){out, channels(x)});
    MojiTensor *b = bias ? bias_of(tape, name, out) : NULL;
    return append(tape, name,
                  (MojiRecord){.op = MOJI_OP_LINEAR,
                               .in = {x, weight, b},
                               .out = activation_channels(tape, x, out)});
}

MojiTensor *moji_group_norm(MojiTape *tape, const char *name, MojiTensor *x, int groups, float eps,
                            gboolean silu)
{
    CHECK_SHAPES(x->rank == 4 && x->type == tape->compute, tape, x, NULL);
    CHECK_SHAPES(groups > 0 && channels(x) % groups == 0, tape, x, NULL);
    MojiTensor *weight = weight_of(tape, name, 1, (gint64[]){channels(x)});
    MojiTensor *bias = bias_of(tape, name, channels(x));
    return append(tape, name,
                  (MojiRecord){.op = MOJI_OP_GROUP_NORM,
                               .in = {x, weight, bias},
                               .out = activation_like(tape, x),
                               .attr.norm = {.groups = groups, .eps = eps, .silu = silu}});
}

MojiTensor *moji_layer_norm(MojiTape *tape, const char *name, MojiTensor *x, float eps)
{
    CHECK_SHAPES(x->type == tape->compute, tape, x, NULL);
    MojiTensor *weight = weight_of(tape, name, 1, (gint64[]){channels(x)});
    MojiTensor *bias = bias_of(tape, name, channels(x));
    return append(tape, name,
                  (MojiRecord){.op = MOJI_OP_LAYER_NORM,
                               .in = {x, weight, bias},
                               .out = activation_like(tape, x),
                               .attr.norm = {.eps = eps}});
}

MojiTensor *moji_embed(MojiTape *tape, const char *name, MojiTensor *ids, int rows, int width)
{
    CHECK_SHAPES(ids->rank == 2 && ids->type == MOJI_I32, tape, ids, NULL);
    MojiTensor *table = weight_of(tape, name, 2, (gint64[]){rows, width});
    gint64 dim[] = {ids->dim[0], ids->dim[1], width};
    return append(tape, name,
                  (MojiRecord){.op = MOJI_OP_EMBED,
                               .in = {table, ids},
                               .out = activation(tape, tape->compute, 3, dim)});
}

MojiTensor *moji_pick(MojiTape *tape, MojiTensor *table, MojiTensor *ids)
{
    CHECK_SHAPES(ids->rank == 2 && ids->type == MOJI_I32, tape, ids, NULL);
    CHECK_SHAPES(table->rank == 2 && table->kind != MOJI_PARAMETER, tape, table, NULL);
    gint64 dim[] = {ids->dim[0], ids->dim[1], channels(table)};
    return append(tape, NULL,
                  (MojiRecord){.op = MOJI_OP_EMBED,
                               .in = {table, ids},
                               .out = activation(tape, table->type, 3, dim)});
}

MojiTensor *moji_attention(MojiTape *tape, MojiTensor *q, MojiTensor *k, MojiTensor *v, int heads,
                           float scale, gboolean causal)
{
    CHECK_SHAPES(q->rank == 3 && k->rank == 3, tape, q, k);
    CHECK_SHAPES(q->dim[0] == k->dim[0] && q->dim[2] == k->dim[2], tape, q, k);
    CHECK_SHAPES(q->type == k->type && k->type == v->type, tape, q, k);
    CHECK_SHAPES(same_shape(k, v), tape, k, v);
    CHECK_SHAPES(heads > 0 && channels(q) % heads == 0, tape, q, k);
    CHECK_SHAPES(!causal || q->dim[1] == k->dim[1], tape, q, k);
    return append(tape, NULL,
                  (MojiRecord){.op = MOJI_OP_ATTENTION,
                               .in = {q, k, v},
                               .out = activation_like(tape, q),
                               .attr.attention = {heads, scale, causal}});
}

/* The ops with one input, whose output is like it. */
static MojiTensor *elementwise(MojiTape *tape, MojiOp op, MojiTensor *x)
{
    CHECK_SHAPES(is_float(x->type), tape, x, NULL);
    return append(tape, NULL, (MojiRecord){.op = op, .in = {x}, .out = activation_like(tape, x)});
}

MojiTensor *moji_silu(MojiTape *tape, MojiTensor *x)
{
    return elementwise(tape, MOJI_OP_SILU, x);
}

MojiTensor *moji_gelu(MojiTape *tape, MojiTensor *x)
{
    return elementwise(tape, MOJI_OP_GELU, x);
}

MojiTensor *moji_quick_gelu(MojiTape *tape, MojiTensor *x)
{
    return elementwise(tape, MOJI_OP_QUICK_GELU, x);
}

MojiTensor *moji_relu(MojiTape *tape, MojiTensor *x)
{
    return elementwise(tape, MOJI_OP_RELU, x);
}

MojiTensor *moji_geglu(MojiTape *tape, MojiTensor *x)
{
    CHECK_SHAPES(channels(x) % 2 == 0, tape, x, NULL);
    return append(tape, NULL,
                  (MojiRecord){.op = MOJI_OP_GEGLU,
                               .in = {x},
                               .out = activation_channels(tape, x, channels(x) / 2)});
}

MojiTensor *moji_add(MojiTape *tape, MojiTensor *a, MojiTensor *b)
{
    CHECK_SHAPES(a->rank == b->rank && a->type == b->type, tape, a, b);
    for (int i = 0; i < a->rank; i++)
        CHECK_SHAPES(b->dim[i] == a->dim[i] || b->dim[i] == 1, tape, a, b);
    return append(tape, NULL,
                  (MojiRecord){.op = MOJI_OP_ADD, .in = {a, b}, .out = activation_like(tape, a)});
}

MojiTensor *moji_scale(MojiTape *tape, MojiTensor *x, float by)
{
    MojiTensor *out = elementwise(tape, MOJI_OP_SCALE, x);
    moji_tape_record(tape, moji_tape_length(tape) - 1)->attr.scale.by = by;
    return out;
}

MojiTensor *moji_concat(MojiTape *tape, MojiTensor *a, MojiTensor *b)
{
    CHECK_SHAPES(a->rank == 4 && b->rank == 4 && a->type == b->type, tape, a, b);
    CHECK_SHAPES(memcmp(a->dim, b->dim, 3 * sizeof *a->dim) == 0, tape, a, b);
    return append(tape, NULL,
                  (MojiRecord){.op = MOJI_OP_CONCAT,
                               .in = {a, b},
                               .out = activation_channels(tape, a, channels(a) + channels(b))});
}

MojiTensor *moji_upsample(MojiTape *tape, MojiTensor *x)
{
    CHECK_SHAPES(x->rank == 4, tape, x, NULL);
    gint64 dim[] = {x->dim[0], 2 * x->dim[1], 2 * x->dim[2], x->dim[3]};
    return append(
        tape, NULL,
        (MojiRecord){.op = MOJI_OP_UPSAMPLE, .in = {x}, .out = activation(tape, x->type, 4, dim)});
}

MojiTensor *moji_sinusoid(MojiTape *tape, MojiTensor *t, int width, gboolean flip, float shift)
{
    CHECK_SHAPES(t->rank == 1 && t->type == MOJI_F32, tape, t, NULL);
    CHECK_SHAPES(width >= 2 && width % 2 == 0, tape, t, NULL);
    return append(tape, NULL,
                  (MojiRecord){.op = MOJI_OP_SINUSOID,
                               .in = {t},
                               .out = activation(tape, MOJI_F32, 2, (gint64[]){t->dim[0], width}),
                               .attr.sinusoid = {flip, shift}});
}

MojiTensor *moji_cast(MojiTape *tape, MojiTensor *x, MojiType type)
{
    if (x->type == type)
        return x;
    CHECK_SHAPES(is_float(x->type), tape, x, NULL);
    g_assert(is_float(type));
    return append(tape, NULL,
                  (MojiRecord){.op = MOJI_OP_CAST,
                               .in = {x},
                               .out = activation(tape, type, x->rank, x->dim)});
}

MojiTensor *moji_mix(MojiTape *tape, MojiTensor *a, MojiTensor *b, MojiTensor *factors)
{
    CHECK_SHAPES(a->type == MOJI_F32 && factors->type == MOJI_F32, tape, a, factors);
    CHECK_SHAPES(factors->rank == 2 && factors->dim[0] <= MOJI_MIX_ROWS, tape, a, factors);
    CHECK_SHAPES(factors->dim[1] == a->dim[0] + (b ? b->dim[0] : 0) + 1, tape, a, factors);
    MojiTensor *out = activation_like(tape, a);
    out->dim[0] = b ? b->dim[0] : 1;
    CHECK_SHAPES(!b || (b->type == MOJI_F32 && same_shape(b, out)), tape, a, b);
    out->dim[0] = factors->dim[0];
    return append(tape, NULL, (MojiRecord){.op = MOJI_OP_MIX, .in = {a, factors, b}, .out = out});
}

/* ---- preparing ---- */

/* Files store a 1x1 convolution as [O,C,1,1] or as a linear layer's [O,C]; either serves as both.
 */
static gboolean shapes_agree(const MojiTensor *t, const MojiWeight *w)
{
    int a = t->rank, b = w->rank;
    while (a > 2 && t->dim[a - 1] == 1)
        a--;
    while (b > 2 && w->dim[b - 1] == 1)
        b--;
    return a == b && memcmp(t->dim, w->dim, a * sizeof *t->dim) == 0;
}

static gboolean check_weight(const MojiTensor *t, const MojiWeight *w, const char *path,
                             GError **error)
{
    char found[96], expected[96];
    if (!shapes_agree(t, w)) {
        moji_error_file(error, path, "tensor %s has shape %s, but the config asks for %s", t->name,
                        shape_text(w->rank, w->dim, found, sizeof found),
                        moji_tensor_shape(t, expected, sizeof expected));
        return FALSE;
    }
    if (w->type != MOJI_F32 && w->type != MOJI_F16 && w->type != MOJI_BF16) {
        moji_error_file(error, path, "tensor %s has type %s, expected f32, f16 or bf16", t->name,
                        moji_type_name(w->type));
        return FALSE;
    }
    return TRUE;
}

/* Fills weight[id] for every parameter. All missing names are counted, a few are listed: the first
 * few tell which module is absent, and a wrong file would list hundreds. */
static gboolean find_weights(MojiTape *tape, MojiWeights *weights, MojiWeight **weight,
                             GError **error)
{
    g_autoptr(GString) missing = g_string_new(NULL);
    const char *why = NULL;
    guint n_missing = 0, n = g_hash_table_size(tape->parameters);
    g_assert(weights || n == 0);
    for (guint i = 0; i < tape->tensors->len; i++) {
        MojiTensor *t = tape->tensors->pdata[i];
        if (t->kind != MOJI_PARAMETER)
            continue;
        weight[i] = moji_weights_find(weights, t->name);
        if (weight[i] && !check_weight(t, weight[i], moji_weights_path(weights), error))
            return FALSE;
        if (!weight[i] && n_missing == 0)
            why = moji_weights_absence(weights, t->name);
        if (!weight[i] && n_missing++ < 5)
            g_string_append_printf(missing, "%s%s", missing->len ? ", " : "", t->name);
    }
    if (n_missing == 0)
        return TRUE;
    moji_error_file(
        error, moji_weights_path(weights),
        "%u of the %u tensors that the config asks for cannot be had (the first is %s): "
        "%s%s",
        n_missing, n, why, missing->str, n_missing > 5 ? ", ..." : "");
    return FALSE;
}

gboolean moji_tape_prepare(MojiTape *tape, MojiBackend *backend, MojiWeights *weights,
                           GError **error)
{
    g_assert(tape->planned && !tape->block);
    if (!backend->supports(backend, tape->compute)) {
        g_set_error(error, MOJI_ERROR, MOJI_ERROR_USAGE, "The %s backend does not compute in %s",
                    backend->name, moji_type_name(tape->compute));
        return FALSE;
    }
    g_autofree MojiWeight **weight = g_new0(MojiWeight *, tape->tensors->len);
    if (!find_weights(tape, weights, weight, error))
        return FALSE;
    tape->block = backend->memory_new(backend, MAX(tape->block_bytes, 64), error);
    if (!tape->block)
        return FALSE;
    tape->backend = backend;
    if (!backend->prepare(backend, tape, tape->block, weight, &tape->prepared, error)) {
        backend->memory_free(backend, tape->block);
        tape->block = tape->prepared = NULL;
        return FALSE;
    }
    return TRUE;
}

/* ---- running ---- */

void moji_tape_write_part(MojiTape *tape, MojiTensor *input, gint64 at, gint64 count,
                          const void *host)
{
    gsize size = moji_type_bytes(input->type);
    g_assert(tape->block && input->kind == MOJI_INPUT);
    g_assert(at >= 0 && count >= 0 && at + count <= moji_tensor_count(input));
    tape->backend->write(tape->backend, (char *)tape->block + input->offset + at * size, host,
                         count * size);
    if (input->steady)
        tape->ready = FALSE;
}

/* Where it is in the backend's memory. Anything but outputs may have been overwritten by now. */
static const void *part_of(MojiTape *tape, const MojiTensor *output, gint64 at, gint64 count)
{
    g_assert(tape->block && output->output);
    g_assert(at >= 0 && count >= 0 && at + count <= moji_tensor_count(output));
    return (char *)tape->block + output->offset + at * moji_type_bytes(output->type);
}

void moji_tape_read_part(MojiTape *tape, MojiTensor *output, gint64 at, gint64 count, void *host)
{
    tape->backend->read(tape->backend, part_of(tape, output, at, count), host,
                        count * moji_type_bytes(output->type));
}

void moji_tape_peek(MojiTape *tape, MojiTensor *output, gint64 at, gint64 count)
{
    tape->backend->peek(tape->backend, part_of(tape, output, at, count),
                        count * moji_type_bytes(output->type));
}

void moji_tape_peeked(MojiTape *tape, void *host)
{
    tape->backend->peeked(tape->backend, host);
}

void moji_tape_write(MojiTape *tape, MojiTensor *input, const void *host)
{
    moji_tape_write_part(tape, input, 0, moji_tensor_count(input), host);
}

void moji_tape_read(MojiTape *tape, MojiTensor *output, void *host)
{
    moji_tape_read_part(tape, output, 0, moji_tensor_count(output), host);
}

static gboolean run_records(MojiTape *tape, int first, int end, GCancellable *cancellable,
                            GError **error)
{
    int span = cancellable ? MIN(tape->backend->span, MAX(end, 1)) : MAX(end, 1);
    for (int i = first; i < end; i += span) {
        if (cancellable && g_cancellable_is_cancelled(cancellable)) {
            g_set_error_literal(error, MOJI_ERROR, MOJI_ERROR_CANCELLED, "Cancelled");
            return FALSE;
        }
        if (!tape->backend->run(tape->backend, tape->prepared, i, MIN(i + span, end), error))
            return FALSE;
    }
    return TRUE;
}

gboolean moji_tape_run(MojiTape *tape, GCancellable *cancellable, GError **error)
{
    g_assert(tape->block);
    tape->ready = tape->ready || run_records(tape, 0, tape->steady, cancellable, error);
    return tape->ready && run_records(tape, tape->steady, tape->records->len, cancellable, error);
}

void moji_tape_norms(MojiTape *tape, MojiNorms by)
{
    g_assert(tape->block);
    for (guint i = 0; i < tape->records->len; i++) {
        MojiRecord *r = moji_tape_record(tape, i);
        if (r->op == MOJI_OP_GROUP_NORM)
            r->attr.norm.by = by;
    }
}

gboolean moji_tape_profile(MojiTape *tape, double *seconds, GError **error)
{
    g_assert(tape->block);
    tape->ready = TRUE;
    return tape->backend->profile(tape->backend, tape->prepared, seconds, error);
}
