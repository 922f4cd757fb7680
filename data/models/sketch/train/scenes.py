# SPDX-License-Identifier: Apache-2.0
"""Invent scenes and the sentences that describe them exactly.

A scene is at most four objects on a grid of 16 pixels (the transformer's
patch), a background and a style. Compositions whose key falls into the tenth
part `held_out` are never trained on; the judgement draws only from that part.
"""
import random
import zlib

import numpy as np

import palette

SIZES = [80, 96, 112, 128, 160, 192, 224]
KINDS = ["plain", "gradient", "stripes", "dots", "checks",
         "meadow", "beach", "snow", "night", "desert", "sea"]
STYLES = ["none", "watercolour", "pencil", "pixel"]
VARIANTS = 1 + len(palette.OBJECT_NAMES)  # native, then one a colour word

PHRASES = {
    "meadow": ["in a meadow", "on the grass", "on a green meadow", "in a field"],
    "beach": ["on the beach", "at the beach", "on a sandy beach"],
    "snow": ["in the snow", "in a snowy landscape", "in winter"],
    "night": ["at night", "under the stars", "in the night sky", "under a starry sky"],
    "desert": ["in the desert", "in a desert"],
    "sea": ["under water", "underwater", "in the sea", "in the ocean"],
}
STYLE_FORMS = {
    "watercolour": ["{}, watercolour", "{}, watercolor", "{} in watercolour",
                    "a watercolour painting of {}", "a watercolour of {}"],
    "pencil": ["{}, pencil drawing", "a pencil drawing of {}", "a pencil sketch of {}",
               "{}, pencil sketch", "a sketch of {}"],
    "pixel": ["{}, pixel art", "pixel art of {}", "a pixel art picture of {}"],
}
PREFIXES = ["a picture of {}", "an image of {}", "a drawing of {}", "an icon of {}",
            "an illustration of {}", "a cartoon of {}", "draw {}", "clip art of {}",
            "a simple picture of {}", "a cute picture of {}", "show me {}", "there is {}",
            "i want a picture of {}", "please draw {}", "a photo of {}"]
SUFFIXES = [", simple", ", icon", ", clip art", ", cute", ", high quality", ", detailed",
            ", flat design", ", illustration", ", best quality, very detailed",
            ", minimalist", ", cartoon style", ", for children"]
SIDE_BY_SIDE = [("{a} to the left of {b}", 5), ("{a} left of {b}", 3),
                ("{b} to the right of {a}", 5), ("{b} right of {a}", 3),
                ("{a} on the left and {b} on the right", 2),
                ("{a} and {b}", 4), ("{a} next to {b}", 3), ("{a} beside {b}", 1)]
STACKED = [("{a} above {b}", 5), ("{a} over {b}", 2), ("{a} on top of {b}", 2),
           ("{b} below {a}", 4), ("{b} under {a}", 3), ("{b} beneath {a}", 1),
           ("{a} at the top and {b} at the bottom", 1)]
CORNERS = {"in the top left corner": (0, 0), "in the top right corner": (2, 0),
           "in the bottom left corner": (0, 2), "in the bottom right corner": (2, 2),
           "on the left": (0, 1), "on the right": (2, 1),
           "at the top": (1, 0), "at the bottom": (1, 2), "in the middle": (1, 1)}
COUNTS = {2: ["two", "two", "2"], 3: ["three", "three", "3"], 4: ["four", "four", "4"]}
IRREGULAR = {"mouse": "mice", "wolf": "wolves", "knife": "knives", "foot": "feet",
             "tooth": "teeth", "die": "dice", "leaf": "leaves", "goose": "geese",
             "scarf": "scarves", "loaf": "loaves", "fish": "fish", "deer": "deer",
             "reindeer": "reindeer", "sheep": "sheep", "policeman": "policemen",
             "snowman": "snowmen", "cactus": "cacti", "spaceship": "spaceships",
             "dragonfly": "dragonflies", "squid": "squid", "man": "men"}


def held_out(key):
    return zlib.crc32(key.encode()) % 10 == 0


def plural(noun):
    head, of, rest = noun.partition(" of ")
    *first, last = head.split(" ")
    if last.endswith("fish"):
        pass
    elif last in IRREGULAR:
        last = IRREGULAR[last]
    elif last.endswith(("s", "x", "ch", "sh")) or last in ("tomato", "potato", "mango"):
        last += "es"
    elif last.endswith("y") and last[-2] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join(first + [last]) + of + rest


def article(words):
    silent = ("hourglass",)
    vowel = words[0].lower() in "aeio" or words.startswith(("um", "un", "ug")) or words in silent
    if words.startswith(("uni", "one", "eu")):
        vowel = False
    return ("an " if vowel or words.startswith("hourglass") else "a ") + words


