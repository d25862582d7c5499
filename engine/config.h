/* config.h: what the config.json readers of unet.c, vae.c and clip.c share.
 *
 * A config is only accepted as a whole: a member that this engine would have to ignore although it
 * changes the computation is an error that names it, since a picture from half a model would be a
 * lie. All errors are MOJI_ERROR_FILE with path, member, what was found and what was expected. */
#pragma once
#include "json.h"

typedef struct {
    const char *name;
    /* The values that mean what this engine computes, as "silu|swish"; NULL: any, because a reader
     * checks it or because it has no influence. Null in the file always passes. In a list every
     * element must be one of them. */
    const char *accept;
} MojiConfigField;

/* fields ends with {0}. Members that are not listed pass if they are null, false or begin with an
 * underscore. */
gboolean moji_config_check(JsonObject *o, const char *path, const MojiConfigField *fields,
                           GError **error);

/* The same for one member. */
gboolean moji_config_member(JsonObject *o, const char *path, const char *member, const char *accept,
                            GError **error);

/* Length of the list, which must be there: 1 to max. 0 and an error otherwise. */
int moji_config_length(JsonObject *o, const char *path, const char *member, int max,
                       GError **error);

/* n whole numbers from a list of n, or from one number that stands for all. An absent or null
 * member leaves the values as they are. */
gboolean moji_config_ints(JsonObject *o, const char *path, const char *member, int n, int min,
                          int max, int *values, GError **error);

/* From a list of n names, each `plain` or `special`: which are special. special may be NULL. The
 * list must be there. */
gboolean moji_config_kinds(JsonObject *o, const char *path, const char *member, int n,
                           const char *plain, const char *special, gboolean *is_special,
                           GError **error);

/* value must be a multiple of `of`, or the text says which members disagree. */
gboolean moji_config_multiple(const char *path, const char *member, int value,
                              const char *of_member, int of, GError **error);
