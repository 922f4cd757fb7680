# SPDX-License-Identifier: Apache-2.0
"""The colour words of the captions and what they stand for.

One table serves objects and backgrounds, so a word means the same everywhere.
An object is recoloured by replacing the fills of its largest colour family;
shades inside the family keep their relation to the family's main fill.
"""
import colorsys

OBJECT_COLOURS = {
    "red": (0xE8, 0x2B, 0x2F),
    "orange": (0xFF, 0x8A, 0x1F),
    "yellow": (0xFC, 0xD5, 0x3F),
    "green": (0x1F, 0xA6, 0x4A),
    "blue": (0x1E, 0x6F, 0xE0),
    "light blue": (0x7C, 0xC8, 0xF8),
    "purple": (0x86, 0x4F, 0xC8),
    "pink": (0xFF, 0x85, 0xB8),
    "brown": (0x86, 0x50, 0x32),
    "black": (0x25, 0x25, 0x2B),
    "white": (0xFA, 0xFA, 0xFA),
    "grey": (0x95, 0x95, 0x98),
}
BACKGROUND_COLOURS = dict(
    OBJECT_COLOURS,
    **{
        "turquoise": (0x22, 0xB8, 0xB0),
        "beige": (0xF2, 0xE3, 0xC4),
        "dark blue": (0x14, 0x2A, 0x6B),
    },
)
WORDS = {  # other spellings of a colour word
    "grey": ["grey", "gray"],
    "purple": ["purple", "purple", "violet"],
    "light blue": ["light blue", "light blue", "sky blue"],
    "turquoise": ["turquoise", "teal"],
    "beige": ["beige", "cream"],
    "dark blue": ["dark blue", "navy blue", "navy"],
}
OBJECT_NAMES = list(OBJECT_COLOURS)
BACKGROUND_NAMES = list(BACKGROUND_COLOURS)


def rgb_of_hex(text):
    text = text.lstrip("#")
    if len(text) == 3:
        text = "".join(2 * c for c in text)
    return tuple(int(text[i : i + 2], 16) for i in (0, 2, 4))


def family_of(rgb):
    """Hue family of a fill: one of twelve hue bins, or light, grey, dark."""
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in rgb))
    if v < 0.28:
        return "dark"
    if s < 0.16:
        return "light" if v > 0.8 else "grey"
    return int(h * 360 / 40 + 0.5) % 9


def shade(rgb, main, target):
    """What a fill becomes when the family's main fill becomes `target`."""
    _, s0, v0 = colorsys.rgb_to_hsv(*(c / 255 for c in main))
    _, s1, v1 = colorsys.rgb_to_hsv(*(c / 255 for c in rgb))
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in target))
    dv = (v1 - v0) * 0.9
    ds = (s1 - s0) * 0.6 if s > 0.1 and s0 > 0.1 else 0.0
    if v + dv > 1.0:  # no room above: lighten by taking saturation away
        ds -= v + dv - 1.0
    if v > 0.95 and s < 0.05 and dv > 0:
        dv = -dv  # white has no lighter shade
    v, s = min(max(v + dv, 0.06), 1.0), min(max(s + ds, 0.0), 1.0)
    return tuple(int(round(c * 255)) for c in colorsys.hsv_to_rgb(h, s, v))


def nearest_word(rgb, table=BACKGROUND_COLOURS):
    """The word whose colour lies nearest, by a weighted RGB distance."""
    def distance(name):
        weights = (0.30, 0.45, 0.25)
        return sum(w * (a - b) ** 2 for w, a, b in zip(weights, rgb, table[name]))

    return min(table, key=distance)
