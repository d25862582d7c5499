/* pickle.c: see pickle.h.
 *
 * The surprising rule: values may hold each other, and themselves. So all belong to the pickle, are
 * freed with it, and nothing here goes from one into another. */
#include "pickle.h"
#include <string.h>

/* What a name may be used for. */
typedef enum {
    USE_NONE,      /* may stand there, not be called */
    USE_OPAQUE,    /* a call gives something that is of no use here */
    USE_DICT,      /* an empty dictionary */
    USE_MODULE,    /* the same, to which attributes give its parameters */
    USE_TENSOR,    /* storage, offset, size, stride, ... */
    USE_PARAMETER, /* a tensor, ... */
    USE_STORAGE,   /* the type of a block of numbers */
} Use;

struct MojiPickleName {
    const char *module, *name;
    Use use;
    int type, element; /* of a storage */
};

static const MojiPickleName names[] = {
    {"torch._utils", "_rebuild_tensor_v2", USE_TENSOR, 0, 0},
    {"torch._utils", "_rebuild_parameter", USE_PARAMETER, 0, 0},
    {"collections", "OrderedDict", USE_DICT, 0, 0},
    {"torch.nn.modules.container", "ParameterDict", USE_MODULE, 0, 0}, /* learnt words are in one */
    {"torch", "FloatStorage", USE_STORAGE, MOJI_F32, 4},
    {"torch", "HalfStorage", USE_STORAGE, MOJI_F16, 2},
    {"torch", "BFloat16Storage", USE_STORAGE, MOJI_BF16, 2},
    {"torch", "LongStorage", USE_STORAGE, MOJI_I64, 8},
    {"torch", "IntStorage", USE_STORAGE, MOJI_I32, 4},
    {"torch", "DoubleStorage", USE_STORAGE, -1, 8},
    {"torch", "ShortStorage", USE_STORAGE, -1, 2},
    {"torch", "CharStorage", USE_STORAGE, -1, 1},
    {"torch", "ByteStorage", USE_STORAGE, -1, 1},
    {"torch", "BoolStorage", USE_STORAGE, -1, 1},
    /* What trainers leave in checkpoints beside the weights. */
    {"pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", USE_NONE, 0, 0},
    {"pytorch_lightning.callbacks", "ModelCheckpoint", USE_NONE, 0, 0},
    {"numpy.core.multiarray", "scalar", USE_OPAQUE, 0, 0},
    {"numpy._core.multiarray", "scalar", USE_OPAQUE, 0, 0},
    {"numpy", "dtype", USE_OPAQUE, 0, 0},
    {"_codecs", "encode", USE_OPAQUE, 0, 0},
    {"builtins", "set", USE_OPAQUE, 0, 0},
    {"__builtin__", "set", USE_OPAQUE, 0, 0},
    {"torch", "device", USE_OPAQUE, 0, 0},
    {"torch", "Size", USE_OPAQUE, 0, 0},
};

/* The opcodes that are understood: names after pickletools. */
enum {
    PROTO = 0x80,
    STOP = '.',
    FRAME = 0x95,
    MARK = '(',
    POP = '0',
    POP_MARK = '1',
    NONE = 'N',
    NEWTRUE = 0x88,
    NEWFALSE = 0x89,
    BININT = 'J',
    BININT1 = 'K',
    BININT2 = 'M',
    LONG1 = 0x8a,
    BINFLOAT = 'G',
    BINUNICODE = 'X',
    SHORT_BINUNICODE = 0x8c,
    BINUNICODE8 = 0x8d,
    BINSTRING = 'T',
    SHORT_BINSTRING = 'U',
    BINBYTES = 'B',
    SHORT_BINBYTES = 'C',
    EMPTY_TUPLE = ')',
    TUPLE = 't',
    TUPLE1 = 0x85,
    TUPLE2 = 0x86,
    TUPLE3 = 0x87,
    EMPTY_LIST = ']',
    APPEND = 'a',
    APPENDS = 'e',
    EMPTY_DICT = '}',
    SETITEM = 's',
    SETITEMS = 'u',
    BINPUT = 'q',
    LONG_BINPUT = 'r',
    MEMOIZE = 0x94,
    BINGET = 'h',
    LONG_BINGET = 'j',
    GLOBAL = 'c',
    STACK_GLOBAL = 0x93,
    REDUCE = 'R',
    NEWOBJ = 0x81,
    BUILD = 'b',
    BINPERSID = 'Q',
};

