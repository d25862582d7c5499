#!/bin/sh
# run.sh: the command line: exit codes, what goes to which stream, names of files, Ctrl-C.
# Run by tests/run.sh, which sets BUILD, and by hand: BUILD=build tests/cli/run.sh
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
moji=$root/${BUILD:-build}/moji
tiny=$root/tests/fixtures/tiny-sd
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 2
passed=0
failed=0
why=

# Each check leaves the first reason in $why; `row NAME` prints the row and clears it.
row() {
    if [ -z "$why" ]; then
        echo "ok cli: $1"
        passed=$((passed + 1))
    else
        echo "FAIL cli: $1: $why"
        failed=$((failed + 1))
    fi
    why=
}
fail() {
    [ -n "$why" ] || why=$*
}
# run CODE ARGUMENTS...: the program, its streams in ./out and ./err
run() {
    want=$1
    shift
    "$moji" "$@" >out 2>err
    code=$?
    [ $code -eq "$want" ] || fail "moji $*: exit code $code, expected $want: $(head -c 300 err)"
}
said() { grep -q -e "$1" err || fail "standard error lacks \"$1\": $(head -c 300 err)"; }
printed() { grep -q -e "$1" out || fail "standard output lacks \"$1\": $(head -c 300 out)"; }
silent() { [ ! -s out ] || fail "standard output has: $(head -c 300 out)"; }
there() { [ -s "$1" ] || fail "$1 is not there"; }
absent() { [ ! -e "$1" ] || fail "$1 is there"; }

tiny_draw() { # CODE PROMPT OPTIONS...
    want=$1
    shift
    run "$want" draw "$@" --model "$tiny" --size 64 --threads 1
}

# ---- drawing ----

tiny_draw 0 "red cat" --steps 2 --seed 7 -o cat.png
there cat.png
[ "$(cat out)" = cat.png ] || fail "standard output is not the file's name: $(cat out)"
said 'seed 7'
said 'peak memory [0-9]* MiB'
said '[0-9.]* s: loading'
[ "$(ls)" = "$(printf 'cat.png\nerr\nout')" ] || fail "other files were written: $(ls)"
row "draws to the named file and says seed, time and memory"

cp cat.png first.png
tiny_draw 0 "red cat" --steps 2 --seed 7 -o cat.png
cmp -s cat.png first.png || fail "the same seed gave other bytes"
tiny_draw 0 "red cat" --steps 2 --seed 8 -o cat.png
cmp -s cat.png first.png && fail "another seed gave the same bytes"
row "the same seed gives the same bytes, and the named file is replaced"

tiny_draw 0 "Red, red CAT!" --steps 1 --seed 1
tiny_draw 0 "Red, red CAT!" --steps 1 --seed 1
there emoji-red-red-cat-1.png
there emoji-red-red-cat-2.png
LC_ALL=C tiny_draw 0 "웃는 고양이" --steps 1 --seed 1
there "emoji-웃는-고양이-1.png"
row "without -o the name comes from the prompt, in any locale, and nothing is replaced"

tiny_draw 0 cat --steps 1 --seed 20 --count 3 -o many.png
there many-1.png
there many-2.png
there many-3.png
absent many.png
said 'seed 22'
[ "$(wc -l <out)" -eq 3 ] || fail "not three names: $(cat out)"
row "--count numbers the files"

run 0 draw --model "$tiny" --size 64 --steps 1 --threads 1 -o dash.png -- "-5 degrees"
there dash.png
row "a prompt may begin with a hyphen after --"

tiny_draw 0 cat --steps 1 --transparent -o kept.png
there kept.png
said 'warning: The background was kept'
row "--transparent without a flat background draws and warns"

tiny_draw 0 cat --steps 1 --seed 3 --negative dog --guidance 3 --sampler euler --type f32 \
    --background none --style none --backend cpu --dump dumped -o all.png
there all.png
there dumped/decoded.npy
said '1 steps of euler, guidance 3, style none, background none, f32'
row "every option is taken"

tiny_draw 0 cat --steps 1 --seed 20 --variations 2 --amount 0.3 -o near.png
there near-1.png
there near-2.png
said 'seed 20'
cmp -s near-1.png near-2.png && fail "two variations are the same"
row "--variations draws around one seed"

