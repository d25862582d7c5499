#!/usr/bin/env python3
"""Makes ../korean.tsv, the dictionary for Korean prompts on an English text model.

    python3 engine/korean/make_dictionary.py ANNOTATIONS

ANNOTATIONS is a folder with CLDR's annotations in JSON, en.json and ko.json (npm: cldr-annotations-full,
annotations/en/annotations.json and .../ko/...; licence Unicode-3.0). Names translate names. A keyword
translates to the English name or keyword that most nearly the same emojis have. hand.tsv comes first.
"""
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
HANGUL = re.compile("[가-힣ㄱ-ㅣ]")


def read(path):
    return json.loads(path.read_text())["annotations"]["annotations"]


def is_korean(text):
    """Hangul words alone: nothing that a prompt's own grammar would read."""
    return re.fullmatch("[가-힣ㄱ-ㅣ0-9 ]+", text) and HANGUL.search(text)


def plain(text):
    """Without what the grammar of prompts would read."""
    return re.sub(r"\s+", " ", re.sub(r"[()\[\]\\“”:]", " ", text)).strip()


def by_keyword(annotations):
    sets = defaultdict(set)
    for emoji, entry in annotations.items():
        for word in entry.get("default", []) + entry.get("tts", []):
            sets[word].add(emoji)
    return sets


def main():
    folder = Path(sys.argv[1])
    en, ko = read(folder / "en.json"), read(folder / "ko.json")
    table = {}

    def add(korean, english):
        key = korean.replace(" ", "")
        if is_korean(korean) and plain(english):
            table.setdefault(key, (korean, plain(english)))

    for line in (HERE / "hand.tsv").read_text().splitlines():
        if line and not line.startswith("#"):
            add(*line.split("\t"))
    hand = len(table)
    for emoji, entry in ko.items():
        if emoji in en and "tts" in entry and "tts" in en[emoji]:
            add(entry["tts"][0], en[emoji]["tts"][0])
    names = len(table) - hand
    english = by_keyword(en)
    for word, emojis in sorted(by_keyword(ko).items()):
        if len(word.replace(" ", "")) < 2:
            continue            # one syllable means too much
        candidates = {w for e in emojis if e in en
                      for w in en[e].get("default", []) + en[e].get("tts", [])}
        score = {w: len(emojis & english[w]) / len(emojis | english[w]) for w in candidates}
        name = {en[e]["tts"][0] for e in emojis if e in en and "tts" in en[e]}
        best = max(score, key=lambda w: (score[w], w in name, -len(w), w), default=None)
        if best and score[best] >= 0.6:
            add(word, best)
    out = "".join(f"{k}\t{e}\n" for k, e in sorted(table.values()))
    (HERE.parent / "korean.tsv").write_text(
        "# Made by korean/make_dictionary.py from CLDR's annotations (Unicode-3.0) and korean/hand.tsv.\n" + out)
    print(f"{hand} by hand, {names} names, {len(table) - hand - names} keywords")


if __name__ == "__main__":
    main()