typedef struct {
    const guint8 *start, *p, *end;
    const char *path;
    GError **error;
    GPtrArray *values;       /* all, owned */
    GPtrArray *stack, *memo; /* of values */
    GArray *marks;           /* guint: heights of the stack */
    gboolean stopped;
} Machine;

static void free_value(gpointer data)
{
    MojiPickleValue *v = data;
    if ((v->kind == MOJI_PICKLE_TUPLE || v->kind == MOJI_PICKLE_LIST ||
         v->kind == MOJI_PICKLE_DICT) &&
        v->items)
        g_ptr_array_unref(v->items);
    g_free(v);
}

static G_GNUC_PRINTF(2, 3) gboolean fail(Machine *m, const char *format, ...)
{
    va_list args;
    if (m->error && *m->error)
        return FALSE;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    moji_error_file(m->error, m->path, "pickle: %s, at byte %" G_GSIZE_FORMAT, text,
                    (gsize)(m->p - m->start));
    return FALSE;
}

/* ---- bytes and the stack ---- */

/* The next n bytes, or NULL with the error set. */
static const guint8 *take(Machine *m, guint64 n)
{
    const guint8 *p = m->p;
    if (n > (guint64)(m->end - p)) {
        fail(m, "it is cut short");
        return NULL;
    }
    m->p += n;
    return p;
}

static gboolean take_number(Machine *m, int bytes, guint64 *value)
{
    const guint8 *p = take(m, bytes);
    *value = 0;
    for (int i = bytes - 1; p && i >= 0; i--)
        *value = *value << 8 | p[i];
    return p != NULL;
}

static MojiPickleValue *push(Machine *m, MojiPickleKind kind)
{
    MojiPickleValue *v = g_new0(MojiPickleValue, 1);
    v->kind = kind;
    g_ptr_array_add(m->values, v);
    g_ptr_array_add(m->stack, v);
    return v;
}

/* The highest mark, below which nothing is taken. */
static guint floor_of(const Machine *m)
{
    return m->marks->len ? g_array_index(m->marks, guint, m->marks->len - 1) : 0;
}

static MojiPickleValue *pop(Machine *m)
{
    if (m->stack->len > floor_of(m))
        return g_ptr_array_steal_index(m->stack, m->stack->len - 1);
    fail(m, "it takes from an empty stack");
    return NULL;
}

static MojiPickleValue *top(Machine *m)
{
    if (m->stack->len > floor_of(m))
        return m->stack->pdata[m->stack->len - 1];
    fail(m, "it takes from an empty stack");
    return NULL;
}

static gboolean pop_mark(Machine *m, guint *from)
{
    if (!m->marks->len)
        return fail(m, "it ends a list that has no beginning");
    *from = floor_of(m);
    g_array_set_size(m->marks, m->marks->len - 1);
    return TRUE;
}

/* Moves what is on the stack from `from` on to the end of v's items. */
static void move_items(Machine *m, guint from, MojiPickleValue *v)
{
    if (!v->items)
        v->items = g_ptr_array_sized_new(m->stack->len - from);
    for (guint i = from; i < m->stack->len; i++)
        g_ptr_array_add(v->items, m->stack->pdata[i]);
    g_ptr_array_set_size(m->stack, from);
}

/* ---- what opcodes do ---- */

static gboolean push_text(Machine *m, int length_bytes)
{
    guint64 length;
    const guint8 *text;
    if (!take_number(m, length_bytes, &length) || !(text = take(m, length)))
        return FALSE;
    MojiPickleValue *v = push(m, MOJI_PICKLE_TEXT);
    v->text = (const char *)text;
    v->bytes = length;
    return TRUE;
}