tiny_draw 4 cat --steps 1 --memory 50M -o small.png
said 'were allowed'
absent small.png
tiny_draw 0 cat --steps 1 --memory 1.5GiB -o small.png
there small.png
row "--memory: within it, or exit code 4"

# ---- editing ----

tiny_edit() { # CODE IN WORDS OPTIONS...
    want=$1
    shift
    run "$want" edit "$@" --model "$tiny" --size 64 --threads 1
}
cp first.png before.png
tiny_edit 0 before.png "blue cat" --strength 0.5 -o after.png
there after.png
said 'seed 7, 64 px, 2 steps'
cmp -s before.png first.png || fail "the picture itself was changed"
tiny_edit 0 before.png --strength 0.5 -o own.png
cmp -s own.png after.png && fail "other words change nothing"
grep -q 'red cat' own.png || fail "the words of the recipe were not taken"
row "edit takes from the recipe what is not said"

tiny_edit 0 before.png "blue cat" --mask "$root/tests/cli/mask.png" -o masked.png
there masked.png
tiny_edit 3 before.png "blue cat" --mask "$root/tests/cli/disc.png" -o not.png
said "disc.png: the mask has"
absent not.png
row "edit --mask wants a mask of the picture's size"

tiny_edit 3 nowhere.png cat
said 'nowhere.png'
tiny_edit 3 "$root/tests/cli/disc.png"
said 'tells no prompt'
run 2 edit
said 'needs a picture'
tiny_edit 2 before.png cat --strength 2
said 'strength'
tiny_edit 2 before.png cat --count 2 --variations 2
said 'one of them'
tiny_edit 2 before.png cat --memory much
said 'much'
row "edit's mistakes: exit codes and reasons"

# ---- mistakes ----

run 2 draw
said 'needs a prompt'
run 2 draw red cat
said 'in quotes'
run 2 draw cat --colour red
said 'colour'
run 2 draw cat --steps many
said 'many'
run 2 draw ''
said 'empty'
for bad in '--steps 0' '--steps 1001' '--size 0' '--size 100' '--size 4096' '--count 0' \
    '--count 65' '--guidance -1' '--guidance 200' '--guidance nan' '--seed -2' '--type f64' \
    '--threads -1' '--backend abacus'; do
    # shellcheck disable=SC2086
    run 2 draw cat --model "$tiny" $bad
    silent
done
tiny_draw 2 cat --sampler crayon
said 'dpm++2m-karras'
tiny_draw 2 cat --spacing crayon
said 'sgm_uniform'
tiny_draw 2 cat --sampler ddim --sigmas karras
said 'plain ones only'
tiny_draw 2 cat --rng dice
tiny_draw 2 cat --clip-skip 9
said 'has 2 layers'
tiny_draw 2 cat --style baroque
run 2 draw cat --model "$tiny" --size 72
said '64 or 80'
run 2
run 2 paint
said 'paint'
run 2 cutout
run 2 cutout cat.png
said ' -o '
run 2 explain
run 2 explain encoder
run 2 explain unet --type f64
run 2 bench encoder
run 2 bench --batch 0
run 2 bench --type f64 unet
run 2 draw cat --model "$tiny" --backend cpu --type f16 --size 64
said 'does not compute in f16'
run 2 info one two
run 2 serve now
run 2 serve --idle -1
run 2 serve --memory much
said 'as 3G'
[ -z "$(ls emoji-cat* 2>/dev/null)" ] || fail "a mistake wrote a file"
row "mistakes in the arguments: exit code 2, said on standard error"

run 3 draw cat --model /nowhere
said '/nowhere'
run 3 draw cat --model "$work"
said 'model_index.json'
tiny_draw 3 cat -o /nowhere/cat.png
said '/nowhere'
tiny_draw 3 cat -o .
run 3 info /nowhere
run 3 explain --model /nowhere unet
run 3 cutout /nowhere.png -o x.png
said '/nowhere.png'
echo "not a picture" >text.png
run 3 cutout text.png -o x.png
said 'text.png'
absent x.png
cp -r "$tiny" damaged
head -c 1000 "$tiny/unet/diffusion_pytorch_model.safetensors" \
    >damaged/unet/diffusion_pytorch_model.safetensors
