#!/bin/sh
# measure.sh: on a machine with an NVIDIA GPU, checks the CUDA backend against the CPU's references and
# measures it against its targets and against diffusers with torch.compile. One call; the table comes
# last and is also written to OUT/table.txt, with everything else that was printed in OUT.
#
#     tests/gpu/measure.sh [OUT] [correct|speed|soak]...       (./gpu-results, all three)
#
# It uses the programs in build/gpu.tar.xz if that is there (bundle.sh makes it), else those in build/.
# For `speed` it needs python3 with torch and safetensors, and diffusers for the comparison (which is
# left out, and said to be, without it). SOAK=200 changes the number of drawings. It changes nothing
# about the GPU's settings.
set -u
cd "$(dirname "$0")/../.." || exit 2
root=$(pwd)
OUT=${1:-gpu-results}
[ $# -gt 0 ] && shift
PARTS=${*:-correct speed soak}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
table=$OUT/table.txt
: >"$table"
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT

build=$root/build
if [ -f build/gpu.tar.xz ]; then
    tar -C "$work" -xJf build/gpu.tar.xz || exit 2
    build=$work/gpu
fi
python=$(command -v python3)

# NVIDIA's libraries: the machine's, else those beside Python's packages.
where=$($python - 2>/dev/null <<'END'
import glob, sysconfig
print(":".join(sorted(glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/*/lib"))))
END
)
LD_LIBRARY_PATH=$build/lib:${LD_LIBRARY_PATH:-}:/usr/local/cuda/lib64:$where
export LD_LIBRARY_PATH
export MOJI_SOURCE_DIR=$root MOJI_TEST_BACKEND=cuda MOJI_TEST_BACKEND_NEEDED=1
export MOJI_MODEL=$root/model/moji-mini XDG_CACHE_HOME=$work/cache

failed=0
# line WHAT WANTED FOUND [bad]
line() {
    printf '%-58s %-22s %s%s\n' "$1" "$2" "$3" "${4:+   NOT MET}" | tee -a "$table"
    [ -z "${4:-}" ] || failed=$((failed + 1))
}
number() { # number FILE MEMBER...: out of a JSON file
    $python -c 'import json, sys
value = json.load(open(sys.argv[1]))
for name in sys.argv[2:]:
    value = value[name]
print(round(value, 4))' "$@" 2>/dev/null || echo 0
}
holds() { $python -c "import sys; sys.exit(not ($1))"; }
# target WHAT WANTED FOUND CONDITION
target() { if holds "$4"; then line "$1" "$2" "$3"; else line "$1" "$2" "$3" bad; fi; }

"$build/moji" info >"$OUT/info.txt" 2>&1
sed -n 2,3p "$OUT/info.txt" | tee -a "$table"
nvidia-smi >"$OUT/nvidia-smi.txt" 2>&1

correct() {
    for name in test_ops test_stages test_pictures; do
        MOJI_TEST_FIGURES=1 "$build/tests/$name" >"$OUT/$name.txt" 2>&1
        status=$?
        sum=$(tail -n 1 "$OUT/$name.txt")
        if [ $status -eq 0 ]; then line "$name" "none failed" "${sum#\# }"; else line "$name" "none failed" "$sum" bad; fi
        grep '^FAIL' "$OUT/$name.txt" | head -n 10
    done
    for n in 1 2 3; do
        "$build/moji" draw 'grinning cat' --backend cuda --seed 1 -o "$work/same-$n.png" \
            >"$OUT/draw-$n.txt" 2>&1
    done
    if cmp "$work/same-1.png" "$work/same-2.png" && cmp "$work/same-2.png" "$work/same-3.png"; then
        line "three processes, one seed" "the same bytes" "the same"
    else
        line "three processes, one seed" "the same bytes" "they differ" bad
    fi
    if command -v compute-sanitizer >/dev/null; then
        compute-sanitizer --error-exitcode 9 "$build/moji" draw heart --backend cuda --size 64 \
            --steps 2 -o "$work/checked.png" >"$OUT/sanitizer.txt" 2>&1
        status=$?
        target "compute-sanitizer on a drawing" "clean" "exit status $status" "$status == 0"
    fi
}

# peak COMMAND...: runs it and leaves the most GPU memory seen, in MiB above what was used before, in $mib
peak() {
    before=$(nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits | head -n 1)
    "$@" &
    pid=$!
    most=$before
    while kill -0 $pid 2>/dev/null; do
        now=$(nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits | head -n 1)
        [ "$now" -gt "$most" ] && most=$now
        sleep 0.2
    done
    wait $pid
    mib=$((most - before))
}

bench() { # bench NAME ARGUMENT...
    name=$1
    shift
    "$build/moji" bench --backend cuda --json "$OUT/$name.json" "$@" >"$OUT/$name.txt" 2>&1 ||
        line "moji bench $name" "runs" "$(tail -n 1 "$OUT/$name.txt")" bad
}

speed() {
    sd=$work/sd14
    $python tests/gpu/synthetic.py "$sd" || return
    bench warm --model "$sd" --type f16 --runs 3 unet vae # the plans are chosen here
    bench sd14 --model "$sd" --type f16 --runs 20 --records text unet vae
    peak bench draw --model "$sd" --type f16 --runs 10 --steps 20 draw
    bench sd14-8 --model "$sd" --type f16 --runs 5 --batch 8 unet vae
    bench mini --type f16 --runs 5 --batch 16 unet vae
    one=$(number "$OUT/sd14.json" unet ms)
    eight=$(number "$OUT/sd14-8.json" unet ms)
    emoji=$(number "$OUT/draw.json" draw ms)
    mini=$(number "$OUT/mini.json" unet ms)
    mini_vae=$(number "$OUT/mini.json" vae ms)
    vae=$(number "$OUT/sd14.json" vae ms)
    vae8=$(number "$OUT/sd14-8.json" vae ms)
    steps=$(holds "$one > 0" && $python -c "print(round(1000 / $one, 1))" || echo 0)
    target "SD 1.4, 512 px, f16, guidance: U-Net" ">= 200 steps/s" "$steps" "$steps >= 200"
    target "20-step emoji, warm engine to pixels" "<= 130 ms" "$emoji" "0 < $emoji <= 130"
    target "peak GPU memory of that, MiB" "<= 3072" "$mib" "0 < $mib <= 3072"
    stated=$(number "$OUT/draw.json" draw memory_stated)
    most=$(number "$OUT/draw.json" draw memory_peak)
    target "memory stated before, bytes, to the most in use, $most" "within 5 %" "$stated" "0 < $most and abs($stated - $most) <= 0.05 * $most"
    gain=$($python -c "print(round(8 * (20 * $one + $vae) / max(20 * $eight + $vae8, 1e-9), 2))")
    target "batch 8 against 1, networks alone, 20 steps" ">= 1.5 x" "$gain" "$one > 0 and $gain >= 1.5"
    pictures=$($python -c "print(round(16000 / max(20 * $mini + $mini_vae, 1e-9), 1))")
    target "moji-mini, batch 16, 20 steps, networks alone" ">= 20 pictures/s" "$pictures" "$mini > 0 and $pictures >= 20"
    line "the share of the measured limit that the U-Net reaches" "" "$($python -c "print(round(100 * $(number "$OUT/sd14.json" unet limit_ms) / max($one, 1e-9), 1))") %"
    $python tests/gpu/compare.py "$OUT/compare.json" >"$OUT/compare.txt" 2>&1
    theirs=$(number "$OUT/compare.json" compiled_ms)
    if holds "$theirs > 0"; then
        ratio=$($python -c "print(round($theirs / max($one, 1e-9), 2))")
        target "a U-Net call, diffusers with torch.compile ($theirs ms)" ">= 2 x" "$ratio" "$one > 0 and $ratio >= 2"
    else
        line "against diffusers with torch.compile" ">= 2 x" "not compared: $(tail -n 1 "$OUT/compare.txt")" bad
    fi
}

soak() {
    "$build/bench/soak" --backend cuda --drawings "${SOAK:-2000}" >"$OUT/soak.txt" 2>&1
    status=$?
    target "soak of ${SOAK:-2000} drawings" "no error, no growth" "$(tail -n 1 "$OUT/soak.txt")" "$status == 0"
    "$build/bench/soak" --backend cuda --drawings "${SOAK:-2000}" --model tests/fixtures/tiny-sd \
        --lora tests/fixtures/lora/kohya.safetensors --lora tests/fixtures/lora/loha.safetensors \
        >"$OUT/soak-lora.txt" 2>&1
    status=$?
    target "the same with LoRAs that change, a tiny model" "no error, no growth" "$(tail -n 1 "$OUT/soak-lora.txt")" "$status == 0"
}

for part in $PARTS; do
    case $part in
    correct | speed | soak) $part ;;
    *) echo "measure.sh: correct, speed or soak, not $part" >&2 && exit 2 ;;
    esac
done
echo
cat "$table"
[ $failed -eq 0 ]
