"""Stage 3: what the diffusion model draws: single things, things with a mood, things with something; names and pictures.

    python scenes.py --art DIR --work DIR       writes DIR/scenes.npy: uint8 [scenes, 256, 256, 4], as art.npy, with margin
    python scenes.py --list                     prints sixty prompts for compositions.tsv
    python scenes.py --reach all ...            the same of the full grammar (grammar.py): lists all its scenes in DIR (crowd.py),
                                                and DIR/scenes.npy has --sample of them, for the autoencoder

A scene is a subject (a row of concepts.tsv, or the frog of frog.py), with a mood (moods.tsv) or none, with a thing
(things.tsv) or none. All geometry is in the box of 36 units that the art's pictures are scaled to. One scene in eight of those
with a thing is held out: never trained on, so that what the model makes of it is its own.
"""
import argparse
import csv
import functools
import xml.etree.ElementTree as ET
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import frog
from art import CONCEPTS, SETS, concepts, load_set, render
from common import place

BOX = 36
DRAWN = ["first", "yes", "more", "third", "fourth"]      # what the draw column of concepts.tsv says of those in the diffusion model
ET.register_namespace("", "http://www.w3.org/2000/svg")
ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")

# A mood is the face of this picture, put on another thing; the frog alone has the others.
MOOD_FACES = {"happy": "grinning-face", "laughing": "face-with-tears-of-joy", "crying": "loudly-crying-face",
              "loving": "smiling-face-with-heart-eyes", "angry": "angry-face", "sleepy": "sleeping-face",
              "cool": "smiling-face-with-sunglasses", "winking": "winking-face"}


def read(name):
    with open(CONCEPTS.with_name(name), encoding="utf-8") as f:
        rows = list(csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE))
    for row in rows:
        for key in ("keys_en", "keys_ko"):
            row[key] = [k for k in (row[key] or "").split(",") if k]
    return rows


@dataclass(frozen=True)
class Scene:
    subject: int            # row of concepts.tsv
    style: str              # a set of art.py, or frog.STYLE
    mood: int = -1          # row of moods.tsv
    thing: int = -1         # row of things.tsv
    held_out: bool = False
    way: int = -1           # row of ways.tsv (grammar.py)
    other: int = -1         # row of the second thing (grammar.py)


def in_reach(scene):
    """Whether the model is to draw it. What two processors learn in an hour is less than can be composed: things other than the
    frog in a mood, and some of things.tsv, wait for more."""
    _, _, things = tables()
    return scene.thing >= 0 and things[scene.thing]["draw"] == "yes" or scene.thing < 0 and (scene.mood < 0 or scene.style == frog.STYLE)


@functools.cache
def tables():
    return concepts(), read("moods.tsv"), read("things.tsv")


def scenes(draw, style):
    """All scenes of the concepts whose draw column is among `draw`, in the pictures of one set, in a steady order."""
    table, moods, things = tables()
    out = []

    def add(*scene):
        out.append(Scene(*scene))
        subject, kind, mood, _ = scene
        row = table[subject]
        for t, thing in enumerate(things):
            fits = {"corner": True, "head": row["eyes"] or row["face"], "eyes": row["eyes"] and mood < 0}[thing["place"]]
            if not fits or thing["slug"] == row["slug"] or mood >= 0 and (kind != frog.STYLE or thing["place"] != "corner"):
                continue
            key = f"{row['slug']} {mood} {thing['word']}"
            out.append(Scene(subject, kind, mood, t, zlib.crc32(key.encode()) % 8 == 0))

    for i, row in enumerate(table):
        if row["draw"] not in draw:
            continue
        add(i, style, -1, -1)
        if row["face"]:
            for m, mood in enumerate(moods):
                if mood["word"] in MOOD_FACES:
                    add(i, style, m, -1)
        if row["slug"] == "frog":
            for m in range(len(moods)):
                add(i, frog.STYLE, m, -1)
    return out


# ---- names ----

def josa(word, with_final, without):
    """The Korean particle that fits: whether the last syllable has a final consonant."""
    last = ord(word[-1:] or " ") - 0xAC00
    return with_final if 0 <= last < 11172 and last % 28 else without


def names(scene, korean):
    """The main name and the others, in one language."""
    table, moods, things = tables()
    tongue = "ko" if korean else "en"
    row = table[scene.subject]
    main, others = row[tongue], list(row["keys_" + tongue])
    if scene.mood >= 0:
        mood = moods[scene.mood]
        others = [f"{k} {main}" for k in mood["keys_" + tongue]]
        main = f"{mood[tongue]} {main}"
    if scene.thing >= 0:
        thing = things[scene.thing]
        others = [k.format(main).replace(main + "와", main + josa(main, "과", "와")) for k in thing["keys_" + tongue]] + \
                 [thing[tongue].format(o) for o in others]
        main = thing[tongue].format(main)
    return main, others


# ---- pictures ----