static gboolean push_int(Machine *m, int bytes, gboolean is_signed)
{
    guint64 value;
    if (!take_number(m, bytes, &value))
        return FALSE;
    push(m, MOJI_PICKLE_INT)->whole = is_signed ? (gint32)value : (gint64)value;
    return TRUE;
}

/* A whole number of any length; of more than eight bytes only PyTorch's own mark is known. */
static gboolean push_long(Machine *m)
{
    guint64 length, value = 0;
    const guint8 *p;
    if (!take_number(m, 1, &length) || !(p = take(m, length)))
        return FALSE;
    if (length > 8) {
        push(m, MOJI_PICKLE_OPAQUE);
        return TRUE;
    }
    for (int i = 7; i >= 0; i--)
        value = value << 8 | (i < (int)length ? p[i] : length && p[length - 1] >= 128 ? 255 : 0);
    push(m, MOJI_PICKLE_INT)->whole = (gint64)value;
    return TRUE;
}

static gboolean push_float(Machine *m)
{
    const guint8 *p = take(m, 8);
    guint64 bits = 0;
    for (int i = 0; p && i < 8; i++) /* big endian, alone of all */
        bits = bits << 8 | p[i];
    if (p)
        memcpy(&push(m, MOJI_PICKLE_FLOAT)->real, &bits, sizeof bits);
    return p != NULL;
}

static gboolean push_tuple(Machine *m, guint from)
{
    MojiPickleValue *v = g_new0(MojiPickleValue, 1);
    v->kind = MOJI_PICKLE_TUPLE;
    g_ptr_array_add(m->values, v);
    move_items(m, from, v);
    g_ptr_array_add(m->stack, v);
    return TRUE;
}

static gboolean push_short_tuple(Machine *m, guint n)
{
    if (m->stack->len - floor_of(m) < n)
        return fail(m, "it takes from an empty stack");
    return push_tuple(m, m->stack->len - n);
}

/* Adds what is above `from` to the list or dictionary below it. */
static gboolean extend(Machine *m, guint from, MojiPickleKind kind)
{
    MojiPickleValue *v = from > floor_of(m) ? m->stack->pdata[from - 1] : NULL;
    if (!v || (v->kind != kind && v->kind != MOJI_PICKLE_OPAQUE))
        return fail(m, "it adds to what is no %s",
                    kind == MOJI_PICKLE_LIST ? "list" : "dictionary");
    if (kind == MOJI_PICKLE_DICT && (m->stack->len - from) % 2)
        return fail(m, "a key has no value");
    if (v->kind == MOJI_PICKLE_OPAQUE)
        g_ptr_array_set_size(m->stack, from);
    else
        move_items(m, from, v);
    return TRUE;
}

static gboolean extend_by(Machine *m, guint n, MojiPickleKind kind)
{
    if (m->stack->len - floor_of(m) < n + 1)
        return fail(m, "it takes from an empty stack");
    return extend(m, m->stack->len - n, kind);
}

static gboolean memoize(Machine *m, guint64 index)
{
    MojiPickleValue *v = top(m);
    if (!v)
        return FALSE;
    if (index >= MOJI_PICKLE_MAX_STEPS)
        return fail(m, "it remembers more than %d values", MOJI_PICKLE_MAX_STEPS);
    if (index >= m->memo->len)
        g_ptr_array_set_size(m->memo, (int)index + 1);
    m->memo->pdata[index] = v;
    return TRUE;
}

static gboolean recall(Machine *m, int index_bytes)
{
    guint64 index;
    if (!take_number(m, index_bytes, &index))
        return FALSE;
    if (index >= m->memo->len || !m->memo->pdata[index])
        return fail(m, "it recalls a value that it has not remembered");
    g_ptr_array_add(m->stack, m->memo->pdata[index]);
    return TRUE;
}

static gboolean equal(const char *text, gsize bytes, const char *wanted)
{
    return bytes == strlen(wanted) && !memcmp(text, wanted, bytes);
}

gboolean moji_pickle_is(const MojiPickleValue *v, const char *text)
{
    return v->kind == MOJI_PICKLE_TEXT && equal(v->text, v->bytes, text);
}

