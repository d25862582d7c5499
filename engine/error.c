/* error.c: the one error domain of libmoji. */
#include "error.h"

G_DEFINE_QUARK(moji-error-quark, moji_error)
