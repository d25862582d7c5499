/* tape_private.h: what a tape is made of, for tape.c, plan.c and explain.c only. */
#pragma once
#include "tape.h"

struct MojiTape {
    MojiType compute;
    GPtrArray *tensors;     /* of MojiTensor*, owned; index is id */
    GPtrArray *records;     /* of MojiRecord*, owned; order is order of execution */
    GHashTable *parameters; /* name -> MojiTensor*, so that a name is one tensor */
    GString *scope;         /* "" or "down_blocks.0.resnets.1." */
    GArray *scope_lengths;  /* of gsize: the scope's length before each moji_scope */

    gboolean planned;
    int steady; /* records, the first, that follow from steady inputs alone */
    gsize block_bytes, unplanned_bytes;

    /* Set by prepare. The backend and the weights are the caller's. */
    MojiBackend *backend;
    void *block;
    void *prepared;
    gboolean ready; /* what the steady records write is there */
};

/* The tensor whose memory t uses: t itself unless it is a view. */
MojiTensor *moji_tensor_base(MojiTensor *t);
