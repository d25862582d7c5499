"""Drawings by `moji draw`, kept in WORK: an evaluation that is started again draws only what is missing.

A drawing that fails (moji says why) is left out and reported; the scores count it as a miss.
"""
import hashlib
import json
import os
import subprocess
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

THUMB = 128
Order = namedtuple("Order", "prompt background seed")
# thumb uint8 [THUMB,THUMB,3]; of the frame, in 255ths: deviation of its worst channel, distance from the asked-for colour;
# whether the subject touches it
Drawing = namedtuple("Drawing", "thumb deviation off touched")


def digest(folder):
    """Twelve letters that stand for the model's files."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(str(path.relative_to(folder)).encode())
        total.update(path.read_bytes())
    return total.hexdigest()[:12]


def reaches(thumb, colour):
    """Whether what is drawn in the middle goes on, unbroken, to within two pixels of the edge (a line along the edge alone is
    the frame's deviation)."""
    drawn = np.abs(thumb.astype(np.int16) - colour).max(2) > 40
    grown, n = np.zeros_like(drawn), THUMB // 4
    grown[n:-n, n:-n] = drawn[n:-n, n:-n]
    while True:
        wide = np.pad(grown, 1)
        more = drawn & (wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:])
        if (more == grown).all():
            return bool(grown[[1, -2]].any() or grown[:, [1, -2]].any())
        grown = more


def look(path, colour):
    picture = Image.open(path).convert("RGB")
    x = np.asarray(picture, np.int16)
    w = max(1, len(x) // 64)        # the frame's width: 8 of 512
    frame = np.concatenate([x[:w].reshape(-1, 3), x[-w:].reshape(-1, 3), x[w:-w, :w].reshape(-1, 3), x[w:-w, -w:].reshape(-1, 3)])
    middle = np.median(frame, 0)
    thumb = np.asarray(picture.resize((THUMB, THUMB), Image.BOX))
    return Drawing(thumb, float(frame.std(0).max()), float(np.abs(middle - colour).max()), reaches(thumb, middle))


class Drawer:
    def __init__(self, moji, model, work, jobs=1, options=()):
        self.moji, self.model, self.jobs, self.options = moji.resolve(), model.resolve(), jobs, list(options)
        self.card = json.loads((model / "moji.json").read_text(encoding="utf-8"))
        self.folder = work / "drawn" / "-".join([digest(model), *(Path(o).name.strip("-") for o in self.options)])
        self.folder.mkdir(parents=True, exist_ok=True)
        self.failed = {}

    def colour(self, background):
        h = self.card["backgrounds"][background]["rgb"]
        return np.array([int(h[i:i + 2], 16) for i in (1, 3, 5)])

    def run(self, prompt, background, seeds, stem):
        files = [self.folder / f"{stem}-{s}.png" for s in seeds]
        if all(f.exists() for f in files):
            return
        # one process a prompt; --count names its files -1, -2, ..., and one picture alone as it is told
        out = self.folder / f"{stem}{'' if len(seeds) > 1 else f'-{seeds[0]}'}.png"
        done = subprocess.run([self.moji, "draw", prompt, "--model", self.model, "--background", background,
                               "--seed", str(seeds[0]), "--count", str(len(seeds)), "--threads", "1", "-o", out, *self.options],
                              capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            self.failed[prompt] = (done.stderr.strip().splitlines() or ["no word"])[-1]

    def draw(self, wanted, seeds, say=print):
        """wanted: pairs of prompt and background -> {Order: Drawing}, seeds 1 to `seeds`; what failed is missing."""
        stems = {w: hashlib.sha256("|".join(w).encode()).hexdigest()[:16] for w in dict.fromkeys(wanted)}
        numbers = list(range(1, seeds + 1))
        with ThreadPoolExecutor(self.jobs) as pool:
            work = pool.map(lambda item: self.run(*item[0], numbers, item[1]), stems.items())
            for i, _ in enumerate(work):
                if i % 50 == 49:
                    say(f"drawn: {i + 1} of {len(stems)} prompts")
        kept = self.folder / "looks.pt"
        looks = torch.load(kept, weights_only=False) if kept.exists() else {}
        out, before = {}, len(looks)
        for (prompt, background), stem in stems.items():
            for s in numbers:
                path = self.folder / f"{stem}-{s}.png"
                if path.name not in looks and path.exists():
                    looks[path.name] = tuple(look(path, self.colour(background)))
                if path.name in looks:
                    out[Order(prompt, background, s)] = Drawing(*looks[path.name])
        if len(looks) > before:
            torch.save(looks, kept)
        return out
