#!/bin/sh
# run.sh: the plug-in in a real GIMP: headless, and its window on a display of its own.
#
#     BUILD=build sh tests/gimp/run.sh [WORD...]     only parts whose name holds one of the words
#
# GIMP's exit status is 0 whatever happens, so every .scm file writes its own results, and what GIMP
# says on standard error is looked through as well. Pictures of the windows are left in build/screenshots/
# to be looked at. Prints "ok NAME", "FAIL NAME: why" or "skip NAME: why", and the sum.
set -u
cd "$(dirname "$0")/../.." || exit 2
root=$PWD
BUILD=${BUILD:-build}
case $BUILD in /*) ;; *) BUILD=$root/$BUILD ;; esac
here=$root/tests/gimp
shots=$root/build/screenshots
WORDS=$*

work=$(mktemp -d "${TMPDIR:-/tmp}/moji-gimp.XXXXXX") || exit 2
lines=$work/lines
touch "$lines"
LIMIT=${LIMIT:-90} # seconds for one GIMP
own="" # processes that were started here

finish() {
    for pid in $own $(engines); do kill "$pid" 2>/dev/null; done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { echo "$@" | tee -a "$lines"; }
ok() { say "ok $1"; }
fail() { say "FAIL $1: $2"; }
check() { # NAME WHY COMMAND...
    name=$1 why=$2
    shift 2
    if "$@"; then ok "$name"; else fail "$name" "$why"; fi
}
wanted() {
    [ -z "$WORDS" ] && return 0
    for word in $WORDS; do
        case $1 in *"$word"*) return 0 ;; esac
    done
    return 1
}
sum() {
    failed=$(grep -c '^FAIL ' "$lines")
    echo "# $(grep -c '^ok ' "$lines") passed, $failed failed, $(grep -c '^skip ' "$lines") skipped"
    [ "$failed" -eq 0 ]
    exit
}

# --- a home, a GIMP and engines of our own ---

mkdir -p "$work/home" "$work/run" "$work/tmp" "$work/plug-ins" "$work/engines" "$shots"
chmod 700 "$work/run"
export HOME="$work/home" XDG_RUNTIME_DIR="$work/run" XDG_CACHE_HOME="$work/home/.cache"
export XDG_CONFIG_HOME="$work/home/.config" TMPDIR="$work/tmp"
export LC_ALL=C.UTF-8 LANGUAGE=en NO_AT_BRIDGE=1 ASAN_OPTIONS=detect_leaks=0
unset DISPLAY MOJI_ENGINE MOJI_MODEL

plugin=$BUILD/plug-ins/emoji-maker
if ! command -v gimp >/dev/null; then
    say "skip gimp: GIMP is not installed"
    sum
elif [ ! -x "$plugin/emoji-maker" ]; then
    say "skip gimp: the plug-in was not built"
    sum
fi
system=$(dirname "$(dirname "$(readlink -f "$(command -v gimp)")")")/lib/gimp/2.0/plug-ins
[ -d "$system/script-fu" ] || system=$(gimptool-2.0 --gimpplugindir 2>/dev/null)/plug-ins
for name in script-fu file-png help web-browser; do ln -s "$system/$name" "$work/plug-ins/$name"; done
ln -s "$plugin" "$work/plug-ins/emoji-maker"
printf '(plug-in-path "%s")\n(check-updates no)\n' "$work/plug-ins" >"$work/gimprc"
export GIMP2_DIRECTORY="$work/profile"

# Engines run from copies with a path that nothing else on the machine has.
cp "$BUILD/tests/gimp/standin" "$work/engines/standin"
cp "$BUILD/moji" "$work/engines/moji"
engines() { pgrep -f "^$work/engines/[a-z]* serve" 2>/dev/null; }

# The fixture has no card, and its weights are random: a card makes it small and quick.
cp -r "$root/tests/fixtures/tiny-sd" "$work/tiny"
cat >"$work/tiny/moji.json" <<'CARD'
{"name": "tiny", "steps": 3, "size": 64, "guidance": 2, "prompt": "{prompt}, {style}",
 "styles": ["flat", "glossy"], "default_style": "flat",
 "backgrounds": {"green": "#00b140", "white": "#ffffff"}, "default_background": "green"}
CARD

# run_scm NAME FILE.scm DEFINITIONS: the file in a GIMP of its own, and its results.
run_scm() {
    case $2 in /*) scm=$2 ;; *) scm=$here/$2 ;; esac
    rm -f "$work/results"
    timeout -k 5 "$LIMIT" gimp -i -d -f -g "$work/gimprc" -b "(begin
        (define results-file \"$work/results\") (define work-folder \"$work\") ${3:-}
        (load \"$here/common.scm\") (load \"$scm\"))" -b '(gimp-quit 0)' \
        >"$work/$1.out" 2>"$work/$1.err"
    look_at "$1"
}
look_at() {
    [ -s "$work/results" ] && grep -v '^end$' "$work/results" | tee -a "$lines"
    if ! grep -q '^end$' "$work/results" 2>/dev/null; then
        fail "$1" "GIMP did not get to the end: $(tail -n 3 "$work/$1.err" | tr '\n' ' ')"
    fi
    # Of GIMP's own noise only that of themes is known and harmless.
    grep -E 'CRITICAL|-WARNING|Plug-in crashed|EEEE|AddressSanitizer|runtime error' "$work/$1.err" |
        grep -v -E 'theme|Gtk-WARNING.*(engine|module)' >"$work/noise"
    check "$1-no-criticals" "$(head -n 2 "$work/noise" | tr '\n' ' ')" [ ! -s "$work/noise" ]
}

# --- parts ---

part_translation() {
    if ! command -v msgcmp >/dev/null; then
        say "skip translation: gettext is not installed"
        return
    fi
    for po in "$root"/plugin/po/*.po; do
        lang=$(basename "$po" .po)
        check "translation-$lang-complete-and-fresh" "$(msgcmp "$po" "$BUILD/emoji-maker.pot" 2>&1 |
            tail -n 2 | tr '\n' ' ')" msgcmp "$po" "$BUILD/emoji-maker.pot" 2>/dev/null
        check "translation-$lang-well-formed" "msgfmt -c: $(msgfmt -c -o /dev/null "$po" 2>&1 |
            head -n 1)" msgfmt -c -o /dev/null "$po"
    done
    ls plugin/*.c | cmp -s - plugin/po/POTFILES
    check translation-lists-every-file "plugin/po/POTFILES" [ $? -eq 0 ]
}

part_draw() {
    stop_engines
    MOJI_ENGINE="$work/engines/standin" MOJI_MODEL="$work/tiny" run_scm draw draw.scm
    check warning-is-told "$(tail -n 1 "$work/draw.err")" \
        grep -q 'only 40 % of the frame' "$work/draw.err"
}

part_edit() {
    stop_engines
    MOJI_ENGINE="$work/engines/standin" MOJI_MODEL="$work/tiny" run_scm edit edit.scm
}

# same NAME MODEL PROMPT SAVE-TO: `moji draw` and the plug-in draw the same, with a cut-out if one is made.
same() {
    stop_engines
    MOJI_MODEL="$2" "$work/engines/moji" draw "$3" --seed 3 --transparent -o "$work/$1.png" \
        >/dev/null 2>"$work/moji.err" || fail "$1" "moji draw: $(tail -n 1 "$work/moji.err")"
    MOJI_ENGINE="$work/engines/moji" MOJI_MODEL="$2" run_scm "$1" same.scm "
        (define name \"$1\") (define prompt \"$3\") (define remove TRUE)
        (define save-to $4) (define png-file \"$work/$1.png\")"
}

part_real() {
    same real "$work/tiny" "sleepy robot" '#f'
}

part_killed() {
    stop_engines
    (
        for _ in $(seq 200); do # until it draws
            pid=$(engines | head -n 1)
            if [ -n "$pid" ]; then
                sleep 1
                kill -9 "$pid"
                exit
            fi
            sleep 0.1
        done
    ) &
    MOJI_ENGINE="$work/engines/moji" MOJI_MODEL="$work/tiny" run_scm killed kill.scm
    wait $!
}

stop_engines() {
    for pid in $(engines); do kill "$pid"; done
    for _ in $(seq 30); do
        [ -z "$(engines)" ] && return
        sleep 0.1
    done
}

part_bundled() {
    model=$root/model/moji-mini
    if [ ! -e "$model/model_index.json" ]; then
        say "skip bundled: the bundled model is not there"
        return
    fi
    LIMIT=200 # it is a real drawing
    same bundled "$model" "smiling cat face" "\"$shots/bundled.png\""
    LIMIT=90
}

part_finding() {
    stop_engines
    nothing='(check-error "no-engine" "was not found.*install.sh" (lambda ()
        (plug-in-moji-new RUN-NONINTERACTIVE "cat" "" "" 1 0 -1 "" FALSE "" "")))'
    works='(test "found" (lambda () (plug-in-moji-new RUN-NONINTERACTIVE "cat" "" "" 1 0 -1 "" FALSE "" "")
        (check (string-append "found-" where) #t #t)))'
    path=$PATH
    rm "$work/plug-ins/emoji-maker"
    cp -r "$plugin" "$work/plug-ins/emoji-maker"
    PATH=/usr/bin:/bin
    for where in nowhere beside written home path command; do
        rm -rf "$work/plug-ins/emoji-maker/moji" "$work/plug-ins/emoji-maker/engine.path" "$HOME/.local"
        PATH=/usr/bin:/bin
        expect=$works
        case $where in
        nowhere) expect=$nothing ;;
        beside) ln -s "$work/engines/standin" "$work/plug-ins/emoji-maker/moji" ;;
        written) echo "$work/engines/standin" >"$work/plug-ins/emoji-maker/engine.path" ;;
        home) mkdir -p "$HOME/.local/bin" && ln -s "$work/engines/standin" "$HOME/.local/bin/moji" ;;
        command) printf '[Emoji Maker]\ncommand=%s serve --stdio\n' "$work/engines/standin" \
            >"$GIMP2_DIRECTORY/emoji-makerrc" ;;
        path) ln -s "$work/engines/standin" "$work/tmp/moji" && PATH=$work/tmp:/usr/bin:/bin ;;
        esac
        export PATH
        echo "$expect (done)" >"$work/find.scm"
        MOJI_MODEL="$work/tiny" run_scm "finding-$where" "$work/find.scm" "(define where \"$where\")"
    done
    PATH=$path
    rm -rf "$work/plug-ins/emoji-maker" "$HOME/.local" "$GIMP2_DIRECTORY/emoji-makerrc"
    ln -s "$plugin" "$work/plug-ins/emoji-maker"
}

# The batch that plugin/README.md shows, as it stands there.
part_readme() {
    stop_engines
    mkdir -p "$work/bin" "$work/readme"
    gimp=$(command -v gimp)
    printf '#!/bin/sh\nexec timeout -k 5 90 %s -g %s "$@"\n' "$gimp" "$work/gimprc" >"$work/bin/gimp"
    chmod +x "$work/bin/gimp"
    sed -n '/^```sh/,/^```$/p' "$root/plugin/README.md" | grep -v '^```' >"$work/readme/batch.sh"
    (cd "$work/readme" && PATH="$work/bin:$PATH" MOJI_ENGINE="$work/engines/standin" \
        MOJI_MODEL="$work/tiny" sh batch.sh >"$work/readme.out" 2>"$work/readme.err")
    echo '(define image (car (gimp-xcf-load RUN-NONINTERACTIVE path path)))
        (check "readme-ten-emojis" (car (gimp-image-get-layers image)) 10) (done)' >"$work/ten.scm"
    run_scm readme "$work/ten.scm" "(define path \"$work/readme/frogs.xcf\")"
}

. "$here/window.sh"

# The windows come last: they leave a display and an engine behind in the environment.
for part in translation draw edit real killed bundled finding readme english editing korean whole; do
    wanted $part || continue
    start=$(date +%s)
    part_$part
    echo "# gimp $part: $(($(date +%s) - start)) s"
done
sum
