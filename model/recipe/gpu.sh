#!/bin/sh
# The full recipe on one GPU of the H200's class, in one go or in three calls of at most ten minutes each: ../README.md.
#     gpu.sh pack ART       first, where there is a network: the art and the wheels that the GPU's machine may lack, in .gpu
#     gpu.sh all            on that machine, if it can be had for half an hour at a stretch; otherwise
#     gpu.sh 1|2|3|sheets   on that machine, from the same checkout, with .gpu there; results in $OUT, at most 8 files of 15 MiB
# The work folder stays in .gpu/work. If the machine was lost between two calls, put the state.* files that came back in
# .gpu/state, a folder for each call (.gpu/state/1, .gpu/state/2), and go on with the next call; what is missing is made again.
set -e
cd "$(dirname "$0")"
root=$(git rev-parse --show-toplevel 2>/dev/null || realpath ../..)
gpu=${GPU:-$root/.gpu}
work=$gpu/work
art=${ART:-$gpu/art}
python=${PYTHON:-python3}
# FAST=0.01 shortens every stage to a hundredth, for a rehearsal
minutes() { $python -c "print($1 * ${FAST:-1})"; }
shape=${SHAPE:-full}; vae=${VAE:-mini}; batch=${BATCH:-1024}; few=${FEW:-}; drawings=${FEW:+4}; size=${SIZE:-256}

if [ "$1" = all ]; then
    for call in 1 2 3 sheets; do "./${0##*/}" $call; done
    exit
fi
if [ "$1" = pack ]; then
    mkdir -p "$art" "$gpu/wheels"
    for set in noto noto-v1 fluent-emoji-flat twemoji emojione fxemoji; do cp "$2"/iconify-json-$set-[0-9]*.tgz "$art"; done
    cp -r "$2/annotations" "$art"
    for tag in 2_28 2_17; do tags="$tags --platform manylinux_${tag}_x86_64"; done
    $python -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp $tags \
        --platform manylinux2014_x86_64 -d "$gpu/wheels" diffusers importlib_metadata resvg-py
    du -sh "$gpu"
    exit
fi

if [ -d "$gpu/wheels" ]; then
    site=$(mktemp -d)
    $python -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$site" "$gpu"/wheels/*.whl
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONUNBUFFERED=1
out=${OUT:?the folder for what comes back}
mkdir -p "$work" "$out"
for kept in "$gpu"/state/*/; do
    [ -d "$kept" ] && $python pieces.py unpack --work "$work" --out "$kept"
done
all="--work $work --reach all --shape $shape"

data() {
    [ -f "$work/art.npy" ] || $python art.py --art "$art" --work "$work" --size $((2 * size)) ${few:+--concepts $few --sample 10}
    [ -f "$work/scenes.npy" ] || $python scenes.py --reach all --art "$art" --work "$work" --size "$size" \
        ${few:+--concepts $few --sample 100 --share 0.05 --workers 1}
    [ -f "$work/tokenizer/vocab.json" ] || $python captions.py --reach all --work "$work"
}
latents() {
    [ -f "$work/latents-all.npy" ] || $python diffusion.py $all --art "$art" --part latents --size "$size" ${few:+--workers 1}
}

call() {
    case $1 in
    1)  data
        $python vae.py --work "$work" --part inner --minutes "$(minutes 4.7)" --batch "${VAEBATCH:-64}" --smaller 0.4 --lr 1.5e-3 --shape "$vae" --feeders 14
        $python vae.py --work "$work" --part outer --minutes "$(minutes 1.3)" --batch "$((${VAEBATCH:-64} / 4))" --lr 5e-4 --shape "$vae" --feeders 14
        $python sheet.py --work "$work" --part outer --out "$out/vae.png" --count 16
        $python pieces.py pack --work "$work" --out "$out" tokenizer crowd vae ;;
    2)  data; latents
        $python diffusion.py $all --part text --minutes "$(minutes 1.3)" --batch "$batch" --lr 2e-3 ${few:+--workers 1 --variants 1}
        $python diffusion.py $all --part train --minutes "$(minutes 9.7)" --stop "$(minutes 4.5)" --batch "$batch" --lr 1.5e-3 ${few:+--variants 1 --report 2}
        $python pieces.py pack --work "$work" --out "$out" diffusion ;;
    3)  data; latents
        $python diffusion.py $all --part train --minutes "$(minutes 9.7)" --batch "$batch" --lr 1.5e-3 ${few:+--variants 1 --report 2 --workers 1}
        $python diffusion.py $all --part distil --minutes "$(minutes 2)" --batch "$((batch / 2))" --lr 3e-4 --rank 8 ${few:+--variants 1 --report 2}
        $python export.py --work "$work" --out "$work/moji-mini" --reach all --shape "$shape" --version 5 --steps 20 --guidance 2.5 --distilled lora
        cp "$work"/moji-mini-lcm.safetensors "$out"
        $python sheet.py --model "$work/moji-mini" --out "$out/names.png" --count "${drawings:-240}" --cell 104 --bf16 || echo "no sheet"
        $python pieces.py pack --work "$work" --out "$out" moji-mini ;;
    sheets)     # the full model, then its few steps, on the composed prompts
        $python scenes.py --reach all --list --work "$work" >"$work/prompts.tsv"
        $python sheet.py --model "$work/moji-mini" --out "$out/composed.png" --prompts "$work/prompts.tsv" --count "${drawings:-120}" --cell 104 --bf16
        $python sheet.py --model "$work/moji-mini" --lora "$work/moji-mini-lcm.safetensors" --out "$out/composed-lcm.png" --prompts "$work/prompts.tsv" --count "${drawings:-120}" --cell 104 --bf16 ;;
    esac
}
(call "$1"; echo "call $1: fine") 2>&1 | tee -a "$out/log-$1.txt"
tail -n 1 "$out/log-$1.txt" | grep -q "call $1: fine"
