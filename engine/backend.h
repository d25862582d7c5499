/* backend.h: what a processor must be able to do to run tapes.
 *
 * A backend is this struct and, inside it, one table indexed by MojiOp that holds prepare and run.
 * backend_cpu is linked into libmoji; CUDA is a shared object opened at run time, so that one
 * program starts on every machine and says what it found. */
#pragma once
#include "weights.h"

/* Raised when this struct, or what it is made of, changes: a shared object of another one is
 * refused.
 */
#define MOJI_BACKEND_ABI 8

/* Bytes of a device's memory that tapes will want together. */
typedef struct {
    guint64 weights, activations, working, libraries;
} MojiForecast;

struct MojiBackend {
    const char *name; /* "cpu", "cuda" */
    char *note;       /* why "auto" took no faster one, a line for people; NULL if there is none */
    gboolean renews;  /* changed weights are renewed in place, so tapes stay prepared: weights.h */
    int pictures;     /* drawn at once: more are no faster */
    int span;         /* records that moji_tape_run runs between two looks at its cancellable */
    /* One line for people: processor, instruction set, library version. Owned by the backend. */
    const char *(*describe)(MojiBackend *b);
    /* The type that this processor runs fastest without loss that shows. */
    MojiType (*preferred)(MojiBackend *b);
    gboolean (*supports)(MojiBackend *b, MojiType type); /* as the compute type of a tape */
    /* Bytes that memory_new and weights can still have. NULL: what the machine has. */
    guint64 (*available)(MojiBackend *b);
    /* Before anything is prepared, and as prepare will do it; planned tapes, weights not needed.
     * What the driver takes for code and graphs is not foretold. NULL: weights and blocks alone. */
    gboolean (*forecast)(MojiBackend *b, MojiTape *const *tapes, int n, MojiForecast *f,
                         GError **error);
    /* Bytes of the device that were in use at most since it was opened, beyond what was then; with
     * code and graphs, and whatever other programs took. NULL: not a device of its own. */
    guint64 (*peak)(MojiBackend *b);

    void *(*memory_new)(MojiBackend *b, gsize bytes, GError **error); /* 64-byte aligned */
    void (*memory_free)(MojiBackend *b, void *memory);
    void (*write)(MojiBackend *b, void *memory, const void *host, gsize bytes);
    void (*read)(MojiBackend *b, const void *memory, void *host, gsize bytes);
    /* A read in two halves, for a backend whose run returns before it is done: peek begins it,
     * after what was run so far, and peeked waits for that alone, whatever was run since. One at a
     * time. NULL where run returns when it is done. */
    void (*peek)(MojiBackend *b, const void *memory, gsize bytes);
    void (*peeked)(MojiBackend *b, void *host);

    /* The offsets in the tape are settled: a record's out overlaps none of its inputs, except that
     * where moji_op_in_place(op) it may be exactly in[0]'s memory (then of its size and type).
     *
     * Makes everything needed to run the tape's records on `block`; state is returned through
     * *prepared and handed back to run and unprepare. weight[id] is the MojiWeight of parameter
     * tensor id, NULL for other tensors; shapes and presence are checked already. */
    gboolean (*prepare)(MojiBackend *b, MojiTape *tape, void *block, MojiWeight **weight,
                        void **prepared, GError **error);
    void (*unprepare)(MojiBackend *b, void *prepared);
    /* Runs records [first, end): the steady ones, where they are to be computed, then those after
     * moji_tape_steady; all of them at once or, where somebody may cancel, `span` at a time. */
    gboolean (*run)(MojiBackend *b, void *prepared, int first, int end, GError **error);
    /* Runs all records and says how long each took; 0 for one that became part of another. */
    gboolean (*profile)(MojiBackend *b, void *prepared, double *seconds, GError **error);

    void (*close)(MojiBackend *b);
};

/* threads: 0 means one for each core this process may use. */
MojiBackend *moji_backend_cpu(int threads, GError **error);

/* name: "cpu", "cuda", or "auto" (also NULL): CUDA where it is installed and can be used, else the
 * CPU; if it is installed, `note` says why it cannot be. CUDA is libmoji-cuda.so, looked for beside
 * the program, in the folder above it (as in a build) and in ../lib/moji. */
MojiBackend *moji_backend_open(const char *name, int threads, GError **error);
void moji_backend_close(MojiBackend *b); /* NULL is fine */