static gboolean push_name(Machine *m, const char *module, gsize module_bytes, const char *name,
                          gsize name_bytes)
{
    for (guint i = 0; i < G_N_ELEMENTS(names); i++)
        if (equal(module, module_bytes, names[i].module) &&
            equal(name, name_bytes, names[i].name)) {
            push(m, MOJI_PICKLE_NAME)->name = &names[i];
            return TRUE;
        }
    g_autofree char *a = g_utf8_make_valid(module, (gssize)MIN(module_bytes, 80));
    g_autofree char *b = g_utf8_make_valid(name, (gssize)MIN(name_bytes, 80));
    return fail(m, "it asks for %s.%s, which a file of weights has no use for; nothing was run", a,
                b);
}

/* Two lines of text. */
static gboolean push_global(Machine *m)
{
    const char *line[2];
    gsize bytes[2];
    for (int i = 0; i < 2; i++) {
        const guint8 *newline = memchr(m->p, '\n', m->end - m->p);
        if (!newline)
            return fail(m, "it is cut short");
        line[i] = (const char *)m->p;
        bytes[i] = newline - m->p;
        m->p = newline + 1;
    }
    return push_name(m, line[0], bytes[0], line[1], bytes[1]);
}

static gboolean push_stack_global(Machine *m)
{
    const MojiPickleValue *name = pop(m), *module = name ? pop(m) : NULL;
    if (!module)
        return FALSE;
    if (name->kind != MOJI_PICKLE_TEXT || module->kind != MOJI_PICKLE_TEXT)
        return fail(m, "it names something by what is no text");
    return push_name(m, module->text, module->bytes, name->text, name->bytes);
}

/* ---- calls, which are none ---- */

static const MojiPickleValue *item(const MojiPickleValue *tuple, guint i)
{
    return tuple->items && i < tuple->items->len ? tuple->items->pdata[i] : NULL;
}

static gboolean is_sizes(const MojiPickleValue *v)
{
    if (!v || v->kind != MOJI_PICKLE_TUPLE)
        return FALSE;
    for (guint i = 0; v->items && i < v->items->len; i++) {
        const MojiPickleValue *n = v->items->pdata[i];
        if (n->kind != MOJI_PICKLE_INT || n->whole < 0)
            return FALSE;
    }
    return TRUE;
}

static guint length(const MojiPickleValue *v)
{
    return v->items ? v->items->len : 0;
}

static gboolean push_tensor(Machine *m, const MojiPickleValue *args)
{
    const MojiPickleValue *storage = item(args, 0), *offset = item(args, 1);
    const MojiPickleValue *size = item(args, 2), *stride = item(args, 3);
    if (!stride || storage->kind != MOJI_PICKLE_STORAGE || offset->kind != MOJI_PICKLE_INT ||
        offset->whole < 0 || !is_sizes(size) || !is_sizes(stride) || length(size) != length(stride))
        return fail(m, "a tensor is not made of a storage, an offset, sizes and strides");
    MojiPickleValue *v = push(m, MOJI_PICKLE_TENSOR);
    v->tensor.storage = storage;
    v->tensor.offset = offset->whole;
    v->tensor.size = size;
    v->tensor.stride = stride;
    return TRUE;
}

static gboolean refuse_call(Machine *m, const MojiPickleValue *called)
{
    return fail(m, "it calls %s.%s, which a file of weights has no use for; nothing was run",
                called->name->module, called->name->name);
}

static gboolean reduce(Machine *m)
{
    MojiPickleValue *args = pop(m), *called = args ? pop(m) : NULL;
    if (!called)
        return FALSE;
    if (called->kind != MOJI_PICKLE_NAME || args->kind != MOJI_PICKLE_TUPLE)
        return fail(m, "it calls what is no function");
    switch (called->name->use) {
    case USE_TENSOR:
        return push_tensor(m, args);
    case USE_PARAMETER:
        if (!length(args))
            return fail(m, "a parameter is made of nothing");
        g_ptr_array_add(m->stack, args->items->pdata[0]);
        return TRUE;
    case USE_DICT:
        if (length(args))
            return fail(m, "a dictionary is made of something");
        push(m, MOJI_PICKLE_DICT);
        return TRUE;
    case USE_OPAQUE:
        push(m, MOJI_PICKLE_OPAQUE);
        return TRUE;
    default:
        return refuse_call(m, called);
    }
}

