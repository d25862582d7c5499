#!/bin/sh
# run.sh: the CUDA backend as a person meets it: used where it can be, and one line that says why not
# where it cannot. Part of the suite. What needs a GPU is skipped with the reason.
set -u
moji=$BUILD/moji
tiny=tests/fixtures/tiny-sd
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT

row() { # row NAME: ok unless `why` was set since the last one
    [ -z "$why" ] && echo "ok gpu: $1" || echo "FAIL gpu: $1: $why"
    why=
}
why=

draw() { # draw FILE OPTION...
    to=$1
    shift
    "$moji" draw cat --model "$tiny" --size 64 --steps 2 --seed 7 -o "$work/$to" "$@" \
        >"$work/out" 2>"$work/err"
}

if draw cuda.png --backend cuda --type f32; then
    row "--backend cuda draws"
    draw again.png --backend cuda --type f32 || why=$(cat "$work/err")
    cmp -s "$work/cuda.png" "$work/again.png" || why="${why}another run gave other bytes"
    row "the same bytes from run to run"
    "$moji" info "$tiny" >"$work/out" 2>&1 || why="moji info failed"
    grep -q 'cuDNN' "$work/out" || why=$(head -n 2 "$work/out")
    row "moji info names the GPU and its libraries"
    exit 0
fi

reason=$(cat "$work/err")
case $reason in
'moji: CUDA cannot be used: '*) [ "$(wc -l <"$work/err")" -eq 1 ] || why="more than a line: $reason" ;;
*) why="not a reason: $reason" ;;
esac
row "--backend cuda says in one line why not"

draw auto.png || why="auto does not fall back: $(cat "$work/err")"
if [ -f "$BUILD/libmoji-cuda.so" ]; then
    [ "$(grep -c 'CUDA cannot be used' "$work/err")" -eq 1 ] || why="no reason: $(cat "$work/err")"
fi
row "auto falls back to the processor and says why"

if [ -n "${MOJI_TEST_BACKEND_NEEDED:-}" ]; then
    echo "FAIL gpu: a GPU was asked for: ${reason#moji: }"
else
    echo "skip gpu: drawing with CUDA: ${reason#moji: CUDA cannot be used: }"
fi
