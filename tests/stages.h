/* stages.h: the models whose arrows test_stages.c and test_pictures.c hold against the fixtures of
 * tests/fixtures/make_stages.py, which tells what each file is. */
#pragma once
#include "test.h"

typedef struct {
    const char *name;
    char *folder;        /* the model */
    char *dumps;         /* what the reference gave */
    int thin;            /* pictures in dumps are every thin-th pixel of every thin-th row */
    const char *missing; /* why there is nothing to compare with, or NULL */
    gboolean stale;      /* and that is a failure */
} StageModel;

/* n models: tiny-sd, tiny-v, and the bundled one where it is built. Never freed. */
const StageModel *stage_models(int *n);

/* Marks the running test skipped or failed and returns FALSE if the model cannot be compared. */
gboolean stage_usable(const StageModel *m);

/* A number of dumps/reference.json, as "bf16.unet" or "seed". */
double stage_reference(const StageModel *m, const char *name);
/* The names under "samplers" there, NULL-terminated; caller frees with g_strfreev. */
char **stage_samplers(const StageModel *m);
char *stage_text(const StageModel *m, const char *file); /* a text of dumps/; caller frees */
char *stage_dump(const StageModel *m, const char *file); /* the path of dumps/FILE; caller frees */
