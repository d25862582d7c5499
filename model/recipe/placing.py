"""Where things go: the SVG of any scene of grammar.py, in the pictures of any set of art.py.

All is put together in a box of 36 units, whatever the set's own box. Where a picture's head, eyes and edges are comes from the
picture itself, or from concepts.tsv (measured in Twemoji) by way of what both pictures cover of their boxes.
"""
import functools
import xml.etree.ElementTree as ET

import numpy as np

import frog
from art import SETS, load_set, render
from colours import Paint
from scenes import BOX, MOOD_FACES, put

FACES = {**MOOD_FACES, "surprised": "astonished-face", "shy": "smiling-face-with-smiling-eyes", "sick": "face-with-thermometer",
         "smug": "smirking-face", "scared": "fearful-face", "hungry": "drooling-face", "tired": "weary-face"}
FINE = 48               # pixels a side that pictures are measured at
DROP = ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 36 36"><path fill="#5dadec" '
        'd="M18 3q11 14 11 20.500a11 11 0 0 1-22 0q0-6.500 11-20.500"/></svg>')
CHEEKS = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 36 36"><ellipse cx="18" cy="18" rx="14" ry="10" fill="#f2607a" opacity=".75"/></svg>'


def leaves(root):
    """Every drawn element with its parent, groups taken apart."""
    for e in list(root):
        tag = e.tag.rsplit("}", 1)[-1]
        if tag == "g":
            yield from leaves(e)
        elif tag not in ("defs", "clipPath", "mask", "linearGradient", "radialGradient", "filter", "title"):
            yield root, e


def text(root):
    return ET.tostring(root, encoding="unicode")


