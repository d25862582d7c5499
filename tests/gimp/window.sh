# window.sh: the part of run.sh that has a display. Read by run.sh, whose functions it uses.
#
# Keys go to whatever has the focus (xdotool without a window), as a person's would. What has happened in
# the window is learnt from the settings file, which is written after each emoji.

rc=$work/profile/emoji-makerrc

display_start() {
    Xvfb -displayfd 3 -screen 0 1280x900x24 3>"$work/display" >/dev/null 2>&1 &
    own="$own $!"
    for _ in $(seq 100); do
        [ -s "$work/display" ] && break
        sleep 0.1
    done
    [ -s "$work/display" ] || return 1
    DISPLAY=:$(cat "$work/display")
    export DISPLAY
    openbox >/dev/null 2>&1 &
    own="$own $!"
    sleep 0.5
    xdotool mousemove 1270 890 # away from tooltips
}

# A display is there or is started, and the stand-in is the engine; or the part is skipped.
with_window() { # PART
    for tool in Xvfb openbox xdotool import; do
        if ! command -v $tool >/dev/null; then
            say "skip $1: there is no $tool"
            return 1
        fi
    done
    stop_engines
    export MOJI_ENGINE="$work/engines/standin" MOJI_MODEL="$work/tiny"
    [ -n "${DISPLAY:-}" ] || display_start || { fail "$1" "Xvfb does not start"; return 1; }
}

# window TITLE: the id of the window, once it is there and has the focus.
window() {
    for _ in $(seq 150); do
        id=$(xdotool search --onlyvisible --name "$1" 2>/dev/null | tail -n 1)
        if [ -n "$id" ]; then
            sleep 0.3
            xdotool windowactivate --sync "$id" 2>/dev/null
            echo "$id"
            return
        fi
        sleep 0.2
    done
    return 1
}

shot() { # NAME ID
    import -window "$2" "$shots/$1.png" 2>/dev/null || fail "screenshot-$1" "import failed"
}

keys() {
    xdotool key --delay 60 "$@"
    sleep 0.4
}

# make WORDS: over what is in the prompt, and Enter.
make_emoji() {
    xdotool key --clearmodifiers alt+d ctrl+a
    xdotool type --delay 12 "$1"
    sleep 0.2
    xdotool key Return
}

made() { # WORDS [MEMBER]: when the settings hold them, as the prompt
    for _ in $(seq 150); do
        grep -q "^${2:-prompt}=$1$" "$rc" 2>/dev/null && sleep 0.7 && return 0
        sleep 0.2
    done
    return 1
}

part_english() {
    with_window english || return
    rm -f "$rc"
    (
        id=$(window '^Emoji Maker$') || exit
        sleep 1.5
        shot en-1-open "$id"
        make_emoji "slow happy cat"
        sleep 1.5
        shot en-2-drawing "$id"
        made "slow happy cat"
        shot en-3-done "$id"
        keys alt+a
        shot en-4-advanced "$id"
        keys alt+a
        make_emoji "fail"
        sleep 1.5
        shot en-5-error "$id"
        make_emoji "uneven cat"
        made "uneven cat"
        shot en-6-warning "$id"
        make_emoji "slow cancelled"
        sleep 1
        keys Escape # ends the drawing
        sleep 0.5
        shot en-7-cancelled "$id"
        keys Escape # closes the window
    ) &
    run_scm window window.scm
    wait $!
    check window-remembers "$rc" grep -q '^history=uneven cat;slow happy cat;$' "$rc"
    check window-remembers-no-cancelled "$rc" sh -c "! grep -q cancelled '$rc'"
}

part_editing() {
    with_window editing || return
    rm -f "$rc"
    (
        id=$(window '^Edit Emoji$') || exit
        sleep 1.5
        shot edit-1-open "$id"
        make_emoji "sad robot"
        made "sad robot" edit-prompt && cp "$rc" "$work/first-edit"
        keys alt+s Left
        make_emoji "glad robot"
        made "glad robot" edit-prompt
        shot edit-2-done "$id"
        keys Escape
    ) &
    run_scm editing editing.scm
    wait $!
    check edit-window-leaves-the-last-emoji "$rc" sh -c "! grep -q '^prompt=.* robot' '$rc'"
    check edit-window-leaves-the-strength-to-the-model "$work/first-edit" \
        grep -q '^edit-strength=-1' "$work/first-edit"
}

