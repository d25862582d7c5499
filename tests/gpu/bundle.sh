#!/bin/sh
# bundle.sh: all that a GPU machine without Debian's packages needs, in build/gpu.tar.xz: programs, the
# CUDA backend, and the shared libraries that they were linked with (not NVIDIA's, which have to be there).
#
#     tests/gpu/bundle.sh               after make all tests build/bench/soak; then see measure.sh
#     tests/gpu/bundle.sh --diffusers   with diffusers from PyPI too, where that machine lacks it
set -eu
cd "$(dirname "$0")/../.."
BUILD=${BUILD:-build}
out=$BUILD/gpu
rm -rf "$out"
mkdir -p "$out/lib" "$out/tests" "$out/bench"

for file in moji libmoji-cuda.so tests/test_ops tests/test_stages tests/test_pictures bench/soak; do
    [ -f "$BUILD/$file" ] || { echo "bundle.sh: $BUILD/$file is missing: make all tests $BUILD/bench/soak" >&2; exit 1; }
    cp "$BUILD/$file" "$out/$file"
done
strip "$out/moji" "$out"/tests/* "$out"/bench/* -g

# The C library, the dynamic linker and NVIDIA's libraries stay the machine's own.
ldd "$out/moji" "$out"/tests/* | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p' | sort -u |
    grep -v -E '/(libc|libm|libdl|libpthread|librt)\.so|/ld-linux|libcuda|libcublas|libcudnn' |
    while IFS= read -r library; do cp -L "$library" "$out/lib/"; done

if [ "${1:-}" = --diffusers ]; then
    python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 -d "$out/wheels" \
        diffusers importlib_metadata
fi

tar -C "$BUILD" -cJf "$BUILD/gpu.tar.xz" gpu
du -h "$BUILD/gpu.tar.xz"
