/* backend.h: what a processor must be able to do to run tapes.
 *
 * A backend is this struct and, inside it, one table indexed by MojiOp that holds prepare and run.
 * backend_cpu is linked into libmoji; CUDA is a shared object opened at run time, so that one
 * program starts on every machine and says what it found. */
#pragma once
#include "weights.h"

struct MojiBackend {
    const char *name; /* "cpu", "cuda" */
    /* One line for people: processor, instruction set, library version. Owned by the backend. */
    const char *(*describe)(MojiBackend *b);
    /* The type that this processor runs fastest without loss that shows: MOJI_BF16 or MOJI_F32. */
    MojiType (*preferred)(MojiBackend *b);

    void *(*memory_new)(MojiBackend *b, gsize bytes, GError **error); /* 64-byte aligned */
    void (*memory_free)(MojiBackend *b, void *memory);
    void (*write)(MojiBackend *b, void *memory, const void *host, gsize bytes);
    void (*read)(MojiBackend *b, const void *memory, void *host, gsize bytes);

    /* The offsets in the tape are settled: a record's out overlaps none of its inputs, except that
     * where moji_op_in_place(op) it may be exactly in[0]'s memory (then of its size and type).
     *
     * Makes everything needed to run the tape's records on `block`; state is returned through
     * *prepared and handed back to run and unprepare. weight[id] is the MojiWeight of parameter
     * tensor id, NULL for other tensors; shapes and presence are checked already. */
    gboolean (*prepare)(MojiBackend *b, MojiTape *tape, void *block, MojiWeight **weight,
                        void **prepared, GError **error);
    void (*unprepare)(MojiBackend *b, void *prepared);
    /* Runs records [first, end). */
    gboolean (*run)(MojiBackend *b, void *prepared, int first, int end, GError **error);

    void (*close)(MojiBackend *b);
};

/* threads: 0 means one for each core this process may use. */
MojiBackend *moji_backend_cpu(int threads, GError **error);

/* name: "auto" or "cpu" (or "cuda" where that backend is installed). */
MojiBackend *moji_backend_open(const char *name, int threads, GError **error);
void moji_backend_close(MojiBackend *b); /* NULL is fine */
