/* version.h: what this program calls itself, in --version, in recipes and on the wire. */
#pragma once

#define MOJI_VERSION "0.1.0"