/* An object of a class, as yet without attributes. */
static gboolean new_object(Machine *m)
{
    const MojiPickleValue *args = pop(m), *class = args ? pop(m) : NULL;
    if (!class)
        return FALSE;
    if (class->kind != MOJI_PICKLE_NAME || args->kind != MOJI_PICKLE_TUPLE)
        return fail(m, "it calls what is no function");
    if (class->name->use != USE_MODULE || length(args))
        return refuse_call(m, class);
    push(m, MOJI_PICKLE_DICT);
    return TRUE;
}

/* ("storage", torch.FloatStorage, "0", "cpu", 320): a block of numbers elsewhere in the file. */
static gboolean push_storage(Machine *m)
{
    const MojiPickleValue *id = pop(m);
    if (!id)
        return FALSE;
    const MojiPickleValue *kind =
        item(id->kind == MOJI_PICKLE_TUPLE ? id : &(MojiPickleValue){0}, 0);
    const MojiPickleValue *type = kind ? item(id, 1) : NULL, *key = kind ? item(id, 2) : NULL;
    const MojiPickleValue *count = kind ? item(id, 4) : NULL;
    if (!count || !moji_pickle_is(kind, "storage") || type->kind != MOJI_PICKLE_NAME ||
        type->name->use != USE_STORAGE || key->kind != MOJI_PICKLE_TEXT ||
        count->kind != MOJI_PICKLE_INT || count->whole < 0)
        return fail(m, "it asks for something that is not kept in the file");
    MojiPickleValue *v = push(m, MOJI_PICKLE_STORAGE);
    v->storage.key = key;
    v->storage.class_name = type->name->name;
    v->storage.count = count->whole;
    v->storage.type = type->name->type;
    v->storage.element = type->name->element;
    return TRUE;
}

/* The member of that name if it is a dictionary with anything in it, or NULL. */
static const MojiPickleValue *member(const MojiPickleValue *dict, const char *name)
{
    for (guint i = 0; dict->kind == MOJI_PICKLE_DICT && i + 1 < length(dict); i += 2) {
        const MojiPickleValue *v = dict->items->pdata[i + 1];
        if (moji_pickle_is(dict->items->pdata[i], name))
            return v->kind == MOJI_PICKLE_DICT && v->items ? v : NULL;
    }
    return NULL;
}

/* Attributes of a dictionary or of an opaque value. Nothing here needs them, save the parameters of
 * a module, which are what is in it. */
static gboolean build(Machine *m)
{
    MojiPickleValue *state = pop(m), *of = state ? top(m) : NULL;
    if (!of)
        return FALSE;
    const MojiPickleValue *parameters =
        of->kind == MOJI_PICKLE_DICT && !of->items ? member(state, "_parameters") : NULL;
    if (parameters)
        of->items = g_ptr_array_ref(parameters->items);
    return of->kind == MOJI_PICKLE_DICT || of->kind == MOJI_PICKLE_OPAQUE ||
           of->kind == MOJI_PICKLE_TENSOR || fail(m, "it gives attributes to what has none");
}

/* ---- the opcodes ---- */

static gboolean step_marked(Machine *m, guint8 op)
{
    guint from = 0;
    if (!pop_mark(m, &from))
        return FALSE;
    switch (op) {
    case TUPLE:
        return push_tuple(m, from);
    case APPENDS:
        return extend(m, from, MOJI_PICKLE_LIST);
    case SETITEMS:
        return extend(m, from, MOJI_PICKLE_DICT);
    default: /* POP_MARK */
        g_ptr_array_set_size(m->stack, from);
        return TRUE;
    }
}

static gboolean step_put(Machine *m, guint8 op)
{
    guint64 index = m->memo->len;
    if (op != MEMOIZE && !take_number(m, op == BINPUT ? 1 : 4, &index))
        return FALSE;
    return memoize(m, index);
}

