#!/bin/sh
# The evaluation at toy size, in well under a minute on a quiet machine: does it still run?
#     smoke.sh ART_DIR [WORK_DIR]
set -e
art=$(realpath "$1")
work=${2:-$(mktemp -d)}
cd "$(dirname "$0")"
python=${PYTHON:-python3}
run() { $python evaluate.py --model ../moji-mini --moji ../../build/moji --out "$work/out" "$@"; }
run --toy --art "$art" --work "$work"
run --speeds --runs 1
test -s "$work/out/evaluation.json" && test -s "$work/out/names.png" && test -s "$work/out/compositions.png" &&
    test -s "$work/out/speeds.json" && echo "smoke: fine ($work)"
