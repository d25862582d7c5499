#!/bin/sh
# run.sh: runs the suite that `make test` built, and adds up.
#
#     tests/run.sh [BUILD] [WORD...]      only programs whose name holds one of the words
#
# Runs the program of every tests/test_*.c, of every tests/fuzz/fuzz_*.c (a replay of its corpus) and
# every tests/*/run.sh, each with a time limit and a home of its own. All print "ok NAME", "FAIL NAME: why"
# or "skip NAME: why". A program that crashes, hangs or ends with an error and no FAIL line is itself
# a failure. The last line is the sum; the exit status is 0 if nothing failed.
set -u
cd "$(dirname "$0")/.." || exit 2
BUILD=${1:-build}
[ $# -gt 0 ] && shift
WORDS=$*
case $BUILD in
*sanitize*) LIMIT=${LIMIT:-1200} ;;
*) LIMIT=${LIMIT:-600} ;;
esac

work=$(mktemp -d "${TMPDIR:-/tmp}/moji-suite.XXXXXX") || exit 2
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
touch "$work/all"

# The tests must neither see nor change what the person who runs them has.
export BUILD HOME="$work/home" TMPDIR="$work/tmp" XDG_RUNTIME_DIR="$work/run"
unset XDG_CONFIG_HOME XDG_CACHE_HOME XDG_DATA_HOME GIMP2_DIRECTORY MOJI_ENGINE MOJI_MODEL DISPLAY
# Waiting threads sleep: the suite may share its cores.
export OMP_WAIT_POLICY=passive
export LC_ALL=C.UTF-8 GIO_USE_VFS=local GSETTINGS_BACKEND=memory
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1

wanted() {
    [ -z "$WORDS" ] && return 0
    for word in $WORDS; do
        case $1 in *"$word"*) return 0 ;; esac
    done
    return 1
}

# run NAME COMMAND...: its lines, and one more if it did not end as it should.
run() {
    name=$1
    shift
    wanted "$name" || return 0
    rm -rf "$HOME" "$TMPDIR" "$XDG_RUNTIME_DIR"
    mkdir -p "$HOME" "$TMPDIR" "$XDG_RUNTIME_DIR"
    chmod 700 "$XDG_RUNTIME_DIR"
    start=$(date +%s)
    { timeout -k 10 "$LIMIT" "$@" </dev/null 2>"$work/stderr"; echo $? >"$work/status"; } |
        tee "$work/out" | grep --line-buffered -v '^# [0-9]* passed'
    status=$(cat "$work/status")
    [ -s "$work/stderr" ] && sed 's/^/# /' "$work/stderr" | tail -n 60
    grep -E '^(ok|FAIL|skip) ' "$work/out" >"$work/lines"
    if [ "$status" = 124 ] || [ "$status" = 137 ]; then
        echo "FAIL $name: not done after $LIMIT s"
    elif [ "$status" -gt 128 ]; then
        echo "FAIL $name: ended by signal $((status - 128))"
    elif [ "$status" -ne 0 ] && ! grep -q '^FAIL ' "$work/lines"; then
        echo "FAIL $name: exit status $status"
    elif [ ! -s "$work/lines" ]; then
        echo "FAIL $name: no result"
    fi | tee -a "$work/lines"
    cat "$work/lines" >>"$work/all"
    echo "# $name: $(($(date +%s) - start)) s"
}

# By source: one that was not built then fails, and one that was removed does not run.
for source in tests/test_*.c tests/fuzz/fuzz_*.c; do
    [ -e "$source" ] || continue
    name=$(basename "$source" .c)
    case $name in
    test_*) run "$name" "$BUILD/tests/$name" ;;
    fuzz_*) run "$name" "$BUILD/fuzz/$name" ;;
    esac
done
for script in tests/*/run.sh; do
    [ -e "$script" ] && run "$(basename "$(dirname "$script")")" sh "$script"
done

passed=$(grep -c '^ok ' "$work/all")
failed=$(grep -c '^FAIL ' "$work/all")
skipped=$(grep -c '^skip ' "$work/all")
[ "$failed" -gt 0 ] && grep '^FAIL ' "$work/all" | sed 's/^FAIL /# failed: /'
[ $((passed + failed)) -eq 0 ] && echo "# nothing was run" && failed=1
sum="$passed passed, $failed failed"
[ "$skipped" -gt 0 ] && sum="$sum, $skipped skipped"
echo "$sum"
[ "$failed" -eq 0 ]
