"""The full grammar of scenes, `--reach all`: every emoji of every set, and what can be done with it, in English and Korean.

Beyond scenes.py: recolouring, sizes, counts, two things in a relation, weather, more attachments, moods on whatever has a face,
two of these at once (ways.tsv). Pairs are too many to draw all: a share of them is chosen by hash, another in every set. One in
eight of the composed scenes is held out, the same in every set: never trained on.
"""
import json
import tarfile
import zlib

import frog
from art import SETS, concepts
from common import SCALE
from scenes import MOOD_FACES, Scene, josa, read

STYLES = [*SETS, frog.STYLE]
EVERY = 1 << 16         # hashes are below this
# How many of the scenes of a kind are drawn, of this many; the rest is never composed.
SHARES = {"relation": EVERY // 12, "two at once": EVERY // 8, "stranger": EVERY // 6}
NOT_COUNTED = ("rice", "popcorn", "sushi", "beer", "fire", "lightning", "poo", "money", "bread", "bacon", "tennis",
               "halloween", "cheese", "meat", "snow", "fog", "wind")
COUNTERS = {"Animals & Nature": "마리"}
COUNTERS_OF = {"송이": ("blossom", "flower", "sunflower", "rose", "tulip", "hibiscus", "grapes", "rosette", "bouquet"), "그루": ("tree", "cactus"),
               "대": ("automobile", "car", "bus", "airplane", "rocket", "bicycle", "truck", "train", "tractor", "helicopter", "laptop", "guitar"),
               "잔": ("beverage", "mug", "glass", "drink"), "명": ("person", "man", "woman", "boy", "girl", "baby", "child", "guard", "officer", "prince", "princess"), "채": ("house", "castle"), "척": ("boat", "ship"),
               "개": ("sun", "moon", "star", "sparkles", "cloud", "fire", "droplet", "leaf", "clover", "mushroom", "rainbow", "snow", "wave", "comet",
                     "cyclone", "voltage", "globe", "web", "seedling", "herb", "rock", "wood", "nest", "feather", "paw", "umbrella", "sparkle",
                     "tornado", "fog", "thermometer", "wind", "ear-of-rice", "shell", "planet", "milky")}


def mark(*words):
    return zlib.crc32(" ".join(map(str, words)).encode()) % EVERY


def cldr(art, language):
    with open(art / "annotations" / f"{language}.json", encoding="utf-8") as f:
        return json.load(f)["annotations"]["annotations"]


def catalogue(art, extra):
    """The rows of concepts.tsv, then of `extra` (evaluate/names.tsv), then every other emoji that CLDR names in both languages;
    no flags, skin tones, keycaps or letters. core: what the whole grammar speaks of; the others take part now and then."""
    rows = [{**r, "core": True} for r in concepts()]
    known, taken = {r["slug"] for r in rows}, {t: {r[t].lower() for r in rows} for t in ("en", "ko")}
    words = {t: cldr(art, t) for t in ("en", "ko")}
    with tarfile.open(next(art.glob("iconify-json-twemoji-[0-9]*.tgz"))) as tar:
        chars = json.load(tar.extractfile("package/chars.json"))
        kinds = json.load(tar.extractfile("package/metadata.json"))["categories"]
    kind = {name: k for k, names in kinds.items() for name in names}
    codes = {slug: code for code, slug in sorted(chars.items(), reverse=True)}

    def entry(code, language):
        return words[language].get("".join(chr(int(c, 16)) for c in code.split("-")), {})

    def add(slug, code, en, ko):
        if slug not in known and en and ko and en.lower() not in taken["en"] and ko not in taken["ko"]:
            known.add(slug), taken["en"].add(en.lower()), taken["ko"].add(ko)
            rows.append({"slug": slug, "code": code, "en": en, "ko": ko, "keys_en": [], "keys_ko": [], "core": False})
    for r in extra:
        add(r["slug"], r["code"], r["en"], r["ko"])
    for slug, code in sorted(codes.items()):
        if kind.get(slug) not in (None, "Flags", "Symbols") and "skin-tone" not in slug and "-" not in code.replace("-fe0f", ""):
            add(slug, code, *((entry(code, t).get("tts") or [""])[0] for t in ("en", "ko")))
    # a keyword that one emoji alone has means it; the others mean too much
    for t in ("en", "ko"):
        uses = {}
        for r in rows:
            for k in entry(r["code"], t).get("default", []):
                uses.setdefault(k.lower(), []).append(r)
        for k, users in uses.items():
            if len(users) == 1 and k not in taken[t]:
                users[0].setdefault("cldr_" + t, []).append(k)
    for r in rows:
        parts = set(r["slug"].split("-"))
        r["counter"] = next((n for n, some in COUNTERS_OF.items() if parts & set(some)), COUNTERS.get(kind.get(r["slug"]), "개"))
    return rows


def plural(noun):
    """None where a noun has no plural that fits."""
    if noun.endswith("s") and not noun.endswith(("ss", "us", "bus")) or " with " in noun or " in " in noun or noun.split()[-1] in NOT_COUNTED:
        return None
    for end, many in (("mouse", "mice"), ("fish", "fish"), ("sheep", "sheep"), ("deer", "deer"), ("wolf", "wolves"), ("leaf", "leaves"),
                      ("knife", "knives"), ("tooth", "teeth"), ("foot", "feet"), ("man", "men")):
        if noun.endswith(end):
            return noun[:len(noun) - len(end)] + many
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh", "tomato", "potato")) else "s")


def article(noun):
    """The noun as one of its kind: "an apple", "fire"."""
    if plural(noun) is None and " with " not in noun and " in " not in noun or noun in ("sun", "moon"):
        return "the " + noun if noun in ("sun", "moon") else noun
    return ("an " if noun[0].lower() in "aeiou" and not noun.startswith(("uni", "one", "eu")) or noun.startswith("hour") else "a ") + noun


def filled(pattern, *parts, counter=""):
    """A pattern of ways.tsv; {과} and {을} are the particles that fit what stands before them."""
    out = pattern.replace("{n}", counter)
    for i, part in enumerate(parts):
        out = out.replace("{%d}{과}" % i, part + josa(part, "과", "와")).replace("{%d}{을}" % i, part + josa(part, "을", "를"))
        out = out.replace("{%d}" % i, part)
    return out


class Grammar:
    def __init__(self, rows):
        self.rows, self.moods, self.things, self.ways = rows, read("moods.tsv"), read("things.tsv"), read("ways.tsv")
        self.way = {w["word"]: i for i, w in enumerate(self.ways)}

    # ---- scenes ----

    def some(self, own, kind, *key):
        """Whether a scene is among those of its kind that are drawn; all of our own frog's are."""
        return own or mark(kind, *key) < SHARES[kind]

    def fits(self, row, place, slug, frog_style):
        head = row.get("eyes") or row.get("face") or frog_style
        return slug != row["slug"] and {"head": head, "eyes": row.get("eyes") and not frog_style, "tears": head, "blush": head, "brow": head,
                                        "count": plural(row["en"])}.get(place, True)

    def singles(self, i, style, moods):
        """A subject's scenes before anything is put to it: (mood, colour)."""
        row = self.rows[i]
        if style == frog.STYLE:
            return [(m, -1) for m in moods]
        able = row["core"] and (row.get("eyes") or row.get("face"))
        colours = [w for w, way in enumerate(self.ways) if way["kind"] == "colour"]
        return [(-1, -1), *((m, -1) for m in moods if able), *((-1, c) for c in colours)]

    def scenes(self, style, has, share=1.0):
        """All scenes of one set in a steady order. has(slug): whether the set has that picture."""
        out, own = [], style == frog.STYLE
        inside = [i for i, r in enumerate(self.rows) if has(r["slug"])]
        core = [i for i in inside if self.rows[i]["core"]]
        subjects = [i for i in inside if self.rows[i]["slug"] == "frog"] if own else inside
        moods = range(len(self.moods))

        def add(i, *scene):
            key = self.rows[i]["slug"], *scene[:3], self.rows[scene[3]]["slug"] if scene[3] >= 0 else ""
            composed = scene != (-1, -1, -1, -1) and not (own and scene[1:] == (-1, -1, -1))
            if mark(style, *key) < share * EVERY or not composed:
                out.append(Scene(i, style, scene[0], scene[1], composed and mark("held", *key) % 8 == 0, scene[2], scene[3]))

        for i in subjects:
            row, stranger = self.rows[i], not self.rows[i]["core"]
            seldom = lambda *key: stranger and not self.some(own, "stranger", style, row["slug"], *key)
            for mood, colour in self.singles(i, style, moods):
                if colour < 0 or not seldom(colour):
                    add(i, mood, -1, colour, -1)
                both = mood >= 0 or colour >= 0         # two at once: but some
                for t, thing in enumerate(self.things):
                    if self.fits(row, thing["place"], thing["slug"], own) and not seldom("thing", t, mood, colour) and \
                            (not both or self.some(own, "two at once", style, row["slug"], mood, colour, t)):
                        add(i, mood, t, colour, -1)
                for w, way in enumerate(self.ways):
                    if way["kind"] not in ("colour", "relation") and colour < 0 and self.fits(row, way["kind"], way["slug"], own) and \
                            not seldom("way", w, mood) and (mood < 0 or self.some(own, "two at once", style, row["slug"], mood, w)):
                        add(i, mood, -1, w, -1)
            if stranger:
                continue
            for w, way in enumerate(self.ways):
                for j in core if way["kind"] == "relation" else ():
                    if j != i and self.some(own, "relation", style, row["slug"], w, self.rows[j]["slug"]):
                        add(i, moods[mark(style, j, w) % len(moods)] if own else -1, -1, w, j)
        return out

    @staticmethod
    def margin(way):
        """What share of the frame the scene fills."""
        return 0.955 if way and way["word"] == "huge" else SCALE

    # ---- names ----

    def names(self, scene, korean):
        """The main name and the others, in one language: all that a scene can be called."""
        tongue = "ko" if korean else "en"
        row = self.rows[scene.subject]
        out = [row[tongue], *row["keys_" + tongue]]
        if max(scene.mood, scene.thing, scene.way) < 0:
            return out[0], [*out[1:], *row.get("cldr_" + tongue, [])]
        way = self.ways[scene.way] if scene.way >= 0 else None
        if way and way["kind"] == "count" and not korean:
            out = [p for p in map(plural, out) if p]

        def dressed(patterns, *other):
            """Every pattern with the main name, the main pattern with every name."""
            return [filled(patterns[0], out[0], *other, counter=row["counter"]), *(filled(p, out[0], *other, counter=row["counter"]) for p in patterns[1:]),
                    *(filled(patterns[0], o, *other, counter=row["counter"]) for o in out[1:])]

        def every(entry):
            return [entry[tongue], *entry["keys_" + tongue]]
        if way and way["kind"] in ("colour", "size", "turn"):
            out = dressed(every(way))
        if scene.mood >= 0:
            out = dressed([p + " {0}" for p in every(self.moods[scene.mood])])
        if scene.thing >= 0:
            out = dressed([p.replace("{}와", "{0}{과}").replace("{}", "{0}") for p in every(self.things[scene.thing])])
        if way and way["kind"] == "relation":
            other = self.rows[scene.other][tongue]
            out = dressed(every(way), other if korean or way["word"] == "bigger" else article(other))
        elif way and way["kind"] not in ("colour", "size", "turn"):
            out = dressed(every(way))
        return out[0], list(dict.fromkeys(out[1:]))

    def texts(self):
        """Every word that names are made of; Korean nouns with the particles that may be part of the word."""
        out = list(STYLES)
        for t in ("en", "ko"):
            for r in self.rows:
                nouns = [r[t], *r["keys_" + t], *r.get("cldr_" + t, [])]
                out += nouns + [p for p in map(plural, nouns) if p] if t == "en" else nouns
                if t == "ko":
                    out += [n + josa(n, *pair) for n in nouns[:1] for pair in (("과", "와"), ("을", "를"))] + [nouns[0] + "보다"]
            for entry in [*self.moods, *self.things, *self.ways]:
                for pattern in [entry[t], *entry["keys_" + t]]:
                    out += [filled(pattern.replace("{}", ""), "", "", counter=c) for c in (["", "개", *COUNTERS.values(), *COUNTERS_OF] if "{n}" in pattern else [""])]
        return out

    # ---- what there is to be told from a caption ----

    def counts(self):
        return len(self.rows), len(self.moods) + 1, len(self.things) + 1, len(STYLES), len(self.ways) + 1, len(self.rows) + 1

    def facts(self, scene):
        return scene.subject, scene.mood + 1, scene.thing + 1, STYLES.index(scene.style), scene.way + 1, scene.other + 1

    def parts(self, scene):
        """The slugs of what can be seen in it, the subject first."""
        out = [self.rows[scene.subject]["slug"]]
        if scene.thing >= 0:
            out.append(self.things[scene.thing]["slug"])
        if scene.other >= 0:
            out.append(self.rows[scene.other]["slug"])
        elif scene.way >= 0 and self.ways[scene.way]["slug"]:
            out.append(self.ways[scene.way]["slug"])
        elif scene.mood >= 0 and self.moods[scene.mood]["word"] in MOOD_FACES:
            out.append(MOOD_FACES[self.moods[scene.mood]["word"]])
        return out
