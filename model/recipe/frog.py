"""Our own frog, drawn from nothing in a box of 36 units: one character with a face for every mood of moods.tsv.

The homage to where the idea of this program comes from, a frog that had a picture for every situation; the frog itself is new.
Its style word names it in prompts ("angry frog, gaegul"): the sound that frogs make in Korean.
"""
STYLE = "gaegul"

SKIN, SHADE, BELLY, INK, BLUSH = "#7ac74f", "#4f9a34", "#dff2c4", "#2b3a23", "#f59aa8"
LEFT, RIGHT, EYE = 10, 26, 9.5      # where the eyes are

BODY = (f'<circle cx="{LEFT}" cy="{EYE}" r="7" fill="{SKIN}"/><circle cx="{RIGHT}" cy="{EYE}" r="7" fill="{SKIN}"/>'
        f'<ellipse cx="18" cy="22" rx="17.5" ry="12.5" fill="{SKIN}"/>'
        f'<path fill="{BELLY}" d="M2.5 27.5q15.5 6 31 0q-4.5 7-15.5 7t-15.5-7"/>'
        f'<circle cx="16.5" cy="18" r=".7" fill="{SHADE}"/><circle cx="19.5" cy="18" r=".7" fill="{SHADE}"/>')
CHEEKS = f'<ellipse cx="5.5" cy="23" rx="2.6" ry="1.7" fill="{BLUSH}"/><ellipse cx="30.5" cy="23" rx="2.6" ry="1.7" fill="{BLUSH}"/>'


def both(draw):
    """The same for the left eye and, mirrored, for the right."""
    return draw(LEFT, 1) + draw(RIGHT, -1)


def line(d, width=1.4):
    return f'<path fill="none" stroke="{INK}" stroke-width="{width}" stroke-linecap="round" d="{d}"/>'


def open_eye(x, side, look=0.8):
    return (f'<circle cx="{x}" cy="{EYE}" r="5" fill="#fff"/><circle cx="{x + side * look}" cy="{EYE + .3}" r="2.7" fill="{INK}"/>'
            f'<circle cx="{x + side * look + 1}" cy="{EYE - .9}" r=".9" fill="#fff"/>')


def laughing_eye(x, side):
    return line(f"M{x - 4} {EYE + 1.5}q4-4.5 8 0", 1.7)


def closed_eye(x, side):
    return line(f"M{x - 4} {EYE}q4 3.5 8 0", 1.7)


def brow(x, side):
    return line(f"M{x - side * 5.5} {EYE - 5.5}L{x + side * 4.5} {EYE - 1.5}", 2)


def brow_up(x, side):
    return line(f"M{x - side * 5} {EYE - 2.5}L{x + side * 4} {EYE - 6.5}", 2)


def heart(x, side):
    return (f'<path fill="#e0314b" d="M{x} {EYE + 5.5}c-5-3.5-6-5.5-6-7.5a3.2 3.2 0 0 1 6-1.5a3.2 3.2 0 0 1 6 1.5c0 2-1 4-6 7.5"/>')


def stream(x, side):
    return f'<path fill="#5ab4f0" d="M{x - 2} {EYE + 3}h4v20q-2 2-4 0z"/>'


def tear(x, side):
    return (f'<ellipse cx="{x - side * 6.5}" cy="{EYE + 6}" rx="2.3" ry="3.8" fill="#5ab4f0" '
            f'transform="rotate({side * 30} {x - side * 6.5} {EYE + 6})"/>')


def wide_eye(x, side):
    return f'<circle cx="{x}" cy="{EYE}" r="5.6" fill="#fff"/><circle cx="{x}" cy="{EYE}" r="1.7" fill="{INK}"/>'


def half_eye(x, side, look=0.8):
    """Under a heavy lid."""
    return open_eye(x, side, look) + f'<path fill="{SHADE}" d="M{x - 5.5} {EYE}a5.5 5.5 0 0 1 11 0z"/>'


def spiral(x, side):
    return (f'<circle cx="{x}" cy="{EYE}" r="5" fill="#fff"/>' +
            line(f"M{x} {EYE}a1 1 0 0 1 2 0a2 2 0 0 1-4 0a3 3 0 0 1 6 0a3.8 3.8 0 0 1-7.6 0", 1))