static gboolean step(Machine *m)
{
    const guint8 *p = take(m, 1);
    if (!p)
        return FALSE;
    switch (*p) {
    case PROTO:
        return take(m, 1) != NULL;
    case FRAME:
        return take(m, 8) != NULL;
    case STOP:
        return m->stopped = TRUE;
    case MARK:
        g_array_append_val(m->marks, m->stack->len);
        return TRUE;
    case POP:
        return pop(m) != NULL;
    case TUPLE:
    case APPENDS:
    case SETITEMS:
    case POP_MARK:
        return step_marked(m, *p);
    case NONE:
        return push(m, MOJI_PICKLE_NONE) != NULL;
    case NEWTRUE:
    case NEWFALSE:
        push(m, MOJI_PICKLE_BOOL)->whole = *p == NEWTRUE;
        return TRUE;
    case BININT:
        return push_int(m, 4, TRUE);
    case BININT1:
        return push_int(m, 1, FALSE);
    case BININT2:
        return push_int(m, 2, FALSE);
    case LONG1:
        return push_long(m);
    case BINFLOAT:
        return push_float(m);
    case SHORT_BINUNICODE:
    case SHORT_BINSTRING:
    case SHORT_BINBYTES:
        return push_text(m, 1);
    case BINUNICODE:
    case BINSTRING:
    case BINBYTES:
        return push_text(m, 4);
    case BINUNICODE8:
        return push_text(m, 8);
    case EMPTY_TUPLE:
        return push_tuple(m, m->stack->len);
    case TUPLE1:
    case TUPLE2:
    case TUPLE3:
        return push_short_tuple(m, *p - TUPLE1 + 1);
    case EMPTY_LIST:
        return push(m, MOJI_PICKLE_LIST) != NULL;
    case EMPTY_DICT:
        return push(m, MOJI_PICKLE_DICT) != NULL;
    case APPEND:
        return extend_by(m, 1, MOJI_PICKLE_LIST);
    case SETITEM:
        return extend_by(m, 2, MOJI_PICKLE_DICT);
    case BINPUT:
    case LONG_BINPUT:
    case MEMOIZE:
        return step_put(m, *p);
    case BINGET:
        return recall(m, 1);
    case LONG_BINGET:
        return recall(m, 4);
    case GLOBAL:
        return push_global(m);
    case STACK_GLOBAL:
        return push_stack_global(m);
    case REDUCE:
        return reduce(m);
    case NEWOBJ:
        return new_object(m);
    case BUILD:
        return build(m);
    case BINPERSID:
        return push_storage(m);
    default:
        return fail(m, "it has the opcode 0x%02x, which a file of weights has no use for", *p);
    }
}

MojiPickle *moji_pickle_parse(const guint8 *data, gsize bytes, const char *path, GError **error)
{
    GError *why = NULL;
    Machine m = {.start = data, .p = data, .end = data + bytes, .path = path, .error = &why};
    m.values = g_ptr_array_new_with_free_func(free_value);
    m.stack = g_ptr_array_new();
    m.memo = g_ptr_array_new();
    m.marks = g_array_new(FALSE, FALSE, sizeof(guint));
    gboolean ok = TRUE;
    for (int steps = 0; ok && !m.stopped; steps++)
        ok = steps < MOJI_PICKLE_MAX_STEPS
                 ? step(&m)
                 : fail(&m, "it has more than %d steps", MOJI_PICKLE_MAX_STEPS);
    MojiPickle *pickle = NULL;
    MojiPickleValue *root = ok ? pop(&m) : NULL;
    if (root) {
        pickle = g_new(MojiPickle, 1);
        *pickle = (MojiPickle){root, m.p - data, g_ptr_array_ref(m.values)};
    }
    g_array_unref(m.marks);
    g_ptr_array_unref(m.memo);
    g_ptr_array_unref(m.stack);
    g_ptr_array_unref(m.values);
    if (why)
        g_propagate_error(error, why);
    return pickle;
}

void moji_pickle_free(MojiPickle *p)
{
    if (!p)
        return;
    g_ptr_array_unref(p->values);
    g_free(p);
}