run 3 draw cat --model damaged -o x.png
said 'diffusion_pytorch_model.safetensors'
absent x.png
row "files: exit code 3 and the file's name"

case ${BUILD:-build} in
*sanitize*) echo "skip cli: memory: the address sanitizer has no use for a limit on addresses" ;;
*)
    (
        ulimit -v 400000
        "$moji" draw cat --model "$tiny" --size 2048 --steps 1 --threads 1 -o x.png
    ) >out 2>err
    code=$?
    [ $code -eq 4 ] || fail "exit code $code, expected 4: $(head -c 300 err)"
    said 'memory'
    absent x.png
    row "too little memory: exit code 4"
    ;;
esac

# Long enough to be interrupted; a shell would start it with SIGINT ignored, so SIGTERM here.
"$moji" draw cat --model "$tiny" --size 256 --steps 900 --sampler ddim --threads 1 -o x.png \
    >out 2>err &
pid=$!
sleep 1
kill -TERM $pid
wait $pid
code=$?
[ $code -eq 5 ] || fail "exit code $code, expected 5: $(head -c 300 err)"
said 'Cancelled'
silent
absent x.png
row "interrupted: exit code 5 and nothing written"

# ---- the other commands ----

run 0 --version
printed '^moji [0-9]'
run 0 --help
for command in draw edit cutout info explain bench serve fetch convert; do
    printed "moji $command"
done
printed 'Exit codes: 0 .* 5 cancelled\|5 cancelled'
run 0 draw --help
for option in output negative seed steps guidance sampler spacing sigmas rng clip-skip size count background style transparent \
    model backend type threads dump variations amount variation-seed memory; do
    printed "--$option"
done
printed 'moji draw .*PROMPT'
run 0 edit --help
printed 'moji edit .*IN.png'
for option in mask strength output negative; do
    printed "--$option"
done
run 0 fetch --help
for option in accept-licence sha256 token; do
    printed "--$option"
done
run 0 serve --help
printed '--stdio'
printed '--idle'
printed '--memory'
run 0 explain --help
for option in model vae size batch type; do
    printed "--$option"
done
run 0 cutout --help
printed '--output'
run 0 info --help
row "help names every command and option"

run 0 info "$tiny"
printed 'tiny-sd'
printed 'pndm (default)'
printed 'multiples of 16'
printed 'unet .*values'
row "info"

for network in unet vae text; do
    run 0 explain --model "$tiny" --size 64 "$network"
    printed 'records'
done
run 0 explain --model "$tiny" --size 64 --batch 1 --type f32 unet
printed '\[1,16,16,4\]'
cp -r "$tiny" bare
rm bare/*/*.safetensors
run 0 explain --model bare unet
run 0 explain --model "$tiny" --vae "$root/tests/fixtures/tiny-taesd" --size 64 --type f32 vae
printed 'decoder.layers'
run 3 explain --model "$tiny" --vae nowhere vae
said 'nowhere: there is no such VAE'
row "explain, without weights too"
run 0 explain --model bare --backend cpu --type f32 draw
for word in weights activations 'all  *[1-9]'; do
    printed "$word"
done
row "explain states the memory of a drawing"

run 0 bench --model "$tiny" --size 64 --runs 1 --steps 1 --threads 1 --json figures.json
for word in text: unet: vae: draw: 'limits measured here'; do
    printed "$word"
done
for member in limit_tflops limit_gbs conv2d attention; do
    grep -q "\"$member\"" figures.json || fail "figures.json lacks $member"
done
row "bench, in a table and as JSON"

"$moji" cutout "$root/tests/cli/disc.png" -o cut.png >out 2>err
code=$?
[ $code -eq 0 ] || fail "exit code $code: $(head -c 300 err)"
said 'background #00b140'
there cut.png
run 1 cutout cat.png -o not.png
said 'not flat'
absent not.png
row "cutout"

echo "# $passed passed, $failed failed"
[ $failed -eq 0 ]
