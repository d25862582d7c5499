/* edit.h: plug-in-moji-edit: a layer redrawn in place. */
#pragma once
#include <libgimp/gimp.h>
#include "error.h"

#define MOJI_EDIT_ARGUMENTS 10 /* with run mode, image and drawable */

/* One call of the procedure; the layer goes to *layer. Only in RUN-NONINTERACTIVE are all arguments
 * there. */
GimpPDBStatusType moji_edit_run(const GimpParam *param, gint32 *layer, GError **error);
