"""Stage 3: captions and their tokenizer.

    python captions.py --work DIR [--reach all]     writes DIR/tokenizer (vocab.json, merges.txt, ...: CLIP's format)

A caption is `NAME, STYLE, COLOUR background`; the last two parts may be missing. Without a style word the picture is in the
default style, without a colour on white, so that what the words leave open has one answer: a model this small blurs
between several. Names are English or Korean, main or other (scenes.py); Korean captions name colours in Korean half of the time.
"""
import argparse
import json
from collections import Counter
from pathlib import Path

import regex

import frog
from common import BACKGROUNDS, BACKGROUNDS_KO
from scenes import DRAWN, names, scenes, tables

DEFAULT_STYLE = "twemoji"       # the set of art.py that the diffusion model draws
STYLES = [DEFAULT_STYLE, frog.STYLE]
LENGTH = 32             # tokens in a prompt, both ends included
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def caption(scene, background, rng, names=names, style=DEFAULT_STYLE):
    """One caption that is true of this scene on this background. rng: numpy Generator; names: those of scenes.py or grammar.py;
    style: the word for it, which only the default one can do without."""
    korean = rng.random() < 0.35
    name, others = names(scene, korean)
    if others and rng.random() < (0.25 if max(scene.thing, scene.mood, scene.way) >= 0 else 0.05):
        name = others[rng.integers(len(others))]
    own = scene.style == frog.STYLE     # the style alone says who is angry
    if own and max(scene.thing, scene.way) < 0 and rng.random() < 0.2:
        name = tables()[1][scene.mood]["ko" if korean else "en"]
    elif rng.random() < 0.03:
        name = name + " 이모지" if korean else ("a " + name if rng.random() < 0.5 else name + " emoji")
    parts = [name]
    if own and (rng.random() < 0.4 or not name.count(" ")):
        parts.append(frog.STYLE)
    elif style != DEFAULT_STYLE or rng.random() < 0.7:
        parts.append(style)
    if background != "white" or rng.random() < 0.5:
        if korean and rng.random() < 0.5:
            words = BACKGROUNDS_KO[background]
            parts.append(words[rng.integers(len(words))] + " 배경")
        else:
            parts.append(background + " background")
    return ", ".join(parts)


# CLIP's splitting of lower-case text into words, without the special tokens
WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)


def byte_letters():
    """CLIP's (GPT-2's) letter for every byte, so that any text is spelt in visible characters."""
    keep = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters, extra = {b: chr(b) for b in keep}, 0
    for b in range(256):
        if b not in letters:
            letters[b] = chr(256 + extra)
            extra += 1
    return {b: letters[b] for b in keep + [b for b in range(256) if b not in keep]}


def texts():
    """Every word sequence that captions are made of, once."""
    out = ["a", "emoji", "이모지", "background", "배경", "with", "and", "style", ",", "."]
    table, moods, things = tables()
    for row in [*table, *moods]:
        out += [row["en"], row["ko"], *row["keys_en"], *row["keys_ko"]]
    for row in things:      # with any name for the {}: a Korean particle is part of the word before it
        out += [row["en"].format("a"), *[k.format("a") for k in row["keys_en"]]]
    for scene in scenes(DRAWN, DEFAULT_STYLE):
        if scene.thing >= 0:
            main, others = names(scene, True)
            out += [main, *others]
    out += [*BACKGROUNDS, *STYLES]
    for words in BACKGROUNDS_KO.values():
        out += words
    return out


def joined(word, pair):
    out, i = [], 0
    while i < len(word):
        two = word[i:i + 2] == pair
        out.append(word[i] + word[i + 1] if two else word[i])
        i += 2 if two else 1
    return tuple(out)


def merges_of(counts, at_most):
    """Byte pairs in the order they are merged: the commonest first, of equals the last in the alphabet. Only words that a pair
    is in are counted again."""
    words, merges = list(counts.items()), []
    pairs, within, alike = Counter(), {}, {}        # alike: the pairs of each count

    def count(pair, n):
        alike.get(pairs[pair], set()).discard(pair)
        pairs[pair] += n
        if pairs[pair]:
            alike.setdefault(pairs[pair], set()).add(pair)

    def put(w, sign):
        for pair in zip(words[w][0], words[w][0][1:]):
            count(pair, sign * words[w][1])
            within.setdefault(pair, set()).add(w)
    for w in range(len(words)):
        put(w, 1)
    while len(merges) < at_most:
        most = max((n for n, some in alike.items() if some), default=0)
        if not most:            # every word is one token
            break
        merges.append(max(alike[most]))
        for w in within.pop(merges[-1]):
            put(w, -1)
            words[w] = joined(words[w][0], merges[-1]), words[w][1]
            put(w, 1)
    return merges


def train_tokenizer(folder, texts, merges_at_most=6000):
    letters = byte_letters()
    counts = Counter()
    for text in sorted(set(texts)):
        for word in WORD.findall(text.lower()):
            s = [letters[b] for b in word.encode()]
            counts[tuple(s[:-1] + [s[-1] + "</w>"])] += 1
    merges = merges_of(counts, merges_at_most)
    base = list(letters.values())
    vocab = base + [c + "</w>" for c in base] + list(dict.fromkeys(a + b for a, b in merges)) + [BOS, EOS]
    folder.mkdir(parents=True, exist_ok=True)
    dump = lambda name, obj: (folder / name).write_text(json.dumps(obj, ensure_ascii=False, indent=1) + "\n",
                                                        encoding="utf-8")
    dump("vocab.json", {t: i for i, t in enumerate(vocab)})
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    special = lambda t: {"content": t, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    dump("special_tokens_map.json", {"bos_token": special(BOS), "eos_token": special(EOS), "pad_token": EOS,
                                     "unk_token": special(EOS)})
    dump("tokenizer_config.json", {
        "tokenizer_class": "CLIPTokenizer", "add_prefix_space": False, "do_lower_case": True, "errors": "replace",
        "model_max_length": LENGTH, "bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS})
    print(f"{len(vocab)} tokens, {len(merges)} merges")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--work", type=Path, required=True)
    ap.add_argument("--reach", choices=["small", "all"], default="small")
    args = ap.parse_args()
    if args.reach == "small":
        return train_tokenizer(args.work / "tokenizer", texts())
    from grammar import Grammar
    own = Grammar(json.loads((args.work / "catalogue.json").read_text())).texts()
    train_tokenizer(args.work / "tokenizer", [*texts(), *own], 6500)


if __name__ == "__main__":
    main()
