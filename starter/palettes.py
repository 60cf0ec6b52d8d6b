"""Colours and backgrounds by name and palette (sRGB bytes). Pure data; imports nothing heavy.

Every named colour has one day and one clearly different dusk value, and so has every
background, so that the palette of a picture can be read from its pixels alone.
"""

from typing import Literal, TypeAlias

Rgb: TypeAlias = tuple[int, int, int]
Palette: TypeAlias = Literal["day", "dusk"]
Style: TypeAlias = Literal["fill", "outline", "stripes"]
Table: TypeAlias = dict[str, Rgb]

PALETTES: tuple[Palette, ...] = ("day", "dusk")
STYLES: tuple[Style, ...] = ("fill", "outline", "stripes")
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")

FOREGROUNDS: dict[Palette, Table] = {
    "day": {
        "red": (222, 32, 38),
        "orange": (245, 130, 20),
        "yellow": (250, 215, 40),
        "green": (48, 180, 60),
        "cyan": (40, 200, 220),
        "blue": (35, 75, 215),
        "purple": (130, 45, 165),
        "pink": (250, 125, 185),
    },
    "dusk": {
        "red": (156, 22, 60),
        "orange": (176, 84, 34),
        "yellow": (168, 150, 60),
        "green": (24, 118, 84),
        "cyan": (64, 150, 176),
        "blue": (66, 84, 150),
        "purple": (84, 24, 104),
        "pink": (190, 92, 142),
    },
}
BACKGROUNDS: dict[Palette, Table] = {
    "day": {
        "white": (248, 248, 248),
        "black": (10, 10, 12),
        "gray": (128, 128, 128),
        "navy": (16, 28, 110),
        "beige": (214, 196, 146),
    },
    "dusk": {
        "white": (140, 140, 190),
        "black": (60, 12, 50),
        "gray": (52, 58, 70),
        "navy": (0, 54, 58),
        "beige": (118, 84, 84),
    },
}
TINT = 0.55  # the second tone of the `stripes` style lies this far from the colour towards white


COLOURS = tuple(FOREGROUNDS["day"])
GROUNDS = tuple(BACKGROUNDS["day"])


def tint(colour: Rgb) -> Rgb:
    red, green, blue = (round(part + (255 - part) * TINT) for part in colour)
    return red, green, blue
