/* pickle.h: Python's pickles, as far as tensors need them.
 *
 * A pickle is a program: it may name any function of any module and call it. This reader has no
 * functions to call. It builds numbers, texts, lists, tuples, dictionaries and descriptions of
 * tensors (torch._utils._rebuild_tensor_v2), and dictionaries of parameters; a few names that training programs leave in their
 * files stand for themselves; any other name, or an opcode beyond what these need, is an error that
 * says which. Memory is bounded by MOJI_PICKLE_MAX_STEPS. Format: pickletools.py of CPython. */
#pragma once
#include "tape.h"

#define MOJI_PICKLE_MAX_STEPS (1 << 21) /* opcodes; a checkpoint with its averages has 10^5 */

typedef enum {
    MOJI_PICKLE_NONE,
    MOJI_PICKLE_BOOL,  /* whole */
    MOJI_PICKLE_INT,   /* whole */
    MOJI_PICKLE_FLOAT, /* real */
    MOJI_PICKLE_TEXT,  /* text, bytes: not checked to be UTF-8 */
    MOJI_PICKLE_TUPLE, /* items */
    MOJI_PICKLE_LIST,  /* items */
    MOJI_PICKLE_DICT,  /* items: key, value, key, value... */
    MOJI_PICKLE_NAME,  /* of a function or class; name */
    MOJI_PICKLE_STORAGE,
    MOJI_PICKLE_TENSOR,
    MOJI_PICKLE_OPAQUE, /* a result that is of no use here */
} MojiPickleKind;

typedef struct MojiPickleName MojiPickleName;

typedef struct MojiPickleValue MojiPickleValue;
struct MojiPickleValue {
    MojiPickleKind kind;
    gboolean seen; /* for the reader of the values, who may meet one twice, or within itself */
    union {
        gint64 whole;
        double real;
        struct {
            const char *text; /* in the pickle */
            gsize bytes;
        };
        GPtrArray *items; /* of MojiPickleValue*, which the pickle owns */
        const MojiPickleName *name;
        struct {
            const MojiPickleValue *key; /* a text: which block of the file */
            const char *class_name;     /* "FloatStorage" */
            gint64 count;               /* elements */
            int type;                   /* MojiType, or -1 */
            int element;                /* bytes */
        } storage;
        struct {
            const MojiPickleValue *storage, *size, *stride; /* tuples of whole numbers */
            gint64 offset;                                  /* elements */
        } tensor;
    };
};

typedef struct {
    MojiPickleValue *root;
    gsize bytes;       /* that the pickle took */
    GPtrArray *values; /* all of them */
} MojiPickle;

/* data must stay; path is for errors. */
MojiPickle *moji_pickle_parse(const guint8 *data, gsize bytes, const char *path, GError **error);
void moji_pickle_free(MojiPickle *p); /* NULL is fine */

/* Whether it is this text. */
gboolean moji_pickle_is(const MojiPickleValue *v, const char *text);