def bag(x, side):
    return line(f"M{x - 3.5} {EYE + 7}q3.5 2 7 0", .9)


def deep_blush(x, side):
    return f'<ellipse cx="{x - side * 3.5}" cy="22.5" rx="4.2" ry="2.6" fill="#f0607a"/>'


SMILE = line("M10 23q8 5.5 16 0")
GRIN = f'<path fill="{INK}" d="M9.5 22h17q-1 8-8.5 8t-8.5-8"/><path fill="#f0717f" d="M13 28.2q5-3.2 10 0q-2 1.8-5 1.8t-5-1.8"/>'
FROWN = line("M11 27q7-5.5 14 0")
WAIL = f'<ellipse cx="18" cy="25.5" rx="4" ry="3.8" fill="{INK}"/><path fill="#f0717f" d="M15.2 28q2.8-2.5 5.6 0q-2.8 2.6-5.6 0"/>'
SNORE = f'<circle cx="18" cy="25" r="1.9" fill="{INK}"/>'
BUBBLE = '<circle cx="24" cy="21" r="4" fill="#a9dcf8" stroke="#5ab4f0" stroke-width=".7"/><circle cx="22.8" cy="19.8" r="1" fill="#fff"/>'
GASP = f'<ellipse cx="18" cy="25.5" rx="3" ry="4" fill="{INK}"/>'
FLAT = line("M12 25h12")
WAVE = line("M9 26q2.2-3.5 4.5 0t4.5 0t4.5 0t4.5 0")
COY = line("M15 24.5q3 2.5 6 0")
SMIRK = line("M12 25.5q8 1.5 13-4", 1.6)
SWEAT = '<path fill="#5ab4f0" d="M32.5 11q3 4.5 3 6.3a3 3 0 0 1-6 0q0-1.8 3-6.3"/>'
DROOL = '<path fill="#5ab4f0" d="M22.5 24.5h3.5v5.5a1.75 1.75 0 0 1-3.5 0z"/>'
THERMOMETER = ('<path stroke="#fff" stroke-width="3" stroke-linecap="round" d="M20 25L31 16"/>'
               '<path stroke="#e0314b" stroke-width="1.3" stroke-linecap="round" d="M20 25L28 18.5"/>'
               '<circle cx="19.5" cy="25.3" r="2.3" fill="#e0314b"/>')
GLASSES = ('<path fill="#23292e" d="M3 6.5h30v1.5q-1 8-7.5 8q-5.5 0-6.5-6h-2q-1 6-6.5 6q-6.5 0-7.5-8z"/>'
           '<path fill="#5a6770" d="M6 8.5h4l-3 5q-1-2-1-5M22 8.5h4l-3 5q-1-2-1-5"/>')

FACES = {
    "happy": both(open_eye) + CHEEKS + GRIN,
    "laughing": both(laughing_eye) + both(tear) + GRIN,
    "crying": both(closed_eye) + both(stream) + WAIL,
    "loving": both(heart) + CHEEKS + SMILE,
    "angry": both(open_eye) + both(brow) + FROWN,
    "sleepy": both(closed_eye) + CHEEKS + SNORE + BUBBLE,
    "cool": GLASSES + SMILE,
    "surprised": both(wide_eye) + GASP,
    "shy": both(closed_eye) + both(deep_blush) + COY,
    "sick": both(half_eye) + both(brow_up) + FLAT + THERMOMETER,
    "smug": both(half_eye) + CHEEKS + SMIRK,
    "scared": both(wide_eye) + WAVE + SWEAT,
    "dizzy": both(spiral) + WAVE,
    "hungry": both(open_eye) + CHEEKS + SMILE + DROOL,
    "tired": both(half_eye) + both(bag) + FROWN + SWEAT,
    "winking": open_eye(LEFT, 1) + laughing_eye(RIGHT, -1) + CHEEKS + SMILE,
}


def svg(mood):
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 36 36">{BODY}{FACES[mood]}</svg>'
