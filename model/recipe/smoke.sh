#!/bin/sh
# Every stage at toy size on a CPU, in a few minutes: does the recipe still run? First what ships, then the full recipe of gpu.sh.
#     smoke.sh ART_DIR [WORK_DIR]
set -e
art=$(realpath "$1")
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
$python fit.py --art "$art" --work "$work" --minutes 0.05 --shape toy --size 64
$python export.py --work "$work" --out "$work/model" --shape toy
$python sheet.py --model "$work/model" --out "$work/sheet.png" --count 2
test -s "$work/sheet.png"

export GPU="$work/gpu" ART="$art" PYTHON="$python" SHAPE=toy VAE=toy BATCH=4 VAEBATCH=4 FEW=24 SIZE=32 FAST=0.01
for call in 1 2 3 sheets; do
    OUT="$work/out/$call" ./gpu.sh $call
done
$python pieces.py unpack --work "$work/again" --out "$work/out/3"
test -s "$work/again/moji-mini/moji.json" && test -s "$work/out/sheets/composed-lcm.png" && echo "smoke: fine ($work)"
