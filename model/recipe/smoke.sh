#!/bin/sh
# Every stage at toy size, well under a minute on a CPU: does the recipe still run?
#     smoke.sh ART_DIR [WORK_DIR]
set -e
art=$1
work=${2:-$(mktemp -d)}
cd "$(dirname "$0")"
python=${PYTHON:-python3}
$python art.py --art "$art" --work "$work" --size 64 --sample 10 --concepts 14
$python scenes.py --art "$art" --work "$work" --size 32
$python captions.py --work "$work"
$python vae.py --work "$work" --part inner --minutes 0.05 --batch 4 --side 16 --shape toy
$python diffusion.py --work "$work" --part latents
$python diffusion.py --work "$work" --part text --minutes 0.05 --shape toy
$python diffusion.py --work "$work" --part train --minutes 0.05 --batch 4 --shape toy
$python vae.py --work "$work" --part decoder --minutes 0.05 --batch 2 --shape toy
$python vae.py --work "$work" --part outer --minutes 0.05 --batch 2 --side 32 --shape toy
$python export.py --work "$work" --out "$work/model" --shape toy
$python sheet.py --model "$work/model" --out "$work/sheet.png" --count 2
test -s "$work/sheet.png" && echo "smoke: fine ($work)"
