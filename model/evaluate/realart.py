"""The real art and its names: what the encoder learns from, and what drawings are compared with.

The set named by --held (Twemoji, after which moji-mini draws) is never shown to the encoder: real pictures and drawings in
that style are equally new to it, so that their scores can be compared.
"""
import csv
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import torch

MODEL = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(MODEL / "recipe"))

from art import SETS, concepts, load_set, render      # noqa: E402

ALL_SETS = {**SETS, "fluent": "fluent-emoji"}
# Faces whose eyes and mouth compositions put on other things, as moods
MOODS = ["grinning-face", "face-with-tears-of-joy", "loudly-crying-face", "smiling-face-with-heart-eyes", "angry-face",
         "sleeping-face", "smiling-face-with-sunglasses", "winking-face"]
COLUMNS = ["large", "small", "concept", "set", "bare"]
SIZE, SMALL = 96, 40        # pixels a side; parts of compositions are drawn from the small ones, or else they flicker


def rows(path):
    with open(path, encoding="utf-8") as f:
        return list(csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE))


def names(count=None):
    """Rows of names.tsv: slug, code, en, ko. With a count, the first so many and whatever else compositions need."""
    parts = {p for row in compositions(count and max(2, count // 5)) for p in row["parts"]}
    return [r for i, r in enumerate(rows(MODEL / "evaluate" / "names.tsv"))
            if count is None or i < count or r["slug"] in parts]


def compositions(count=None):
    """Rows of compositions.tsv: en, ko, parts (two slugs, the subject first), held (bool)."""
    out = rows(MODEL / "compositions.tsv")[:count]
    return [{**r, "parts": r["parts"].split(), "held": r["held"] == "yes"} for r in out]


def captions(art, wanted):
    """For each language, for each name, the texts that mean it: the name itself, then with a keyword of CLDR's."""
    keys = {r["slug"]: r for r in concepts()}
    out = {}
    for language in ("en", "ko"):
        with open(art / "annotations" / f"{language}.json", encoding="utf-8") as f:
            cldr = json.load(f)["annotations"]["annotations"]
        out[language] = []
        for row in wanted:
            entry = cldr.get("".join(chr(int(c, 16)) for c in row["code"].split("-")), {})
            name, own = row[language], keys.get(row["slug"], {}).get("keys_" + language, [])
            texts = [name, *entry.get("tts", []), *own]
            texts += [f"{name}, {k}" for k in entry.get("default", []) if k != name]
            out[language].append(list(dict.fromkeys(texts)))
    return out


class Art:
    """large [n,4,SIZE,SIZE] and small [n,4,SMALL,SMALL], premultiplied bytes; concept [n] (row of names), set [n] (row of
    ALL_SETS), bare [n] (a face without its head); box [n,4]: left, top, right, bottom of what is drawn, in -1..1."""
    def __init__(self, large, small, concept, of_set, bare):
        self.large, self.small = (torch.from_numpy(a).permute(0, 3, 1, 2).contiguous() for a in (large, small))
        self.concept, self.set = torch.from_numpy(concept).long(), torch.from_numpy(of_set).long()
        self.bare = torch.from_numpy(bare)
        seen = self.large[:, 3] > 40
        place = torch.linspace(-1, 1, SIZE)
        across, down = seen.any(1), seen.any(2)
        edge = lambda m, low: torch.where(m, place, 2.0 if low else -2.0).aminmax(dim=1)[0 if low else 1]
        self.box = torch.stack([edge(across, True), edge(down, True), edge(across, False), edge(down, False)], 1)

    def rows(self, held, inside, bare=False):
        """Row numbers of the pictures of one set, or (inside false) of all others."""
        own = self.set == list(ALL_SETS).index(held)
        return ((own == inside) & (self.bare == bare)).nonzero()[:, 0]


def features(svg):
    """A face without its head, which is what its first elements draw; None where that cannot be told."""
    root, whole = ET.fromstring(svg), render(svg, SMALL)[..., 3].mean()
    while len(root):
        if (left := render(svg, SMALL)[..., 3].mean()) < 0.45 * whole:
            return svg if left > 0.04 * whole else None
        if len(root) == 1 and root[0].tag.endswith("}g"):       # a group around everything
            root[:] = list(root[0])
        root.remove(next((e for e in root if not e.tag.endswith("defs")), root[0]))
        svg = ET.tostring(root, encoding="unicode")
    return None


def load(art, work, wanted):
    """Render every set's picture of every wanted name once; the second time they come from WORK."""
    path = work / f"realart-{len(wanted)}.npz"
    if not path.exists():
        fx = {r["slug"]: r["fx"] for r in concepts()}
        found = []
        for s, package in enumerate(ALL_SETS.values()):
            icons = load_set(art, package)
            for c, row in enumerate(wanted):
                slug = row["slug"]
                if package == "fxemoji":        # names of its own: the listed one, or ours without the dashes
                    slug = fx.get(slug) or slug.replace("-", "")
                drawn = [icons[slug]] if slug in icons else []
                if drawn and slug in MOODS:
                    drawn.append(features(drawn[0]))
                found += [(render(svg, SIZE), render(svg, SMALL), c, s, i == 1) for i, svg in enumerate(drawn) if svg]
        columns = zip(*(f for f in found if f[0][..., 3].mean() > 2))
        np.savez(path.with_suffix(".part.npz"), **{k: np.stack(v) for k, v in zip(COLUMNS, columns)})
        path.with_suffix(".part.npz").rename(path)
    with np.load(path) as f:
        return Art(*(f[k] for k in COLUMNS))
