"""Stage 3: captions and their tokenizer.

    python captions.py --work DIR       writes DIR/tokenizer (vocab.json, merges.txt, ...: CLIP's format)

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


def caption(scene, background, rng):
    """One caption that is true of this scene on this background. rng: numpy Generator."""
    korean = rng.random() < 0.35
    name, others = names(scene, korean)
    if others and rng.random() < (0.25 if scene.thing >= 0 or scene.mood >= 0 else 0.05):
        name = others[rng.integers(len(others))]
    own = scene.style == frog.STYLE     # the style alone says who is angry
    if own and scene.thing < 0 and rng.random() < 0.2:
        name = tables()[1][scene.mood]["ko" if korean else "en"]
    elif rng.random() < 0.03:
        name = name + " 이모지" if korean else ("a " + name if rng.random() < 0.5 else name + " emoji")
    parts = [name]
    if own and (rng.random() < 0.4 or not name.count(" ")):
        parts.append(frog.STYLE)
    elif rng.random() < 0.7:
        parts.append(DEFAULT_STYLE)
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


def train_tokenizer(folder, merges_at_most=3400):
    letters = byte_letters()
    counts = Counter()
    for text in sorted(set(texts())):
        for word in WORD.findall(text.lower()):
            s = [letters[b] for b in word.encode()]
            counts[tuple(s[:-1] + [s[-1] + "</w>"])] += 1
    words, merges = dict(counts), []
    while len(merges) < merges_at_most:
        pairs = Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        if not pairs:           # every word is one token
            break
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        merged = {}
        for word, n in words.items():
            out, i = [], 0
            while i < len(word):
                if word[i:i + 2] == best:
                    out.append(best[0] + best[1])
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            merged[tuple(out)] = merged.get(tuple(out), 0) + n
        words = merged
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
    args = ap.parse_args()
    train_tokenizer(args.work / "tokenizer")


if __name__ == "__main__":
    main()