part_korean() {
    with_window korean || return
    (
        id=$(LANGUAGE=ko window '^이모지 메이커$') || exit
        sleep 1.5
        shot ko-1-open "$id"
        keys alt+a
        shot ko-2-advanced "$id"
        keys Escape
    ) &
    # GIMP's own dark theme, where some colours of GTK's own widgets cannot be read.
    GTK2_RC_FILES=$(dirname "$(dirname "$system")")/../../share/gimp/2.0/themes/Dark/gtkrc \
        LANGUAGE=ko run_scm korean korean.scm
    wait $!
}

until_told() { # WORD [TRIES]
    for _ in $(seq "${2:-400}"); do
        [ -e "$work/$1" ] && return 0
        sleep 0.2
    done
    return 1
}

# A browser that writes down what it was asked to open.
browser_start() {
    mkdir -p "$HOME/.local/share/applications" "$XDG_CONFIG_HOME"
    printf '[Desktop Entry]\nType=Application\nName=Browser\nExec=%s %%u\n' \
        "$work/bin/browser" >"$HOME/.local/share/applications/browser.desktop"
    printf '[Default Applications]\ntext/html=browser.desktop\n' >"$XDG_CONFIG_HOME/mimeapps.list"
    mkdir -p "$work/bin"
    printf '#!/bin/sh\necho "$1" >%s/opened\n' "$work" >"$work/bin/browser"
    chmod +x "$work/bin/browser"
}

# The keyboard's side of whole.scm.
work_in_gimp() {
    until_told ready || return
    gimp=$(window '\[Untitled\].*GIMP') || return
    sleep 2
    xdotool key alt+r
    sleep 2.5
    # By arrows: GIMP shows the letter of a plug-in's own submenu only on the first start.
    xdotool key --delay 100 Up Up Right
    sleep 1
    shot gimp-menu root
    xdotool key m
    id=$(window '^Emoji Maker$') || return
    sleep 1
    xdotool key alt+h
    until_told opened 40
    make_emoji "menu cat"
    until_told made && made "menu cat" || return
    shot gimp-layer root
    touch "$work/settled"
    until_told edited || return
    xdotool windowactivate --sync "$gimp" key ctrl+z
    until_told unedited || return
    xdotool key ctrl+z
    until_told undone || return
    xdotool windowactivate --sync "$id"
    sleep 0.5
    keys Escape
    xdotool windowactivate --sync "$gimp" key ctrl+f
    until_told repeated || return
    sleep 0.5
    xdotool key ctrl+shift+f
    id=$(window '^Emoji Maker$') || return
    sleep 1
    make_emoji "slow orphan"
    sleep 1
    touch "$work/drawing"
    until_told closed || return
    sleep 0.5
    shot gimp-closed "$id"
    xdotool windowactivate --sync "$id" key Escape
    for _ in $(seq 20); do
        xdotool search --onlyvisible --name '^Emoji Maker$' >/dev/null 2>&1 || break
        sleep 0.2
    done
    touch "$work/all-done"
}

part_whole() {
    with_window whole || return
    rm -f "$rc" "$work/results"
    browser_start
    work_in_gimp &
    timeout -k 5 240 gimp -n -s -d -f -g "$work/gimprc" -b "(begin
        (define results-file \"$work/results\") (define work-folder \"$work\")
        (load \"$here/common.scm\") (load \"$here/whole.scm\"))" -b '(gimp-quit 1)' \
        >"$work/whole.out" 2>"$work/whole.err"
    kill $! 2>/dev/null
    wait $! 2>/dev/null
    # GIMP's own, once: bringing a replaced parasite back ends a group of undos that it never began.
    sed -i '0,/CRITICAL: gimp_image_undo_group_end: /{//d}' "$work/whole.err"
    look_at whole
    check help-opens-the-page "$(cat "$work/opened" 2>&1)" \
        grep -q 'emoji-maker/help/en/index.html' "$work/opened"
}
