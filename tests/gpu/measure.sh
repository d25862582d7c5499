#!/bin/sh
# measure.sh: on a machine with an NVIDIA GPU, checks the CUDA backend against the CPU's references and
# measures it against its targets and against diffusers with torch.compile. The table comes last and is
# also in OUT/table.txt; all else that was printed is in OUT/all.tar.gz, packed after each part.
#
#     tests/gpu/measure.sh [OUT] [correct|speed|compare|soak]...     (./gpu-results, all four)
#
# It uses the programs in build/gpu.tar.xz if that is there (bundle.sh makes it), else those in build/.
# speed needs python3 with torch and safetensors for a synthetic SD 1.4; compare needs diffusers as well,
# which bundle.sh can bring. What is missing is said in the table, and the rest goes on. LIMIT (570) is
# the seconds that all may take, SOAK (2000) the drawings. It changes nothing about the GPU's settings.
#
# Where one call may take ten minutes, that is two: `correct speed`, then `compare soak`. Without a GPU
# the script itself is rehearsed in a minute or two, with every target missed:
#
#     tiny=tests/fixtures/tiny-sd
#     BACKEND=cpu MODEL=$tiny MOJI_MODEL=$tiny SIZE=64 RUNS=1 SOAK=5 tests/gpu/measure.sh
set -u
cd "$(dirname "$0")/../.." || exit 2
root=$(pwd)
OUT=${1:-gpu-results}
[ $# -gt 0 ] && shift
PARTS=${*:-correct speed compare soak}
BACKEND=${BACKEND:-cuda} SIZE=${SIZE:-512} RUNS=${RUNS:-20} SOAK=${SOAK:-2000}
end=$(($(date +%s) + ${LIMIT:-570}))
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
table=$OUT/table.txt
: >"$table"
work=$(mktemp -d) || exit 2
all=$work/all
mkdir "$all"
pack() {
    cp "$table" "$all" && tar -C "$work" -czf "$OUT/all.tar.gz" all
}
trap 'pack; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

build=$root/build
if [ -f build/gpu.tar.xz ]; then
    tar -C "$work" -xJf build/gpu.tar.xz || exit 2
    build=$work/gpu
fi
PATH=$PATH:/usr/local/cuda/bin
python=$(command -v python3) || { echo "measure.sh: there is no python3" >&2 && exit 2; }
if [ -d "$build/wheels" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-cache-dir --target "$work/site" "$build"/wheels/*.whl
    export PYTHONPATH="$work/site"
fi

# NVIDIA's libraries: the machine's, else those beside Python's packages. For our programs alone: others
# must not meet the C++ library that we bring.
libraries=$build/lib:${LD_LIBRARY_PATH:-}:/usr/local/cuda/lib64:$("$python" -c '
import glob, sysconfig
print(":".join(sorted(glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/*/lib"))))')
export MOJI_SOURCE_DIR="$root" MOJI_TEST_BACKEND="$BACKEND" MOJI_TEST_BACKEND_NEEDED=1
export MOJI_MODEL="${MOJI_MODEL:-$root/model/moji-mini}" XDG_CACHE_HOME="$work/cache"

left() { echo $((end - $(date +%s))); }
# upto SECONDS COMMAND...: as long as that, and as all may take; status 124 if it took longer
upto() {
    most=$(left)
    [ "$most" -lt "$1" ] || most=$1
    shift
    [ "$most" -gt 0 ] && timeout -k 5 "$most" "$@"
    status=$?
    [ "$most" -gt 0 ] && [ $status -ne 124 ] || echo "not done in the time there was"
    return $status
}
ours() { # ours SECONDS PROGRAM...
    seconds=$1
    shift
    upto "$seconds" env LD_LIBRARY_PATH="$libraries" "$@"
}

failed=0
# line WHAT WANTED FOUND [bad]
line() {
    printf '%-58s %-22s %s%s\n' "$1" "$2" "$3" "${4:+   NOT MET}" | tee -a "$table"
    [ -z "${4:-}" ] || failed=$((failed + 1))
}
number() { # number FILE MEMBER...: out of a JSON file; 0 if it is not there
    "$python" -c 'import json, sys
value = json.load(open(sys.argv[1]))
for name in sys.argv[2:]:
    value = value[name]
print(round(value, 4))' "$@" 2>/dev/null || echo 0
}
figure() { "$python" -c "print(round($1, 2))" 2>/dev/null || echo 0; }
holds() { "$python" -c "import sys; sys.exit(not ($1))"; }
# target WHAT WANTED FOUND CONDITION
target() { if holds "$4"; then line "$1" "$2" "$3"; else line "$1" "$2" "$3" bad; fi; }
# said FILE: its last line, for the table
said() { tail -n 1 "$1" | cut -c 1-200; }

used() { # MiB of the GPU
    mib=$(nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits 2>/dev/null | head -n 1)
    echo "${mib:-0}"
}
# peak COMMAND...: runs it and leaves the most GPU memory seen, in MiB above what was used before, in $peak
peak() {
    before=$(used)
    most_used=$before
    "$@" &
    pid=$!
    while kill -0 $pid 2>/dev/null; do
        now=$(used)
        [ "$now" -gt "$most_used" ] && most_used=$now
        sleep 0.1
    done
    wait $pid
    peak=$((most_used - before))
}

draw() { # draw NAME ARGUMENT...
    name=$1
    shift
    ours 200 "$build/moji" draw "$@" --backend "$BACKEND" -o "$work/$name.png" >"$all/draw-$name.txt" 2>&1
}

correct() {
    for name in test_ops test_stages test_pictures; do
        MOJI_TEST_FIGURES=1 ours 200 "$build/tests/$name" >"$all/$name.txt" 2>&1
        status=$?
        sum=$(grep '^# [0-9]* passed' "$all/$name.txt" || said "$all/$name.txt")
        target "$name" "none failed" "${sum#\# }" "$status == 0"
        grep '^FAIL' "$all/$name.txt" | head -n 10 | tee -a "$table"
    done
    same="the same"
    for n in 1 2 3; do
        draw same-$n 'grinning cat' --seed 1 || same="no drawing: $(said "$all/draw-same-$n.txt")"
        [ -f "$work/same-$n.png" ] && ! cmp -s "$work/same-1.png" "$work/same-$n.png" && same="they differ"
    done
    bad=bad
    [ "$same" = "the same" ] && bad=
    line "three processes, one seed" "the same bytes" "$same" $bad
    for tool in memcheck racecheck; do sanitize $tool; done
}

# Kernels are chosen, by timing, before the tool is there to slow them down.
sanitize() {
    if ! command -v compute-sanitizer >/dev/null; then
        line "compute-sanitizer --tool $1 on a drawing" "clean" "there is no compute-sanitizer" bad
        return
    fi
    draw unchecked heart --size 64 --steps 3
    ours 150 compute-sanitizer --tool "$1" --error-exitcode 9 "$build/moji" draw heart --size 64 --steps 3 \
        --backend "$BACKEND" -o "$work/checked.png" >"$all/$1.txt" 2>&1
    status=$?
    target "compute-sanitizer --tool $1 on a drawing" "clean" "exit status $status" "$status == 0"
}

bench() { # bench NAME ARGUMENT...
    name=$1
    shift
    ours 200 "$build/moji" bench --backend "$BACKEND" --type "$type" --json "$all/$name.json" "$@" \
        >"$all/bench-$name.txt" 2>&1 || line "moji bench, $name" "runs" "$(said "$all/bench-$name.txt")" bad
}

# Sets $sd to a model of SD 1.4's shapes, once.
model() {
    type=f16
    [ "$BACKEND" = cpu ] && type=f32
    sd=${MODEL:-$work/sd14}
    [ -d "$sd" ] || upto 120 "$python" tests/gpu/synthetic.py "$sd" >"$all/synthetic.txt" 2>&1 ||
        line "a synthetic SD 1.4" "made" "$(said "$all/synthetic.txt")" bad
}

speed() {
    model
    bench warm --model "$sd" --size "$SIZE" --runs 3 unet vae # the plans are chosen here
    bench sd14 --model "$sd" --size "$SIZE" --runs "$RUNS" --records text unet vae
    one=$(number "$all/sd14.json" unet ms)
    steps=$(figure "1000 / $one")
    target "SD 1.4, 512 px, f16, guidance: U-Net" ">= 200 steps/s" "$steps" "$steps >= 200"
    line "  share of the limit measured here" "" "$(figure "100 * $(number "$all/sd14.json" unet limit_ms) / $one") %"
    bench draw --model "$sd" --size "$SIZE" --runs "$RUNS" --steps 20 draw
    emoji=$(number "$all/draw.json" draw ms)
    target "20-step emoji, warm engine to pixels" "<= 130 ms" "$emoji" "0 < $emoji <= 130"
    stated=$(number "$all/draw.json" draw memory_stated)
    most=$(number "$all/draw.json" draw memory_peak)
    target "memory stated before, bytes, to the most in use, $most" "within 5 %" "$stated" \
        "0 < $most and abs($stated - $most) <= 0.05 * $most"
    peak draw peak 'grinning cat' --model "$sd" --size "$SIZE" --steps 20 --type "$type"
    target "peak GPU memory of a process that draws it, MiB" "<= 3072" "$peak" "0 < $peak <= 3072"
    bench draw-8 --model "$sd" --size "$SIZE" --runs 3 --steps 20 --batch 8 draw
    eight=$(number "$all/draw-8.json" draw ms)
    gain=$(figure "8 * $emoji / $eight")
    target "pictures a second in batches of 8 to one by one" ">= 1.5 x" "$gain" "$gain >= 1.5"
    bench mini --runs 3 --steps 20 --batch 16 draw
    pictures=$(figure "16000 / $(number "$all/mini.json" draw ms)")
    target "moji-mini, batch 16, 20 steps" ">= 20 pictures/s" "$pictures" "$pictures >= 20"
}

compare() {
    model
    bench ours --model "$sd" --size "$SIZE" --runs "$RUNS" unet
    one=$(number "$all/ours.json" unet ms)
    upto 400 "$python" tests/gpu/compare.py "$all/compare.json" >"$all/compare.txt" 2>&1
    theirs=$(number "$all/compare.json" compiled_ms)
    if holds "$theirs > 0"; then
        ratio=$(figure "$theirs / $one")
        target "a U-Net call, diffusers with torch.compile ($theirs ms)" ">= 2 x" "$ratio" "$ratio >= 2"
    else
        line "against diffusers with torch.compile" ">= 2 x" "not compared: $(said "$all/compare.txt")" bad
    fi
}

soak() {
    half=$(($(left) / 2))
    ours $half "$build/bench/soak" --backend "$BACKEND" --drawings "$SOAK" >"$all/soak.txt" 2>&1
    status=$?
    target "soak of $SOAK drawings" "no error, no growth" "$(said "$all/soak.txt")" "$status == 0"
    ours "$(left)" "$build/bench/soak" --backend "$BACKEND" --drawings "$SOAK" --model tests/fixtures/tiny-sd \
        --lora tests/fixtures/lora/kohya.safetensors --lora tests/fixtures/lora/loha.safetensors \
        >"$all/soak-lora.txt" 2>&1
    status=$?
    target "the same with LoRAs that change, a tiny model" "no error, no growth" "$(said "$all/soak-lora.txt")" \
        "$status == 0"
}

for part in $PARTS; do
    case $part in
    correct | speed | compare | soak) ;;
    *) echo "measure.sh: correct, speed, compare or soak, not $part" >&2 && exit 2 ;;
    esac
done
ours 60 "$build/moji" info >"$all/info.txt" 2>&1
sed -n 2,3p "$all/info.txt" | tee -a "$table"
nvidia-smi >"$all/nvidia-smi.txt" 2>&1
for part in $PARTS; do
    $part
    pack
done
echo
cat "$table"
[ $failed -eq 0 ]