class Scenes:
    """Draws scenes; `infos` is the list stored with the sprites."""

    def __init__(self, infos, seed, evaluation=False):
        self.infos = infos
        self.rng = random.Random(seed)
        self.evaluation = evaluation
        self.countable = [i for i, info in enumerate(infos) if info["countable"]]

    # -- words ---------------------------------------------------------------
    def word(self, colour):
        return self.rng.choice(palette.WORDS.get(colour, [colour]))

    def noun(self, concept):
        names = self.infos[concept]["names"]
        return names[0] if self.rng.random() < 0.6 else self.rng.choice(names)

    def thing(self, chance=0.3):
        """(concept, variant): a concept, with a colour now and then."""
        concept = self.rng.randrange(len(self.infos))
        variant = 0
        if self.infos[concept]["fills"] and self.rng.random() < chance:
            variant = 1 + self.rng.randrange(len(palette.OBJECT_NAMES))
        return concept, variant

    def phrase(self, thing, size="", bare=0.08):
        concept, variant = thing
        words = self.noun(concept)
        if variant:
            words = self.word(palette.OBJECT_NAMES[variant - 1]) + " " + words
        if size:
            words = size + " " + words
        if not self.infos[concept]["countable"] or self.rng.random() < bare:
            return words
        return article(words)

    def colour_of(self, thing):
        concept, variant = thing
        return palette.OBJECT_NAMES[variant - 1] if variant else self.infos[concept]["word"]

    # -- backgrounds ---------------------------------------------------------
    def background(self, things, plain_only=False):
        """(kind, a, b, phrase); an unmentioned background is white."""
        rng, names = self.rng, palette.BACKGROUND_NAMES
        busy = {self.colour_of(t) for t in things}
        free = [n for n in names if n not in busy]
        a = rng.choice(free)
        b = rng.choice([n for n in free if n != a])
        x = rng.random()
        if x < 0.30 and not self.evaluation:
            light = any(self.infos[c]["light"] and not v or v == 11 for c, v in things)
            return "plain", "light blue" if light else "white", "white", ""
        if plain_only or x < 0.72:
            form = rng.choice(["on a {} background"] * 4 + ["on {}", "against a {} background",
                              ", {} background", "with a {} background"])
            text = form.format(self.word(a))
            return "plain", a, a, text
        p, q = self.word(a), self.word(b)
        if x < 0.80:
            return "gradient", a, b, rng.choice(
                ["on a gradient from {} to {}", "on a {} to {} gradient",
                 "on a {} and {} gradient background"]).format(p, q)
        if x < 0.92:
            kind = rng.choice(["stripes", "dots", "checks"])
            form = {"stripes": ["on a {} and {} striped background", "with {} and {} stripes"],
                    "dots": ["on a {} background with {} dots", "on {} with {} polka dots"],
                    "checks": ["on a {} and {} checkered background",
                               "on a {} and {} chequered background"]}[kind]
            return kind, a, b, rng.choice(form).format(p, q)
        kind = rng.choice(list(PHRASES))
        return kind, "white", "white", rng.choice(PHRASES[kind])

    # -- compositions --------------------------------------------------------
    def place(self, size, x0, x1, y0, y1):
        """Size index and a corner on the 16-pixel grid, inside the given box."""
        def spot(low, high):
            first = -(-low // 16)
            return 16 * self.rng.randint(first, max((high - size) // 16, first))

        return SIZES.index(size), spot(x0, x1), spot(y0, y1)

    def single(self):
        thing, rng = self.thing(0.4), self.rng
        x, where, size = rng.random(), "", ""
        if x < 0.72 or self.evaluation:
            spot = self.place(rng.choice([160, 192]), 16, 240, 16, 240)
        elif x < 0.82:
            size = rng.choice(["small", "little", "tiny"])
            spot = self.place(rng.choice([80, 96]), 64, 208, 64, 208)
        elif x < 0.90:
            size = rng.choice(["big", "large", "huge"])
            spot = self.place(224, 16, 240, 16, 240)
        else:
            where = rng.choice(list(CORNERS))
            column, line = CORNERS[where]
            box = [(0, 128), (64, 192), (128, 256)]
            spot = self.place(rng.choice([96, 112]), *box[column], *box[line])
        text = self.phrase(thing, size)
        return [(thing, spot)], (text + " " + where).strip(), []

    def pair(self):
        a, b, rng = self.thing(0.25), self.thing(0.25), self.rng
        while b[0] == a[0]:
            b = self.thing(0.25)
        sizes = rng.choice([96, 112, 112]), rng.choice([96, 112, 112])
        stacked = rng.random() < 0.5
        forms = STACKED if stacked else SIDE_BY_SIDE
        form = rng.choices([f for f, _ in forms], [w for _, w in forms])[0]
        if stacked:
            spots = (self.place(sizes[0], 48, 208, 0, 128), self.place(sizes[1], 48, 208, 128, 256))
        else:
            spots = (self.place(sizes[0], 0, 128, 48, 208), self.place(sizes[1], 128, 256, 48, 208))
        text = form.format(a=self.phrase(a, bare=0.03), b=self.phrase(b, bare=0.03))
        keys = [f"{self.infos[a[0]]['icon']}|{self.infos[b[0]]['icon']}"]
        return [(a, spots[0]), (b, spots[1])], text, keys

    def several(self):
        rng = self.rng
        count = rng.randint(2, 4)
        concept = rng.choice(self.countable)
        variant = 0
        if self.infos[concept]["fills"] and rng.random() < 0.4:
            variant = 1 + rng.randrange(len(palette.OBJECT_NAMES))
        size = rng.choice([96, 112])
        if count == 3 and rng.random() < 0.5:
            size = 80
            y, x = 16 * rng.randint(3, 7), rng.choice([0, 16])
            spots = [(SIZES.index(size), x + 80 * i, y) for i in range(3)]
        else:
            cells = {2: [(0, 1), (2, 1)], 3: [(1, 0), (0, 2), (2, 2)],
                     4: [(0, 0), (2, 0), (0, 2), (2, 2)]}[count]
            margin = 16 if size == 96 else 0
            spots = [(SIZES.index(size), {0: margin, 1: 80, 2: 128}[x],
                      {0: margin, 1: 80, 2: 128}[y]) for x, y in cells]
        words = plural(self.noun(concept))
        if variant:
            words = self.word(palette.OBJECT_NAMES[variant - 1]) + " " + words
        text = rng.choice(COUNTS[count]) + " " + words
        key = f"{self.infos[concept]['icon']}|{count}"
        return [((concept, variant), spot) for spot in spots], text, [key]

    def row(self):
        things = [self.thing(0.2) for _ in range(3)]
        y = 16 * self.rng.randint(3, 7)
        spots = [(0, 80 * i + 16 * (i == 2 or self.rng.random() < 0.3), y) for i in range(3)]
        a, b, c = (self.phrase(t, bare=0.03) for t in things)
        form = self.rng.choice(["{}, {} and {}", "{}, {}, and {}"])
        return list(zip(things, spots)), form.format(a, b, c), []

    # -- whole scenes --------------------------------------------------------
    def finish(self, text, style):
        rng = self.rng
        if style != "none":
            text = rng.choice(STYLE_FORMS[style]).format(text)
        elif rng.random() < 0.12:
            text = rng.choice(PREFIXES).format(text)
        while rng.random() < 0.06:
            text += rng.choice(SUFFIXES)
        if rng.random() < 0.2:
            text = text[0].upper() + text[1:]
        if rng.random() < 0.12:
            text += "."
        return text

    def draw(self):
        """One scene as a dict: caption, layers, background, style, facts."""
        rng = self.rng
        while True:
            x = rng.random()
            if self.evaluation:
                kind = "single" if x < 0.40 else "pair" if x < 0.85 else "several"
            else:
                kind = ("single" if x < 0.46 else "pair" if x < 0.80 else
                        "several" if x < 0.97 else "row")
            placed, text, keys = getattr(self, kind)()
            things = [t for t, _ in placed]
            style = "none"
            if not self.evaluation and rng.random() < 0.10:
                style = rng.choice(["watercolour", "watercolour", "pencil", "pixel"])
            if style == "pencil":
                if any(v for _, v in things):
                    continue
                ground = ("plain", "white", "white", "")
            else:
                ground = self.background(things)
            if kind == "single" and ground[3] and ground[0] not in PHRASES:
                keys = keys + [f"{self.infos[things[0][0]]['icon']}|{ground[1]}"]
            if any(held_out(k) for k in keys) != self.evaluation:
                continue
            separator = "" if ground[3].startswith(",") else " "
            text = (text + separator + ground[3]).strip().replace(" a orange", " an orange")
            if not self.evaluation:
                text = self.finish(text, style)
            return {
                "caption": text, "kind": kind, "style": style,
                "background": ground[:3] + (bool(ground[3]),),
                "objects": [(c, v, *spot) for (c, v), spot in placed],
            }


def pack(scenes, seed):
    """Scenes as arrays: layers [n,4,4], grounds [n,4], styles [n]."""
    rng = np.random.default_rng(seed)
    n = len(scenes)
    layers = np.full((n, 4, 4), -1, np.int16)
    grounds = np.zeros((n, 4), np.int16)
    styles = np.zeros(n, np.int16)
    for row, scene in enumerate(scenes):
        for k, (concept, variant, size, x, y) in enumerate(scene["objects"]):
            layers[row, k] = concept * VARIANTS + variant, size, x, y
        kind, a, b, _ = scene["background"]
        names = palette.BACKGROUND_NAMES
        grounds[row, :3] = KINDS.index(kind), names.index(a), names.index(b)
        styles[row] = STYLES.index(scene["style"])
    grounds[:, 3] = rng.integers(0, 32767, n)
    return layers, grounds, styles


def many(infos, count, seed, evaluation=False, wordy=False):
    """`count` scenes; `wordy` lengthens the captions beyond 32 tokens."""
    source = Scenes(infos, seed, evaluation)
    out = [source.draw() for _ in range(count)]
    if wordy:
        for scene in out:
            extra = source.rng.choices(SUFFIXES, k=source.rng.randint(9, 13))
            scene["caption"] = scene["caption"].rstrip(".") + "".join(extra)
    return out
