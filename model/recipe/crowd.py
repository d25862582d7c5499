"""All scenes of the full grammar at once: listed, rendered and captioned by worker processes.

    work/catalogue.json     the rows that scenes speak of (grammar.catalogue)
    work/crowd.npy          int32 [scenes, 7]: subject, style, mood, thing, way, other, held out; in a steady order

Rendered pictures come through shared memory, a chunk a slot, in any order: no file of them is ever whole.
"""
import csv
import json
import multiprocessing
import os
import queue
import zlib
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np

from art import render
from captions import LENGTH, caption
from common import NAMED, place
from grammar import STYLES, Grammar, catalogue
from placing import Placer
from scenes import Scene

CHUNK = 32              # scenes a slot
NAMES = Path(__file__).resolve().parents[1] / "evaluate" / "names.tsv"
_here = {}              # in a worker: the grammar, and what is made when first needed


def start(rows, art, work):
    _here.update(grammar=Grammar(rows), art=art, work=work, placers={}, slots={})


def placer(style):
    if style not in _here["placers"]:
        _here["placers"][style] = Placer(_here["art"], style, _here["grammar"].rows)
    return _here["placers"][style]


def list_style(task):
    """The scenes of one style as rows of crowd.npy."""
    style, share = task
    has = lambda slug: placer(style).icon(slug) is not None
    return np.array([row_of(s) for s in _here["grammar"].scenes(style, has, share)], np.int32).reshape(-1, 7)


def row_of(s):
    return s.subject, STYLES.index(s.style), s.mood, s.thing, s.way, s.other, s.held_out


def scene_of(row):
    subject, style, mood, thing, way, other, held = row.tolist()
    return Scene(subject, STYLES[style], mood, thing, bool(held), way, other)


def picture(scene, size):
    """The scene with its margin, premultiplied RGBA bytes; None where its set has no picture of a part."""
    grammar = _here["grammar"]
    try:
        svg = placer(scene.style).svg(scene, grammar)
        return place(render(svg, size), grammar.margin(grammar.ways[scene.way] if scene.way >= 0 else None)) if svg else None
    except ValueError:          # resvg cannot draw it
        return None


def draw(task):
    """Renders rows into a slot of shared memory -> slot, first row, which of them there are."""
    name, slot, first, rows, size = task
    if name not in _here["slots"]:
        _here["slots"][name] = shared_memory.SharedMemory(name)
    where = np.ndarray((CHUNK, size, size, 4), np.uint8, _here["slots"][name].buf, slot * CHUNK * size * size * 4)
    made = np.zeros(len(rows), bool)
    for i, row in enumerate(rows):
        drawn = picture(scene_of(row), size)
        if drawn is not None:
            where[i], made[i] = drawn, True
    return slot, first, made


def say(task):
    """Captions of rows on every background: token ids [rows, backgrounds, variants, LENGTH]."""
    first, rows, variants, seed = task
    if "tokenizer" not in _here:
        from transformers import CLIPTokenizer
        _here["tokenizer"] = CLIPTokenizer.from_pretrained(_here["work"] / "tokenizer")
    rng, names = np.random.default_rng([seed, first]), _here["grammar"].names
    words = [caption(s, b, rng, names, s.style) for s in map(scene_of, rows) for b in NAMED for _ in range(variants)]
    ids = _here["tokenizer"](words, padding="max_length", max_length=LENGTH, truncation=True).input_ids
    return first, np.array(ids, np.uint16).reshape(len(rows), len(NAMED), variants, LENGTH)


class Alone:
    """A pool of this process alone, for trials on a busy machine."""
    def __enter__(self):
        return self

    def __exit__(self, *_):
        _here.clear()

    def map(self, work, tasks, _=1):
        return [work(t) for t in tasks]

    def imap_unordered(self, work, tasks):
        return (work(t) for t in tasks)


def pool(rows, art, work, workers=0):
    """Fresh processes: what forks after CUDA has begun may hang."""
    if workers == 1:
        start(rows, art, work)
        return Alone()
    return multiprocessing.get_context("spawn").Pool(workers or os.cpu_count(), start, (rows, art, work))


