/* recipe.h: "this layer is an emoji, and here is how it was made".
 *
 * The engine's recipe (JSON, image.h) travels with the layer as a parasite, into .xcf files too.
 * GIMP copies parasites along with duplicates, scaled copies and merged layers, so a recipe on a
 * layer does not prove that its pixels are still the drawing. */
#pragma once
#include <libgimp/gimp.h>

#define MOJI_RECIPE_PARASITE "plug-in-moji/recipe"

/* Attaches json to the layer; with NULL nothing is attached. Undone together with the layer. */
void moji_recipe_attach(gint32 layer, const char *json);
/* The layer's recipe: g_free it. NULL if it has none. */
char *moji_recipe_of(gint32 layer);
/* A text member of a recipe, as "prompt" or "warning": g_free it. NULL if it is not there. */
char *moji_recipe_text(const char *json, const char *member);
/* The seed the recipe tells, or -1. */
gint64 moji_recipe_seed(const char *json);
