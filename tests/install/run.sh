#!/bin/sh
# run.sh: install.sh copies, runs from where it copied to, and takes back exactly that. In a home
# whose name has a space, with files of somebody else's in it.
set -u
cd "$(dirname "$0")/../.." || exit 2
export BUILD="${BUILD:-build}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME="$work/a home" XDG_CONFIG_HOME="$work/a home/.config"
bin=$HOME/.local/bin
profile=$HOME/.config/GIMP/2.10
mkdir -p "$bin" "$profile/plug-ins"
echo mine >"$bin/mine"
echo mine >"$profile/plug-ins/mine"
(cd "$HOME" && find . | sort) >"$work/before"

check() { # NAME WHY, after the condition
    if [ $? -eq 0 ]; then echo "ok install: $1"; else echo "FAIL install: $1: $2"; fi
}

./install.sh --copy-only >"$work/log" 2>&1
check "copies" "$(tail -n 1 "$work/log")"
"$bin/moji" --version >"$work/log" 2>&1
check "the installed engine starts" "$(tail -n 1 "$work/log")"

if [ -x "$BUILD/plug-ins/emoji-maker/emoji-maker" ]; then
    [ -x "$profile/plug-ins/emoji-maker/emoji-maker" ] &&
        [ "$(cat "$profile/plug-ins/emoji-maker/engine.path")" = "$bin/moji" ]
    check "the plug-in knows the engine" "engine.path in $profile/plug-ins/emoji-maker"
else
    echo "skip install: the plug-in knows the engine: it was not built"
fi

(cd "$HOME" && find . -type f -exec cksum {} + | sort) >"$work/first"
./install.sh --copy-only >"$work/log" 2>&1
(cd "$HOME" && find . -type f -exec cksum {} + | sort) >"$work/second"
cmp -s "$work/first" "$work/second"
check "a second time changes nothing" "$(diff "$work/first" "$work/second" | head -n 1)"

./install.sh --uninstall >"$work/log" 2>&1
(cd "$HOME" && find . | sort) >"$work/after"
cmp -s "$work/before" "$work/after"
check "uninstalling leaves what was" "$(diff "$work/before" "$work/after" | head -n 1)"

echo somebody >"$bin/moji"
! ./install.sh --copy-only >"$work/log" 2>&1 && [ "$(cat "$bin/moji")" = somebody ] &&
    grep -q "is not ours" "$work/log"
check "a file that is not ours stays" "$(tail -n 1 "$work/log")"