class Crowd:
    """The list of all scenes, made once."""
    def __init__(self, work, art=None, share=1.0, concepts=0, workers=0):
        path = work / "crowd.npy"
        if not path.exists():
            with open(NAMES, encoding="utf-8") as f:
                rows = catalogue(art, list(csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE)))
            rows = rows[:concepts or None]
            (work / "catalogue.json").write_text(json.dumps(rows, ensure_ascii=False))
            with pool(rows, art, work, workers) as own:
                np.save(path, np.concatenate(own.map(list_style, [(s, share) for s in STYLES], 1)))
        self.rows = np.load(path)
        self.grammar = Grammar(json.loads((work / "catalogue.json").read_text()))
        self.work, self.art, self.workers = work, art, workers

    def __len__(self):
        return len(self.rows)

    def column(self, name):
        return self.rows[:, ("subject", "style", "mood", "thing", "way", "other", "held").index(name)]

    def facts(self):
        """What a caption tells, as classes [scenes, 6], and how many of each there are."""
        subject, style, mood, thing, way, other, _ = self.rows.T
        return np.stack([subject, mood + 1, thing + 1, style, way + 1, other + 1], 1), self.grammar.counts()

    def grounds(self):
        """On which backgrounds a scene may stand: not a blue cat on blue. bool [scenes, backgrounds]"""
        words = [w["word"] if w["kind"] == "colour" else "" for w in self.grammar.ways] + [""]
        near = {"magenta": ("magenta", "pink", "purple")}
        clash = np.array([[w in near.get(b, (b,)) for b in NAMED] for w in words])
        return ~clash[self.column("way")]

    def drawings(self, which, size):
        """Yields (row numbers, pictures [n,size,size,4], made [n]) of the scenes `which`; the pictures are gone at the next."""
        workers = self.workers or os.cpu_count()
        slots = 3 * workers
        memory = shared_memory.SharedMemory(create=True, size=slots * CHUNK * size * size * 4)
        free = queue.Queue()
        for s in range(slots):
            free.put(s)

        def tasks():
            for k in range(0, len(which), CHUNK):
                yield memory.name, free.get(), k, self.rows[which[k:k + CHUNK]], size
        try:
            with pool(self.grammar.rows, self.art, self.work, workers) as own:
                for slot, k, made in own.imap_unordered(draw, tasks()):
                    n = len(made)
                    yield which[k:k + n], np.ndarray((n, size, size, 4), np.uint8, memory.buf, slot * CHUNK * size * size * 4), made
                    free.put(slot)
        finally:
            memory.close()
            memory.unlink()

    def captions(self, variants, seed):
        """Token ids of every scene: uint16 [scenes, backgrounds, variants, LENGTH]."""
        out = np.zeros((len(self), len(NAMED), variants, LENGTH), np.uint16)
        with pool(self.grammar.rows, self.art, self.work, self.workers) as own:
            for first, ids in own.imap_unordered(say, [(k, self.rows[k:k + 256], variants, seed) for k in range(0, len(self), 256)]):
                out[first:first + len(ids)] = ids
        return out


def prompts(crowd, count=60):
    """Scenes for a list of prompts: every way, thing and mood in turn, half of them held out, no subject more often than needed."""
    grammar, kinds = crowd.grammar, {}
    for row in crowd.rows[crowd.column("style") == STYLES.index("twemoji")]:
        s = scene_of(row)
        if grammar.rows[s.subject]["core"] and max(s.way, s.thing, s.mood) >= 0:
            kinds.setdefault((s.way, s.thing, s.mood) if s.way < 0 or s.mood < 0 and s.thing < 0 else "two", []).append(s)
    order = sorted(kinds, key=lambda k: (k != "two" and k[0] < 0, zlib.crc32(str(k).encode())))     # every way first
    out, used = [], {}
    for limit in range(1, 9):
        for kind in order:
            want = sum(s.held_out for s in out) * 2 <= len(out)
            fit = [s for s in kinds[kind] if s.held_out == want and s not in out and used.get(s.subject, 0) < limit]
            if fit and len(out) < count:
                out.append(min(fit, key=lambda s: zlib.crc32(grammar.names(s, False)[0].encode())))
                for i in (out[-1].subject, out[-1].other):
                    used[i] = used.get(i, 0) + 1
    return out


def main(args):
    """scenes.py --reach all"""
    crowd = Crowd(args.work, args.art, args.share, args.concepts, args.workers)
    if args.list:
        print("en\tko\tparts\theld")
        for s in prompts(crowd):
            print(crowd.grammar.names(s, False)[0], crowd.grammar.names(s, True)[0], " ".join(crowd.grammar.parts(s)),
                  "yes" if s.held_out else "no", sep="\t")
        return
    rng = np.random.default_rng(1)
    lone = crowd.rows[:, 2:6].max(1) < 0            # single things a fifth of the sample
    share = np.where(lone, 0.2 / lone.sum(), 0.8 / max(1, (~lone).sum())) * (crowd.column("held") == 0)
    count = min(args.sample, int((share > 0).sum()))
    which = np.sort(rng.choice(len(crowd), count, replace=False, p=share / share.sum()))
    out, n = np.lib.format.open_memmap(args.work / "scenes.npy.part", "w+", np.uint8, (count, args.size, args.size, 4)), 0
    for _, pictures, made in crowd.drawings(which, args.size):
        out[n:n + made.sum()] = pictures[made]
        n += int(made.sum())
    np.save(args.work / "scenes.npy.cut", out[:n])
    os.replace(args.work / "scenes.npy.cut.npy", args.work / "scenes.npy")
    (args.work / "scenes.npy.part").unlink()
    print(f"{len(crowd)} scenes, {int(crowd.column('held').sum())} held out; {n} of them rendered")
