"""Judge a model by its drawings: numbers, a table, contact sheets, in one command.

    python evaluate.py --art ART --work WORK --model ../moji-mini --moji ../../build/moji --out DIR [--jobs 2]
    python evaluate.py --speeds --model ../moji-mini --moji ../../build/moji --out DIR
    ... --few "--lora moji-mini-lcm.safetensors --sampler lcm --steps 4 --guidance 1"       the same for a variant of few steps, compared

The first run renders the art and trains the encoder (--minutes of one processor), both kept in WORK; after that drawing takes
the time. Writes to DIR: evaluation.json, evaluation.md, names.png, compositions.png; with --speeds speeds.json. --toy does all of it
on a few names in well under a minute, to see that it runs.
"""
import argparse
import json
import os
import subprocess
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np                  # noqa: E402
import torch                        # noqa: E402
from PIL import Image               # noqa: E402

import compose                      # noqa: E402
import encoder                      # noqa: E402
import measure                      # noqa: E402
import realart                      # noqa: E402
import trained                      # noqa: E402
from drawings import Drawer, Order  # noqa: E402
from sheet import grid              # noqa: E402

TONGUES = ("en", "ko")
TOP = 5                 # a part counts as seen when its name is among so many nearest of all parts' names


def say(*words):
    print(*words, flush=True)


class Judge:
    """The encoder with the art and the names it judges by."""
    def __init__(self, args, drawer):
        self.names = realart.names(args.names)
        self.row = {r["slug"]: i for i, r in enumerate(self.names)}
        self.art = realart.load(args.art, args.work, self.names)
        self.net = encoder.train(args.work / f"encoder-{len(self.names)}-{args.held}.pt", self.art, args.held, self.names,
                                 realart.captions(args.art, self.names), args.minutes, channels=args.channels, say=say)
        self.texts = {t: self.net.read([r[t] for r in self.names]) for t in TONGUES}
        self.held = args.held
        self.backgrounds = list(drawer.card["backgrounds"])
        self.colours = [torch.tensor(drawer.colour(b) / 255, dtype=torch.float32) for b in self.backgrounds]

    def background(self, i):
        return self.backgrounds[i % len(self.backgrounds)]

    def see_art(self, pictures, first=0):
        """Real art on the backgrounds in turn -> vectors."""
        colours = torch.stack([self.colours[(first + i) % len(self.colours)] for i in range(len(pictures))])
        return torch.cat([self.net.see(compose.render(self.art, pictures[k:k + 256], colours[k:k + 256], encoder.SIDE))
                          for k in range(0, len(pictures), 256)])

    def see_scenes(self, rgba):
        """Premultiplied bytes [n,h,w,4] on the backgrounds in turn -> vectors."""
        x = torch.from_numpy(rgba).permute(0, 3, 1, 2).float() / 255
        colours = torch.stack([self.colours[i % len(self.colours)] for i in range(len(x))])
        return self.net.see(x[:, :3] + (1 - x[:, 3:]) * colours[:, :, None, None])

    def see(self, found, orders):
        """Drawings -> vectors, noughts for those missing."""
        out = torch.zeros(len(orders), encoder.WIDTH)
        have = [i for i, o in enumerate(orders) if o in found]
        if have:
            small = [np.asarray(Image.fromarray(found[orders[i]].thumb).resize((encoder.SIDE,) * 2, Image.BOX)) for i in have]
            out[have] = self.net.see(torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255)
        return out


