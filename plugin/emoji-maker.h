/* emoji-maker.h: names shared by the plug-in's files, and translation.
 *
 * The plug-in's folder is found from argv[0], which GIMP fills with the absolute path of the
 * program: translations, help and the engine lie beside it, wherever the user's plug-in path put
 * it. */
#pragma once
#include <glib/gi18n.h>

#define PLUG_IN_BINARY "emoji-maker"
#define PLUG_IN_ROLE "gimp-emoji-maker"
#define PROC_DRAW "plug-in-moji-draw"
#define PROC_NEW "plug-in-moji-new"
#define PROC_EDIT "plug-in-moji-edit"
#define HELP_DOMAIN "urn:emoji-maker:help"

/* The folder of the running program; owned by the plug-in. */
const char *moji_plugin_folder(void);
