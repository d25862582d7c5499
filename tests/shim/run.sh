#!/bin/sh
# run.sh: the CUDA backend itself on the host: every op through recorded, planned and prepared tapes,
# with our own kernels in the place of NVIDIA's libraries. Part of the suite (tests/run.sh).
MOJI_CUDA=$(pwd)/$BUILD/shim/libmoji-cuda.so
export MOJI_CUDA
if [ ! -f "$MOJI_CUDA" ]; then
    echo "FAIL shim: $MOJI_CUDA was not built"
    exit 1
fi
MOJI_TEST_BACKEND=cuda MOJI_TEST_BACKEND_NEEDED=1 "$BUILD/tests/test_ops" | sed 's/^\([a-zA-Z]*\) ops:/\1 shim ops:/'