def retrieval(judge, drawer, args):
    """Named concepts: is the right name among the nearest of all names? Names of the card all, of the others a sample."""
    n = len(judge.names)
    named = {t: [i for i, r in enumerate(judge.names) if r[t] in drawer.card["draws"][t]] for t in TONGUES}
    rest = {t: sorted(set(range(n)) - set(named[t])) for t in TONGUES}
    sample = {t: rest[t][::max(1, len(rest[t]) // args.others)][:args.others] for t in TONGUES}
    prompts = lambda chosen: [(judge.names[i][t], judge.background(i)) for t in TONGUES for i in chosen[t]]
    found = drawer.draw(prompts(named), args.seeds, say) | drawer.draw(prompts(sample), 1, say)

    held = judge.art.rows(judge.held, True)
    real_of = judge.art.concept[held]
    real = judge.see_art([compose.centred(i) for i in held.tolist()])
    out, seen, kept = {"names": n, "sets": len(realart.ALL_SETS), "held out": judge.held}, {}, {}
    for t in TONGUES:
        own = [(i, Order(judge.names[i][t], judge.background(i), s)) for i in named[t] for s in range(1, args.seeds + 1)]
        others = [(i, Order(judge.names[i][t], judge.background(i), 1)) for i in sample[t]]
        rank = lambda pairs: measure.ranks(judge.see(found, [o for _, o in pairs]), judge.texts[t],
                                           torch.tensor([i for i, _ in pairs], dtype=torch.long)) if pairs else torch.empty(0)
        real_rank = measure.ranks(real, judge.texts[t], real_of)
        in_card = torch.isin(real_of, torch.tensor(named[t], dtype=torch.long))
        mine, theirs = rank(own), rank(others)
        out[t] = {"card's names": len(named[t]), "drawn": measure.recall(mine), "real": measure.recall(real_rank[in_card]),
                  "all real": measure.recall(real_rank), "other names": len(others), "others drawn": measure.recall(theirs)}
        for k in ("R@1", "R@5"):
            a, b = out[t]["drawn"][k] or 0, out[t]["others drawn"][k] or 0
            out[t][f"all drawn {k}"] = round((a * len(named[t]) + b * len(rest[t])) / n, 1)
            for what, top, bottom in (("ratio", a, out[t]["real"][k]), ("all ratio", out[t][f"all drawn {k}"], out[t]["all real"][k])):
                out[t][f"{what} {k}"] = round(100 * top / bottom, 1) if bottom else None
        out[t]["missed by every seed"] = [judge.names[i][t] for i in named[t]
                                          if all(r >= 5 for r, (j, _) in zip(mine.tolist(), own) if j == i)]
        seen[t] = judge.see(found, [o for _, o in own])
        kept[t] = own
    out["card's names not on the list"] = [x for x in drawer.card["draws"]["en"] if x not in {r["en"] for r in judge.names}]
    return out, found, seen, kept


def few_steps(judge, named, args):
    """The card's names drawn once more with a variant's options: its scores as a share of the full model's."""
    drawer = Drawer(args.moji, args.model, args.work, args.jobs, args.few.split())
    out = {"options": args.few}
    for t in TONGUES:
        own = [i for i, r in enumerate(judge.names) if r[t] in drawer.card["draws"][t]]
        orders = [Order(judge.names[i][t], judge.background(i), s) for i in own for s in range(1, args.seeds + 1)]
        found = drawer.draw([(o.prompt, o.background) for o in orders], args.seeds, say)
        score = measure.recall(measure.ranks(judge.see(found, orders), judge.texts[t], torch.tensor(own).repeat_interleave(args.seeds)))
        full = named[t]["drawn"]
        out[t] = {**score, **{f"of the full one {k}": round(100 * score[k] / full[k], 1) if full[k] else None for k in score},
                  **measure.frames(list(found.values()))}
    return out


def composed(judge, drawer, args):
    """Composed prompts: are both parts' names among the nearest of all parts' names?"""
    rows = [r for r in realart.compositions(args.compositions) if len(r["parts"]) == 2 and all(p in judge.row for p in r["parts"])]
    parts = sorted({p for r in rows for p in r["parts"]})
    names = torch.nn.functional.normalize(sum(judge.texts[t][[judge.row[p] for p in parts]] for t in TONGUES), dim=1)
    wanted = torch.tensor([[parts.index(p) for p in r["parts"]] for r in rows])
    found = drawer.draw([(r[t], judge.background(i)) for t in TONGUES for i, r in enumerate(rows)], args.tries, say)

    rng = np.random.default_rng(args.seed)
    real, alone = [], []
    art = {(judge.art.concept[i].item(), bare): i.item() for bare in (False, True) for i in judge.art.rows(judge.held, True, bare)}
    for r in rows:
        subject, what = (judge.row[p] for p in r["parts"])
        place = compose.PLACES.get(r["parts"][1], compose.BESIDE)
        for _ in range(args.tries):
            real.append(compose.pair(rng, art[subject, False], judge.art.box[art[subject, False]].tolist(),
                                     art[what, place == compose.MOOD], place))
            alone.append(compose.centred(art[subject, False]))
    orders = {t: [Order(r[t], judge.background(i), s) for i, r in enumerate(rows) for s in range(1, args.tries + 1)] for t in TONGUES}
    seen = {t: judge.see(found, orders[t]) for t in TONGUES} | {"real": judge.see_art(real), "subject alone": judge.see_art(alone)}

    out = {"prompts": len(rows), "held out": sum(r["held"] for r in rows), "parts": len(parts), "top": TOP, "tries": args.tries}
    share = lambda hit: round(100 * hit.float().mean().item(), 1) if len(hit) else None
    held = torch.tensor([r["held"] for r in rows])
    hits = {}
    for what, vectors in seen.items():
        first, second = measure.both(vectors, names, wanted.repeat_interleave(args.tries, 0), TOP)
        hits[what] = (first & second).view(len(rows), args.tries)
        any_try = hits[what].any(1)
        out[what] = {"subject": share(first), "attachment": share(second), "both": share(hits[what]), "both, any try": share(any_try),
                     "any try, held out": share(any_try[held]), "any try, others": share(any_try[~held])}
    out["rows"] = [{"en": r["en"], "ko": r["ko"], "held": r["held"], "seen": {t: int(hits[t][i].sum()) for t in (*TONGUES, "real")}}
                   for i, r in enumerate(rows)]
    return out, found, seen, orders


def judge_all(args):
    """Everything but the speeds -> the numbers; draws the sheets."""
    drawer = Drawer(args.moji, args.model, args.work, args.jobs, ["--steps", str(args.steps)] if args.steps else [])
    judge = Judge(args, drawer)
    named, found, seen, kept = retrieval(judge, drawer, args)
    parts, found_parts, seen_parts, orders = composed(judge, drawer, args)
    result = {"model": drawer.card["name"], "version": drawer.card["version"], "files": drawer.folder.name, "retrieval": named,
              "compositions": parts}

    result["frames"] = {"names": measure.frames(list(found.values())), "compositions": measure.frames(list(found_parts.values()))}
    for b in judge.backgrounds:
        result["frames"][b] = measure.frames([d for o, d in (found | found_parts).items() if o.background == b])

    # a concept is drawn with the same seeds in both languages
    both = {}
    for t in TONGUES:
        for v, (i, o) in zip(seen[t], kept[t]):
            both.setdefault((i, o.seed), {})[t] = v
    pairs = [p for p in both.values() if len(p) == 2]
    if pairs:
        a, b = (torch.stack([p[t] for p in pairs]) for t in TONGUES)
        result["parity"] = {"cosine, same name": round((a * b).sum(1).mean().item(), 3),
                            "cosine, other name": round((a * b.roll(args.seeds, 0)).sum(1).mean().item(), 3),
                            "R@5, English less Korean": round(named["en"]["drawn"]["R@5"] - named["ko"]["drawn"]["R@5"], 1)}

    def groups(vectors, keys, size, of):
        """Seeds of one prompt together, those alone that were drawn."""
        for i in range(0, len(keys), size):
            yield [of(v, o) for v, o in zip(vectors[i:i + size], keys[i:i + size]) if v.any()]
    result["diversity"] = {}
    for what, vectors, keys, size, pictures in (
            ("names", seen["en"], [o for _, o in kept["en"]], args.seeds, found),
            ("compositions", seen_parts["en"], orders["en"], args.tries, found_parts)):
        vectors_of = [torch.stack(g) for g in groups(vectors, keys, size, lambda v, o: v) if g]
        result["diversity"][what] = {**measure.spread(vectors_of), "pixels": measure.pixels_apart(
            groups(vectors, keys, size, lambda v, o: pictures[o].thumb))}

    everything = torch.cat([judge.see_art([compose.centred(i) for i in judge.art.rows(judge.held, inside).tolist()])
                            for inside in (True, False)])
    near = lambda v: measure.nearest(v[v.any(1)], everything)
    result["nearest real picture"] = {"names drawn": near(seen["en"]) if len(seen["en"]) else None,
                                      "compositions drawn": near(torch.cat([seen_parts[t] for t in TONGUES])),
                                      "compositions of real art": near(seen_parts["real"])}
    if len(taught := trained.pictures(args.art, args.work, args.names)):
        vectors = torch.cat([judge.see_scenes(taught[k:k + 128]) for k in range(0, len(taught), 128)])
        held = torch.tensor([r["held"] for r in parts["rows"] for _ in range(parts["tries"])])
        of = lambda v, which: v[which & v.any(1)]
        for what, which in (("held out", held), ("others", ~held)):
            mine = torch.cat([of(seen_parts[t], which) for t in TONGUES])
            if len(mine):
                result["nearest real picture"][f"compositions drawn, {what}: to a scene trained on"] = measure.nearest(mine, vectors)
    if args.few:
        result["few steps"] = few_steps(judge, named, args)
    result["not drawn"] = drawer.failed
    sheets(args.out, judge, found, kept, found_parts, orders, parts)
    return result


def sheets(out, judge, found, kept, found_parts, orders, parts):
    """names.png: the card's names, seed 1, English then Korean; compositions.png: a prompt's tries in English, then in Korean."""
    blank = Image.new("RGB", (96, 96), "white")
    picture = lambda pictures, o: Image.fromarray(pictures[o].thumb) if o in pictures else blank
    first = [o for t in TONGUES for _, o in kept[t] if o.seed == 1]
    if first:
        grid([picture(found, o) for o in first], [o.prompt for o in first], 80, 17).quantize(256).save(out / "names.png", optimize=True)
    tries, cells, labels = parts["tries"], [], []
    for i, row in enumerate(parts["rows"]):
        for t in TONGUES:
            mine = orders[t][i * tries:(i + 1) * tries]
            cells += [picture(found_parts, o) for o in mine]
            labels += [(row[t] + (" *" if row["held"] else "")) if s == 0 else "" for s in range(tries)]
    grid(cells, labels, 80, 4 * tries).quantize(256).save(out / "compositions.png", optimize=True)


def table(r):
    """The figures that matter as Markdown."""
    lines = [f"Model {r['model']} {r['version']} (files {r['files']})", "", "| what | English | Korean |", "|---|---|---|"]
    n, c = r["retrieval"], r["compositions"]
    both = lambda what, of: lines.append(f"| {what} | {of('en')} | {of('ko')} |")
    for k in ("R@5", "R@1"):
        both(f"{k}, the card's names among {n['names']}: drawn / real art of {n['held out']}",
             lambda t: f"{n[t]['drawn'][k]} / {n[t]['real'][k]} % = {n[t]['ratio ' + k]} % ({n[t]['card' + chr(39) + 's names']} names)")
        both(f"{k}, all {n['names']} names: drawn / real art",
             lambda t: f"{n[t]['all drawn ' + k]} / {n[t]['all real'][k]} % = {n[t]['all ratio ' + k]} %")
    both(f"composed prompts, both parts seen in one of {c['tries']} drawings", lambda t: f"{c[t]['both, any try']} %")
    both("the same, held-out pairs / the others", lambda t: f"{c[t]['any try, held out']} / {c[t]['any try, others']} %")
    both("subject / attachment / both, each drawing", lambda t: f"{c[t]['subject']} / {c[t]['attachment']} / {c[t]['both']} %")
    lines += ["", "| what | figure |", "|---|---|"]
    one = lambda what, figure: lines.append(f"| {what} | {figure} |")
    for what in ("real", "subject alone"):
        one({"real": "compositions of real art", "subject alone": "real subjects alone"}[what] + ": subject / attachment / both, each",
            f"{c[what]['subject']} / {c[what]['attachment']} / {c[what]['both']} %")
    for what, f in r["frames"].items():
        one(f"frame, {what}: deviation under 3/255; touched; median deviation; off its colour",
            f"{f['under 3, %']} %; {f['touched, %']} %; {f['median deviation']}; {f['median distance from the colour']}")
    if p := r.get("parity"):
        one("English and Korean drawing of a name: cosine (of different names)", f"{p['cosine, same name']} ({p['cosine, other name']})")
        one("R@5, English less Korean, points", p["R@5, English less Korean"])
    for what, d in r["diversity"].items():
        one(f"{what}: distance between seeds (between prompts); pixels, 255ths", f"{d['between seeds']} ({d['between names']}); {d['pixels']}")
    for what, d in r["nearest real picture"].items():
        if d:
            one(f"nearest real picture, {what}: mean cosine; above 0.9", f"{d['mean cosine']}; {d['above 0.9, %']} %")
    if f := r.get("few steps"):
        for t in TONGUES:
            one(f"few steps ({f['options']}), {t}: R@5, of the full one; frame under 3/255",
                f"{f[t]['R@5']} %, {f[t]['of the full one R@5']} %; {f[t]['under 3, %']} %")
    if r["not drawn"]:
        one("not drawn", "; ".join(r["not drawn"]))
    return "\n".join(lines) + "\n"


def speeds(args):
    """Whole processes of moji draw, best of several; the folder's size."""
    size = sum(p.stat().st_size for p in args.model.rglob("*") if p.is_file())
    steps = json.loads((args.model / "moji.json").read_text(encoding="utf-8"))["defaults"]["steps"]
    two = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, two)
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}       # as many threads as there are processors
    out = {"folder, MiB": round(size / 2 ** 20, 1), "processors": len(two), "best of": args.runs}
    variants = {f"{n} steps": ["--steps", str(n)] for n in sorted({steps, 20})}
    if args.few:
        variants["few steps"] = args.few.split()
    for what, options in variants.items():
        times = []
        for _ in range(args.runs):
            start = time.time()
            subprocess.run([args.moji, "draw", "cat", "--model", args.model, "--seed", "1", *options, "-o", args.out / "speed.png"],
                           check=True, capture_output=True, env=environment)
            times.append(time.time() - start)
        out[f"{what}, s"] = round(min(times), 2)
    (args.out / "speed.png").unlink()
    return out


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--art", type=Path)
    ap.add_argument("--work", type=Path)
    ap.add_argument("--model", type=Path, required=True)
    ap.add_argument("--moji", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--jobs", type=int, default=1, help="drawings at a time, one thread each")
    ap.add_argument("--minutes", type=float, default=8, help="of one processor, to train the encoder")
    ap.add_argument("--held", default="twemoji", choices=realart.ALL_SETS, help="the set that the encoder never sees")
    ap.add_argument("--seeds", type=int, default=2, help="drawings of each name of the card")
    ap.add_argument("--tries", type=int, default=4, help="drawings of each composed prompt")
    ap.add_argument("--compositions", type=int, help="only the first so many prompts")
    ap.add_argument("--others", type=int, default=60, help="names drawn that the card does not list")
    ap.add_argument("--steps", type=int, help="instead of the card's: a variant with fewer")
    ap.add_argument("--few", default="", help="options of moji draw for a variant of few steps, to be compared")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--speeds", action="store_true", help="times and size alone")
    ap.add_argument("--runs", type=int, default=5, help="of each, for --speeds")
    ap.add_argument("--toy", action="store_true")
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.speeds:
        result = speeds(args)
        (args.out / "speeds.json").write_text(json.dumps(result, indent=1) + "\n")
        return say(json.dumps(result))
    if not args.art or not args.work:
        ap.error("--art and --work are needed")
    args.work.mkdir(parents=True, exist_ok=True)
    args.names, args.channels = None, (32, 64, 128, 256)
    if args.toy:
        args.names, args.compositions, args.channels = 12, 2, (8, 8, 16, 16)
        args.minutes, args.seeds, args.tries, args.others = 0.05, 1, 2, 2
    result = judge_all(args)
    (args.out / "evaluation.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (args.out / "evaluation.md").write_text(table(result), encoding="utf-8")
    say(table(result))


if __name__ == "__main__":
    main()
