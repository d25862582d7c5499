"""Stage 1: unpack the emoji packages and render them once, with alpha.

    python art.py --art DIR --work DIR [--sample N] [--size 512]

Reads the iconify-json-*.tgz packages in --art (see model/README.md for the list) and writes to --work:

    art.npy     uint8 [pictures, size, size, 4], colour premultiplied by alpha: a memory map, so that every later
                stage opens it at once and composes pictures with one multiply and one add
    art.json    one entry a picture: set, slug, concept (the slug in concepts.tsv, or null)

All pictures of the concepts in concepts.tsv are rendered, and --sample others chosen by seed, which only the
autoencoder sees: they keep it general.
"""
import argparse
import csv
import io
import json
import random
import tarfile
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

# Our style word -> package. The order is the order of the columns everywhere else.
SETS = {
    "noto": "noto",
    "blob": "noto-v1",
    "flat": "fluent-emoji-flat",
    "twemoji": "twemoji",
    "emojione": "emojione",
    "fx": "fxemoji",
}
CONCEPTS = Path(__file__).resolve().parent.parent / "concepts.tsv"


def concepts():
    """Rows of concepts.tsv as dicts: slug, code, en, ko, keys_en, keys_ko (lists), mirror, draw, fx (the name in fxemoji)."""
    with open(CONCEPTS, encoding="utf-8") as f:
        rows = list(csv.DictReader((l for l in f if not l.startswith("#")), delimiter="\t", quoting=csv.QUOTE_NONE))
    for row in rows:
        for key in ("keys_en", "keys_ko"):
            row[key] = [w.strip() for w in (row[key] or "").split(",") if w.strip()]
    return rows


def load_set(art, prefix):
    """The pictures of one package: {name: svg text}."""
    path = next(p for p in sorted(art.glob(f"iconify-json-{prefix}-[0-9]*.tgz")))
    with tarfile.open(path) as tar:
        icons = json.load(tar.extractfile("package/icons.json"))
    default = icons.get("width", 16), icons.get("height", 16)
    out = {}
    for name, icon in icons["icons"].items():
        w, h = icon.get("width", default[0]), icon.get("height", default[1])
        out[name] = (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                     f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {w} {h}">{icon["body"]}</svg>')
    for alias, of in icons.get("aliases", {}).items():
        if of["parent"] in out and set(of) == {"parent"}:
            out.setdefault(alias, out[of["parent"]])
    return out


def render(svg, size):
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True))
    rgba = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA").resize((size, size))).astype(np.uint16)
    a = rgba[..., 3:]
    return np.concatenate([(rgba[..., :3] * a + 127) // 255, a], -1).astype(np.uint8)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--art", type=Path, required=True)
    ap.add_argument("--work", type=Path, required=True)
    ap.add_argument("--size", type=int, default=512)
    ap.add_argument("--sample", type=int, default=1500)
    ap.add_argument("--concepts", type=int, default=1000, help="only the first so many")
    ap.add_argument("--seed", type=int, default=1)
    args = ap.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)

    renders, others = [], []
    wanted = concepts()[:args.concepts]
    for style, prefix in SETS.items():
        icons = load_set(args.art, prefix)
        used = set()
        for row in wanted:
            # fxemoji has names of its own; the other sets share one slug per emoji
            slug = row["fx"] if style == "fx" else row["slug"]
            if slug and slug in icons:
                renders.append((style, slug, row["slug"], icons[slug]))
                used.add(slug)
        # flags and skin tones are thousands of near-copies: a broad sample is better without them
        others += [(style, s, None, svg) for s, svg in icons.items()
                   if s not in used and "skin-tone" not in s and "flag" not in s]
    random.Random(args.seed).shuffle(others)
    renders += others[:args.sample]

    out = np.lib.format.open_memmap(args.work / "art.npy.part", "w+", np.uint8, (len(renders), args.size, args.size, 4))
    index = []
    for style, slug, concept, svg in renders:
        try:
            picture = render(svg, args.size)
        except ValueError:          # a file that resvg cannot draw is left out
            picture = None
        if picture is not None and picture[..., 3].mean() > 8:
            out[len(index)] = picture
            index.append({"set": style, "slug": slug, "concept": concept})
    out.flush()
    # Pictures left out leave empty rows at the end; the index says how many count.
    (args.work / "art.npy.part").rename(args.work / "art.npy")
    (args.work / "art.json").write_text(json.dumps(index))
    drawn = sum(1 for e in index if e["concept"])
    print(f"{len(index)} pictures, {drawn} of {len(wanted)} concepts")


if __name__ == "__main__":
    main()
