#!/bin/sh
# install.sh: from a fresh Debian 12 to a first emoji, and back.
#
# It copies files in one place, copy_files, which notes each of them in a list; --uninstall removes
# what the list names and nothing else.
set -eu

usage() {
    cat <<'END'
usage: ./install.sh [--yes] [--prefix DIR] [--plug-ins DIR]
       ./install.sh --uninstall [--prefix DIR]

Installs what the build needs, builds, installs Emoji Maker for you, and draws a first emoji with
GIMP. Run it again at any time, for instance after an update.

  --yes              do not ask before installing Debian packages
  --prefix DIR       the engine goes to DIR/bin, the model to DIR/share/moji    (~/.local)
  --plug-ins DIR     GIMP's folder of plug-ins           (~/.config/GIMP/2.10/plug-ins)
  --uninstall        remove exactly what was installed; Debian packages stay
  --copy-only        install what is built already; no packages, no first emoji
  --packages-only    install the Debian packages and nothing else
  --tests            also those that only the test suite needs
  --destdir DIR      put everything below DIR, for packagers
  --help             this text
END
}

say() { printf '%s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }

# What the engine needs; then moji fetch and the plug-in, with what GIMP's icons and theme want; then the tests
# of the plug-in in a real window.
ENGINE_PACKAGES="gcc make pkg-config libc6-dev libglib2.0-dev libjson-glib-dev libpng-dev libdnnl-dev"
PLUGIN_PACKAGES="libcurl4-openssl-dev gimp libgimp2.0-dev gettext libgdk-pixbuf2.0-bin librsvg2-common iso-codes gtk2-engines-pixbuf"
TEST_PACKAGES="g++ python3 xvfb xdotool imagemagick openbox procps"

here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
mode=install yes=no tests=no destdir=
prefix=${HOME:?HOME is not set}/.local
plug_ins=

absolute() { case $1 in /*) say "$1" ;; *) say "$start/$1" ;; esac; }
start=${OLDPWD:-$here}
while [ $# -gt 0 ]; do
    case $1 in
    --yes) yes=yes ;;
    --tests) tests=yes ;;
    --prefix | --plug-ins | --destdir)
        [ $# -ge 2 ] || fail "$1 needs a folder"
        folder=$(absolute "$2")
        case $1 in
        --prefix) prefix=$folder ;;
        --plug-ins) plug_ins=$folder ;;
        --destdir) destdir=$folder ;;
        esac
        shift
        ;;
    --uninstall | --copy-only | --packages-only) mode=${1#--} ;;
    --help | -h) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift
done
if [ -z "$plug_ins" ]; then
    profile=${GIMP2_DIRECTORY:-${XDG_CONFIG_HOME:-$HOME/.config}/GIMP/2.10}
    case $profile in /*) ;; *) profile=$HOME/$profile ;; esac # as GIMP reads it
    plug_ins=$profile/plug-ins
fi
case $prefix$plug_ins$destdir in
*'
'*) fail "a folder's name holds a line break" ;;
esac
build=${BUILD:-build}
list=$destdir$prefix/share/moji/installed
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
touch "$scratch/copied"

# ---- packages ----

missing_of() {
    for package in "$@"; do
        dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
            printf ' %s' "$package"
    done
}

# Without Debian's tools there is nothing to install with; what matters is that the build finds all.
other_system() {
    if ! command -v make >/dev/null || ! command -v pkg-config >/dev/null; then
        fail "this is not a Debian system, and make, pkg-config or a C compiler is missing. Install
the equivalents of: $ENGINE_PACKAGES $PLUGIN_PACKAGES"
    fi
    say "not a Debian system: no packages are installed, make will say what it lacks"
}

agree() {
    [ "$yes" = yes ] && return 0
    [ -t 0 ] || return 1
    printf '%s [Y/n] ' "$1"
    read -r answer
    case $answer in '' | [yY]*) return 0 ;; esac
    return 1
}

# Leaves in $missing what this system has: a newer one may have GIMP 3, for which the plug-in is not.
offered() {
    missing=
    for package in "$@"; do
        if [ -n "$(apt-cache show "$package" 2>/dev/null)" ]; then
            missing="$missing $package"
        else
            say "not among this system's packages: $package"
        fi
    done
}

install_packages() {
    if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
        other_system
        return 0
    fi
    wanted="$ENGINE_PACKAGES $PLUGIN_PACKAGES"
    [ "$tests" = yes ] && wanted="$wanted $TEST_PACKAGES"
    # shellcheck disable=SC2086
    missing=$(missing_of $wanted)
    [ -z "$missing" ] && return 0
    say "Debian packages that are missing:$missing"
    command="apt-get install --no-install-recommends$missing"
    root=
    if [ "$(id -u)" != 0 ]; then
        root=sudo
        command="sudo $command"
        command -v sudo >/dev/null || { without_packages "$command"; return 0; }
    elif [ "$tests" = yes ]; then
        yes=yes # the suite of a fresh checkout runs without questions
    fi
    agree "Install them?" || { without_packages "$command"; return 0; }
    $root env DEBIAN_FRONTEND=noninteractive apt-get update -q
    # shellcheck disable=SC2086
    offered $missing
    [ -n "$missing" ] || return 0
    # shellcheck disable=SC2086 # a list of words
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
}

# Fatal if the engine needs them, else the build and the suite go on with less.
without_packages() {
    say "To install them:"
    say "    $1"
    # shellcheck disable=SC2086
    lacking=$(missing_of $ENGINE_PACKAGES)
    [ -z "$lacking" ] || fail "the engine cannot be built without:$lacking"
    say "going on without:$missing"
}

# ---- copying, and the list of what was copied ----

# Lines of the list: "f PATH" a file, "d PATH" a folder that was not there before. Paths have no
# DESTDIR in them.
noted() { [ -e "$list" ] && grep -qxF "$1" "$list"; }
note() { noted "$1" || printf '%s\n' "$1" >>"$list"; }

make_folder() {
    [ -d "$destdir$1" ] && return 0
    make_folder "$(dirname "$1")"
    mkdir "$destdir$1"
    note "d $1"
}

# The list itself lies in a folder that has to be noted in it.
start_list() {
    [ -z "$destdir" ] || mkdir -p "$destdir"
    new=
    folder=$prefix/share/moji
    while [ ! -d "$destdir$folder" ]; do
        new="d $folder
$new"
        folder=$(dirname "$folder")
    done
    mkdir -p "$destdir$prefix/share/moji"
    [ -z "$new" ] || printf '%s' "$new" >>"$list"
    note "f $prefix/share/moji/installed"
}

# copy FROM TO MODE: to a new name, then over the old, so that a running engine keeps its file.
copy() {
    if [ -e "$destdir$2" ] && ! noted "f $2"; then
        fail "$destdir$2 is there already and is not ours: move it away, or choose another folder"
    fi
    make_folder "$(dirname "$2")"
    note "f $2"
    cp "$1" "$destdir$2.new"
    chmod "$3" "$destdir$2.new"
    mv -f "$destdir$2.new" "$destdir$2"
    printf '%s\n' "f $2" >>"$scratch/copied"
}

# What an earlier version installed here and this one did not.
drop_old() {
    grep -vxF -f "$scratch/copied" "$list" | sed -n 's/^f //p' >"$scratch/old" || true
    while IFS= read -r file; do
        case $file in "$prefix/share/moji/installed" | "$prefix/share/moji/first-emoji.png") continue ;; esac
        rm -f "$destdir$file"
        grep -vxF "f $file" "$list" >"$scratch/list" && cp "$scratch/list" "$list"
    done <"$scratch/old"
}

# copy_tree FROM TO: the files of a folder, with links followed.
copy_tree() {
    (cd "$1" && find . -type f -o -type l) | sed 's|^\./||' | sort | while IFS= read -r file; do
        mode_bits=644
        [ -x "$1/$file" ] && mode_bits=755
        copy "$1/$file" "$2/$file" "$mode_bits"
    done
}

copy_files() {
    [ -x "$build/moji" ] || fail "$build/moji is not there: run make first"
    [ -f model/moji-mini/model_index.json ] || fail "model/moji-mini is not there: the checkout is incomplete"
    start_list
    copy "$build/moji" "$prefix/bin/moji" 755
    [ ! -f "$build/libmoji-cuda.so" ] || copy "$build/libmoji-cuda.so" "$prefix/lib/moji/libmoji-cuda.so" 755
    copy_tree model/moji-mini "$prefix/share/moji/moji-mini"
    copy_tree model/sd1 "$prefix/share/moji/sd1"
    copy engine/korean.tsv "$prefix/share/moji/korean.tsv" 644
    copy engine/korean/LICENSE "$prefix/share/moji/korean.LICENSE" 644
    for file in LICENSE model/LICENSE; do
        [ -f "$file" ] && copy "$file" "$prefix/share/moji/$file" 644
    done
    say "engine:  $destdir$prefix/bin/moji"
    say "model:   $destdir$prefix/share/moji/moji-mini"
    copy_plugin
    drop_old
}

copy_plugin() {
    [ -x "$build/plug-ins/emoji-maker/emoji-maker" ] || {
        say "not installed: the plug-in, which was not built"
        return 0
    }
    copy_tree "$build/plug-ins/emoji-maker" "$plug_ins/emoji-maker"
    printf '%s\n' "$prefix/bin/moji" >"$scratch/engine.path"
    copy "$scratch/engine.path" "$plug_ins/emoji-maker/engine.path" 644
    say "plug-in: $destdir$plug_ins/emoji-maker"
}

# ---- the first emoji ----

# Through GIMP and the installed plug-in, but with a profile of its own: yours stays untouched.
first_emoji() {
    if ! command -v gimp >/dev/null || [ ! -x "$plug_ins/emoji-maker/emoji-maker" ]; then
        say "GIMP or the plug-in is missing, so the engine draws alone:"
        "$prefix/bin/moji" draw --seed "$SEED" -o "$scratch/first-emoji.png" "$PROMPT"
        copy "$scratch/first-emoji.png" "$picture" 644
        return
    fi
    profile=$scratch/gimp
    mkdir -p "$profile/plug-ins"
    ln -s "$plug_ins/emoji-maker" "$profile/plug-ins/emoji-maker"
    for name in script-fu file-png; do
        ln -s "$(pkg-config --variable=gimplibdir gimp-2.0)/plug-ins/$name" "$profile/plug-ins/$name"
    done
    printf '(plug-in-path "%s")\n(check-updates no)\n' "$profile/plug-ins" >"$profile/rc"
    drawn=$scratch/first-emoji.png
    GIMP2_DIRECTORY="$profile/profile" timeout 600 gimp -i -d -f -g "$profile/rc" -b "
        (let* ((made (plug-in-moji-new RUN-NONINTERACTIVE \"$PROMPT\" \"\" \"\" $SEED 0 -1 \"\" TRUE \"\" \"\"))
               (image (car made)) (layer (cadr made)))
          (if (> (car (gimp-layer-get-mask layer)) 0) (gimp-layer-remove-mask layer MASK-APPLY))
          (file-png-save RUN-NONINTERACTIVE image layer \"$drawn\" \"\" 0 9 0 0 0 0 0))" \
        -b '(gimp-quit 0)' >"$profile/log" 2>&1 || true
    if [ ! -s "$drawn" ]; then
        cat "$profile/log" >&2
        fail "everything is installed, but GIMP drew nothing; its messages are above"
    fi
    copy "$drawn" "$picture" 644
}

PROMPT="grinning cat"
SEED=1

install_all() {
    case $(uname -m) in
    x86_64 | amd64) ;;
    *) say "note: $(uname -m) is not tested; the engine is made for x86-64 and may be slow here" ;;
    esac
    [ -n "${SUDO_USER:-}" ] && say "note: this installs for $(id -un); for yourself, run it without sudo"
    install_packages
    make -j"$(nproc 2>/dev/null || echo 2)" all
    copy_files
    picture=$prefix/share/moji/first-emoji.png
    say "drawing \"$PROMPT\" ..."
    first_emoji
    say "first emoji: $picture"
    say "In GIMP: Filters > Emoji Maker > Make Emoji (restart GIMP if it is open)."
    case :$PATH: in
    *":$prefix/bin:"*) ;;
    *) say "To use moji on the command line, add $prefix/bin to your PATH." ;;
    esac
}

# ---- removing ----

# The resident engine, and what it leaves where it ran.
stop_engine() {
    for exe in /proc/[0-9]*/exe; do
        [ "$(readlink "$exe" 2>/dev/null)" = "$prefix/bin/moji" ] || continue
        pid=${exe#/proc/}
        kill "${pid%/exe}" 2>/dev/null || true
    done
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/moji
    rm -f "$cache/engine.log" "$cache/run/engine.lock" "$cache/run/engine.sock"
    rmdir "$cache/run" "$cache" 2>/dev/null || true
}

remove_files() {
    [ -f "$list" ] || fail "nothing of ours is below $destdir$prefix ($list is not there)"
    [ -n "$destdir" ] || stop_engine
    cp "$list" "$scratch/list"
    removed=0
    while IFS= read -r line; do
        case $line in
        "f "*)
            [ -e "$destdir${line#f }" ] && removed=$((removed + 1))
            rm -f "$destdir${line#f }"
            ;;
        esac
    done <"$scratch/list"
    # Deepest first; a folder that holds something of yours stays.
    sed -n 's/^d //p' "$scratch/list" | sort -r | while IFS= read -r folder; do
        rmdir "$destdir$folder" 2>/dev/null || true
        case $folder in
        */emoji-maker | "$prefix/share/moji")
            [ ! -d "$destdir$folder" ] || say "kept, since it holds other files: $destdir$folder" ;;
        esac
    done
    say "removed $removed files"
}

case $mode in
install) install_all ;;
copy-only) copy_files ;;
packages-only) install_packages ;;
uninstall) remove_files ;;
esac