def put(svg, x, y, side):
    """The picture as an element of another, in a square with that corner."""
    return svg.replace("<svg ", f'<svg x="{x:.3f}" y="{y:.3f}" width="{side:.3f}" height="{side:.3f}" ', 1)


def features(svg):
    """A face without its disc, which is its first element."""
    root = ET.fromstring(svg)
    root.remove(root[0])
    return ET.tostring(root, encoding="unicode")


class Art:
    """The SVG of scenes, from the pictures of one set."""
    def __init__(self, folder, style):
        self.icons = load_set(folder, SETS[style])
        self.tops = {}

    def top(self, svg):
        """Where the picture begins in its middle columns, where a hat sits."""
        if svg not in self.tops:
            alpha = render(svg, BOX * 2)[..., 3]
            self.tops[svg] = float((alpha[:, 30:42].max(1) > 128).argmax()) / 2
        return self.tops[svg]

    def svg(self, scene):
        table, moods, things = tables()
        row = table[scene.subject]
        if scene.style == frog.STYLE:
            body = frog.svg(moods[scene.mood]["word"])
        else:
            body = self.icons[row["slug"]]
            if scene.mood >= 0:
                x, y, size = map(float, row["face"].split())
                face = features(self.icons[MOOD_FACES[moods[scene.mood]["word"]]])
                side = BOX * size
                body = self.wrap(put(body, 0, 0, BOX), put(face, x - side / 2, y - side / 2, side))
        if scene.thing < 0:
            return body
        thing = things[scene.thing]
        extra = self.icons[thing["slug"]]
        if thing["place"] == "eyes":
            side = BOX * 0.72
            y = float(row["eyes"]) - side * 0.52        # of their box, the glasses' middle
            return self.wrap(put(body, 0, 0, BOX), put(extra, (BOX - side) / 2, y, side))
        if thing["place"] == "head":
            small, side = BOX * 0.76, BOX * 0.4
            brow = BOX - small + self.top(body) * 0.76 + 3.5
            return self.wrap(put(body, (BOX - small) / 2, BOX - small, small), put(extra, (BOX - side) / 2, max(0, brow - side), side))
        small, side = BOX * 0.8, BOX * 0.42
        return self.wrap(put(body, 0, BOX - small, small), put(extra, BOX - side, 0, side))

    @staticmethod
    def wrap(*parts):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="0 0 {BOX} {BOX}">{"".join(parts)}</svg>')


def list_prompts(count=60):
    """Scenes with a thing, held-out ones first, no subject or thing more often than needed."""
    table, moods, things = tables()
    pool = [s for s in scenes(DRAWN, "twemoji") if s.thing >= 0 and in_reach(s)]
    order = sorted(pool, key=lambda s: (not s.held_out, zlib.crc32(names(s, False)[0].encode())))
    taken, rows = {}, []
    for limit in range(1, count):
        for s in order:
            subject, kind = (s.subject, s.mood), ("with", s.thing)
            if len(rows) == count or s in rows or taken.get(subject, 0) >= limit or taken.get(kind, 0) >= count // 8 + limit \
                    or sum(r.held_out for r in rows) >= count // 2 and s.held_out:
                continue
            rows.append(s)
            taken[subject], taken[kind] = taken.get(subject, 0) + 1, taken.get(kind, 0) + 1
    print("en\tko\tparts\theld")
    for s in rows:
        print(names(s, False)[0], names(s, True)[0], f"{table[s.subject]['slug']} {things[s.thing]['slug']}",
              "yes" if s.held_out else "no", sep="\t")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--art", type=Path)
    ap.add_argument("--work", type=Path)
    ap.add_argument("--draw", nargs="+", default=DRAWN, help="which of the concepts, by their draw column")
    ap.add_argument("--size", type=int, default=256)
    ap.add_argument("--list", action="store_true")
    ap.add_argument("--reach", choices=["small", "all"], default="small")
    ap.add_argument("--sample", type=int, default=6000)
    ap.add_argument("--share", type=float, default=1, help="all: of its composed scenes, for a trial")
    ap.add_argument("--concepts", type=int, default=0, help="all: only the first so many")
    ap.add_argument("--workers", type=int, default=0, help="all: processes; 0: one a processor")
    args = ap.parse_args()
    if args.reach == "all":
        import crowd
        return crowd.main(args)
    if args.list:
        return list_prompts()
    found = scenes(args.draw, "twemoji")
    art = Art(args.art, "twemoji")
    part = args.work / "scenes.npy.part"
    out = np.lib.format.open_memmap(part, "w+", np.uint8, (len(found), args.size, args.size, 4))
    for i, scene in enumerate(found):
        out[i] = place(render(art.svg(scene), args.size))
    out.flush()
    part.rename(args.work / "scenes.npy")
    print(f"{len(found)} scenes, {sum(s.held_out for s in found)} held out")


if __name__ == "__main__":
    main()