class Placer:
    """The pictures of one set, and what is known of each: fetched and measured once."""
    def __init__(self, folder, style, rows):
        self.rows, self.style = rows, style
        self.plain = load_set(folder, SETS["twemoji"])
        self.icons = self.plain if style in ("twemoji", frog.STYLE) else load_set(folder, SETS[style])
        self.fx = {r["slug"]: r["fx"] for r in rows if r.get("fx")}
        for known in ("box", "paint", "bare", "cleared"):
            setattr(self, known, functools.lru_cache(4096)(getattr(self, known)))

    def icon(self, slug):
        """The set's picture of that name; fxemoji has names of its own. None: it has none."""
        if self.style == "fx":
            return self.icons.get(self.fx.get(slug) or slug.replace("-", ""))
        return self.icons.get(slug)

    def part(self, slug):
        """What is put to a subject: of this set, or else of Twemoji. (fxemoji's rainbow is a tile of sky.)"""
        return (self.style, slug) != ("fx", "rainbow") and self.icon(slug) or self.plain[slug]

    # ---- what is known of a picture ----

    def box(self, svg):
        """Left, top, right, bottom of what is drawn, in units of the box."""
        seen = render(svg, FINE)[..., 3] > 60
        if not seen.any():
            return 0., 0., float(BOX), float(BOX)
        across, down = np.flatnonzero(seen.any(0)), np.flatnonzero(seen.any(1))
        return tuple(v * BOX / FINE for v in (across[0], down[0], across[-1] + 1, down[-1] + 1))

    def top(self, svg):
        """Where the picture begins in its middle columns, where a hat sits."""
        left, _, right, _ = self.box(svg)
        middle, wide = (left + right) / 2 * FINE / BOX, max(2, round((right - left) * 0.12 * FINE / BOX))
        seen = render(svg, FINE)[:, max(0, round(middle) - wide):round(middle) + wide, 3].max(1) > 128
        return float(seen.argmax()) * BOX / FINE

    def paint(self, svg):
        return Paint(render(svg, FINE))

    def carried(self, slug, x, y):
        """A place in Twemoji's picture, in this set's picture of the same."""
        if self.icons is self.plain or slug not in self.plain:
            return x, y
        a, b = self.box(self.plain[slug]), self.box(self.icon(slug))
        return tuple(b[i] + (v - a[i]) * (b[i + 2] - b[i]) / (a[i + 2] - a[i]) for i, v in enumerate((x, y)))

    def eyes(self, row):
        """The height of the eyes; None where there are none."""
        if row.get("eyes"):
            return self.carried(row["slug"], BOX / 2, float(row["eyes"]))[1]
        return self.carried(row["slug"], BOX / 2, 13.5)[1] if self.is_face(row) else None

    def is_face(self, row):
        return row["slug"].endswith("-face") and not row.get("eyes") or row["slug"].startswith(("face-", "smiling-face"))

    def bare(self, word):
        """The eyes, mouth and tears of a mood's face without its head, which is what its first elements draw; None: not told."""
        svg = self.icon(FACES[word]) if word in FACES else None
        if not svg:
            return None
        whole = (render(svg, FINE)[..., 3] > 60).mean()
        root = ET.fromstring(svg)
        for parent, e in list(leaves(root)):
            if (render(text(root), FINE)[..., 3] > 60).mean() < 0.6 * whole:
                break
            parent.remove(e)
        for parent, e in list(leaves(root)):        # the shade along a head's rim, too, belongs to the head
            if self.rim(svg, e):
                parent.remove(e)
        return text(root) if (render(text(root), FINE)[..., 3] > 60).mean() > 0.03 * whole else None

    def alone(self, svg, e):
        """One element of a picture, by itself."""
        root = ET.fromstring(svg)
        for parent, other in list(leaves(root)):
            if text(other) != text(e):
                parent.remove(other)
        return text(root)

    def rim(self, svg, e):
        """Whether an element lies along the rim of the picture, below and to the right, where heads are shaded."""
        (_, top, right, bottom), (_, c, x, d) = self.box(svg), self.box.__wrapped__(self.alone(svg, e))
        return d > bottom - 1.5 and x > right - 1.5 and d - c > 0.6 * (bottom - top)

    def cleared(self, slug, eyes):
        """An animal without what is small inside its head: its own eyes, nose and mouth."""
        svg = self.icon(slug)
        left, top, right, bottom = self.box(svg)
        root = ET.fromstring(svg)
        gone = []
        for parent, e in leaves(root):
            alone = self.alone(svg, e)
            x0, y0, x1, y1 = self.box.__wrapped__(alone)
            inside = x0 > left + 0.08 * (right - left) and x1 < right - 0.08 * (right - left) and y1 > eyes - 4 and y0 < bottom - 2
            if inside and (render(alone, FINE)[..., 3] > 60).mean() < 0.11:
                gone.append((parent, e))
        for parent, e in gone:
            parent.remove(e)
        return text(root)

    # ---- scenes ----

    def subject(self, row, mood="", colour=""):
        """One thing alone, in its mood and colour; None where the set cannot."""
        if self.style == frog.STYLE:
            return frog.svg(mood or "happy")
        svg = self.icon(row["slug"])
        if not svg:
            return None
        if mood:
            face = self.bare(mood)
            if not face:
                return None
            if row.get("face"):
                x, y, size = map(float, row["face"].split())
                x, y = self.carried(row["slug"], x, y)
                side = BOX * size
            else:
                eyes = self.eyes(row)
                left, _, right, bottom = self.box(svg)
                svg, side = self.cleared(row["slug"], eyes), min(0.8 * (right - left), 24)
                x, y = (left + right) / 2, min(max(eyes + 0.13 * side, 13), bottom - 0.36 * side)
            svg = wrap(put(svg, 0, 0, BOX), put(face, x - side / 2, y - side / 2, side))
        if colour:
            paint = self.paint(self.icon(row["slug"]))
            if not paint.takes(colour):
                return None
            svg = paint.over(svg, colour)
        return svg

    def adorned(self, row, svg, slug, place):
        """A subject with something on or around it."""
        extra = self.part(slug) if slug else None
        left, top, right, bottom = self.box(svg)
        middle = (left + right) / 2
        eyes = self.eyes(row)
        if place == "eyes":
            side = min(0.95 * (right - left), BOX * 0.72)
            x0, y0, x1, y1 = self.box(extra)
            return wrap(put(svg, 0, 0, BOX), put(extra, middle - side * (x0 + x1) / 2 / BOX, eyes - side * (y0 + y1) / 2 / BOX, side))
        if place == "head":
            small, side = 0.76, BOX * 0.42
            x0, _, x1, y1 = self.box(extra)
            brow = BOX * (1 - small) + self.top(svg) * small + 2
            x = BOX * (1 - small) / 2 + middle * small - side * (x0 + x1) / 2 / BOX
            return wrap(put(svg, BOX * (1 - small) / 2, BOX * (1 - small), BOX * small), put(extra, x, max(-side * 0.05, brow - side * y1 / BOX), side))
        if place == "tears":
            y, side, apart = (eyes if eyes is not None else (top + bottom) / 2) + 1.5, 6.5, 0.27 * (right - left)
            return wrap(put(svg, 0, 0, BOX), put(DROP, middle - apart - side / 2, y, side), put(DROP, middle + apart - side / 2, y, side))
        if place == "blush":
            y, side, apart = (eyes if eyes is not None else (top + bottom) / 2) + 4, 7, 0.3 * (right - left)
            return wrap(put(svg, 0, 0, BOX), put(CHEEKS, middle - apart - side / 2, y - side / 2, side), put(CHEEKS, middle + apart - side / 2, y - side / 2, side))
        if place == "brow":
            side = 10
            return wrap(put(svg, 0, BOX * 0.08, BOX * 0.92), put(DROP, min(BOX - side, right - 0.28 * (right - left)), 1.5 + 0.5 * top, side))
        if place == "around":
            spots = ((0, 0, 10), (26, 0, 10), (0, 14, 8), (28, 14, 8), (1, 26, 9), (26, 26, 9))
            return wrap(put(svg, BOX * 0.18, BOX * 0.18, BOX * 0.64), *(put(extra, *spot) for spot in spots))
        if place == "behind":
            return wrap(put(extra, 0, 0, BOX), put(svg, BOX * 0.21, BOX * 0.42, BOX * 0.58))
        if place == "weather":
            x, side = (21, 15) if slug in ("sun", "crescent-moon") else (9, 18)
            return wrap(put(svg, BOX * 0.18, BOX * 0.36, BOX * 0.64), put(extra, x, 0, side))
        small, side = BOX * 0.8, BOX * 0.42         # the corner
        return wrap(put(svg, 0, BOX - small, small), put(extra, BOX - side, 0, side))

    def standing(self, svg, x, y, wide, high):
        """The picture in a frame: as large as fits, in the middle, on the floor of it."""
        left, top, right, bottom = self.box(svg)
        scale = min(wide / (right - left), high / (bottom - top))
        return put(svg, x + wide / 2 - scale * (left + right) / 2, y + high - scale * bottom, scale * BOX)

    def together(self, a, b, way):
        """Two things, each where the word says."""
        if way == "on":
            return wrap(self.standing(b, 5, 18.5, 26, 17.5), self.standing(a, 8, 0, 20, 20.5))
        if way == "under":
            return wrap(self.standing(a, 8, 18, 20, 18), self.standing(b, 5, 0, 26, 17.5))
        if way == "beside":
            return wrap(self.standing(a, 0, 8, 18, 20), self.standing(b, 18, 8, 18, 20))
        if way == "behind":
            return wrap(self.standing(a, 2, 0, 25, 27), self.standing(b, 13, 15, 22, 21))
        if way == "bigger":
            return wrap(self.standing(a, 0, 4, 24, 30), self.standing(b, 24.5, 20, 11, 14))
        return wrap(self.standing(a, 0, 0, 29, 36), self.standing(b, 19, 19, 17, 17))      # holding

    def several(self, svg, n):
        spots = {2: ((0, 9, 17.5), (18.5, 9, 17.5)), 3: ((9.5, 0, 17), (0, 18, 17), (19, 18, 17)),
                 4: ((0, 0, 17), (19, 0, 17), (0, 19, 17), (19, 19, 17))}[n]
        return wrap(*(self.standing(svg, x, y, side, side) for x, y, side in spots))

    def svg(self, scene, grammar):
        """The scene as one picture; None where the set has no picture of a part."""
        row, way = self.rows[scene.subject], grammar.ways[scene.way] if scene.way >= 0 else {"kind": "", "word": "", "slug": ""}
        mood = grammar.moods[scene.mood]["word"] if scene.mood >= 0 else ""
        svg = self.subject(row, mood, way["word"] if way["kind"] == "colour" else "")
        if not svg:
            return None
        if scene.thing >= 0:
            thing = grammar.things[scene.thing]
            svg = self.adorned(row, svg, thing["slug"], thing["place"])
        kind = way["kind"]
        if kind == "size":
            side = BOX * (0.38 if way["word"] == "tiny" else 1)      # what is huge has less of a margin: grammar.margin
            return wrap(put(svg, (BOX - side) / 2, (BOX - side) / 2, side))
        if kind == "turn":
            return wrap(f'<g transform="rotate(180 {BOX / 2} {BOX / 2})">{put(svg, 0, 0, BOX)}</g>')
        if kind == "count":
            return self.several(svg, {"two": 2, "three": 3, "four": 4}[way["word"]])
        if kind == "relation":
            other = self.subject(self.rows[scene.other]) if self.style != frog.STYLE else self.icon(self.rows[scene.other]["slug"])
            return other and self.together(svg, other, way["word"])
        if kind and kind != "colour":
            return self.adorned(row, svg, way["slug"], kind)
        return svg


def wrap(*parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {BOX} {BOX}">{"".join(parts)}</svg>')
