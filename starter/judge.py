"""Tell from the pixels alone what a picture shows: background, palette, colour, shape, style.

Geometry and colour, no learned parts and no generator. The border gives the background, and it
names the palette; the pixels that differ from it give the silhouette, which is compared with
each shape of the same extent; the paint inside gives colour and style. Pure; numpy only.
"""

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from starter import masks, shapes
from starter.masks import Mask
from starter.palettes import (
    BACKGROUNDS,
    FOREGROUNDS,
    PALETTES,
    SHAPES,
    Palette,
    Rgb,
    Style,
    tint,
)

Floats = NDArray[np.float64]

BORDER: Final = 3  # pixels, too near the edge for any shape's bulk
FOREIGN: Final = 30.0  # distance in RGB from the background at which a pixel counts as painted
GROUND_LIMIT: Final = 40.0  # distance in RGB within which a background is recognised
SMALLEST: Final = 30  # pixels of paint below which there is no shape
MATCH: Final = 0.60  # overlap with the best ideal silhouette below which no shape is named; renders reach 0.9
GAP: Final = 2  # pixels; a line that is broken by up to twice this still encloses its shape
HOLLOW: Final = 0.55  # share of bare pixels deep inside from which a shape counts as an outline
STRIPED: Final = 0.18  # share of both tones inside from which a shape counts as striped


class HasPixels(Protocol):
    def __array__(self) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a picture shows; None where the judge recognises nothing."""

    background: str | None
    palette: Palette | None
    colour: str | None
    shape: str | None
    style: Style | None


NOTHING: Final = Verdict(background=None, palette=None, colour=None, shape=None, style=None)


def judge(image: ArrayLike | HasPixels) -> Verdict:
    """Judge a 64 by 64 RGB picture: a PIL image or an array of bytes."""
    pixels = np.asarray(image, dtype=np.float64)
    if pixels.shape != (shapes.SIDE, shapes.SIDE, 3):
        raise ValueError(f"a picture of 64 by 64 RGB pixels is needed, not {pixels.shape}")
    found = _ground(pixels)
    if found is None:
        return NOTHING
    palette, background = found
    ground = _border_tone(pixels)
    painted = np.linalg.norm(pixels - ground, axis=-1) > FOREIGN
    silhouette = masks.largest(masks.joined(painted, GAP))
    painted &= silhouette
    if painted.sum() < SMALLEST:
        return Verdict(background=background, palette=palette, colour=None, shape=None, style=None)
    style, colour = _paint(pixels, painted, silhouette, ground, palette)
    return Verdict(
        background=background,
        palette=palette,
        colour=colour,
        shape=_shape(silhouette),
        style=style,
    )


def _border_tone(pixels: Floats) -> Floats:
    frame = np.ones(pixels.shape[:2], bool)
    frame[BORDER:-BORDER, BORDER:-BORDER] = False
    tone: Floats = np.median(pixels[frame], axis=0)
    return tone


def _ground(pixels: Floats) -> tuple[Palette, str] | None:
    tone = _border_tone(pixels)
    ranked = sorted(
        (float(np.linalg.norm(tone - np.array(value))), palette, name)
        for palette in PALETTES
        for name, value in BACKGROUNDS[palette].items()
    )
    distance, palette, name = ranked[0]
    return (palette, name) if distance <= GROUND_LIMIT else None


def _shape(silhouette: Mask) -> str | None:
    """The shape whose ideal silhouette of the same extent overlaps most."""
    rows, columns = np.nonzero(silhouette)
    top, bottom = float(rows.min()), float(rows.max() + 1)
    left, right = float(columns.min()), float(columns.max() + 1)
    overlaps = {}
    for shape in SHAPES:
        ideal = _ideal(shape, top, bottom, left, right)
        overlaps[shape] = (ideal & silhouette).sum() / (ideal | silhouette).sum()
    best = max(overlaps, key=lambda shape: float(overlaps[shape]))
    return best if overlaps[best] >= MATCH else None


def _ideal(shape: str, top: float, bottom: float, left: float, right: float) -> Mask:
    """The shape fitted into a box: same centre, mean of the radii that width and height ask for."""
    west, east, north, south = _extent(shape)
    radius = ((right - left) / (east - west) + (bottom - top) / (south - north)) / 2
    cx = (left + right) / 2 - radius * (west + east) / 2
    cy = (top + bottom) / 2 - radius * (north + south) / 2
    return shapes.inside(shape, cx, cy, radius)


def _extent(shape: str) -> tuple[float, float, float, float]:
    if shape == "circle":
        return -1.0, 1.0, -1.0, 1.0
    corners = shapes.POLYGONS[shape]
    west, north = corners.min(axis=0)
    east, south = corners.max(axis=0)
    return float(west), float(east), float(north), float(south)


def _paint(
    pixels: Floats, painted: Mask, silhouette: Mask, ground: Floats, palette: Palette
) -> tuple[Style, str]:
    depth = masks.depth(silhouette)
    core = depth > max(1.0, min(5.5, 0.6 * int(depth.max())))
    if _bare(pixels, core, painted, ground) > HOLLOW:
        return "outline", _line_colour(pixels, painted, ground, palette)
    inside = pixels[depth > 1.5]
    shares = {name: _tones(inside, value) for name, value in FOREGROUNDS[palette].items()}
    colour = min(shares, key=lambda name: shares[name].error)
    striped = min(shares[colour].plain, shares[colour].pale) >= STRIPED
    return ("stripes" if striped else "fill"), colour


def _bare(pixels: Floats, core: Mask, painted: Mask, ground: Floats) -> float:
    """Share of the core that is nearer to the ground than to the strongest paint."""
    strength = np.linalg.norm(pixels - ground, axis=-1)
    strongest = np.quantile(strength[painted], 0.9)
    return float((strength[core] < strongest / 2).mean())


def _line_colour(pixels: Floats, painted: Mask, ground: Floats, palette: Palette) -> str:
    """The colour that the line heads for: its strongest pixels, least mixed with the ground."""
    line = pixels[painted]
    strength = np.linalg.norm(line - ground, axis=-1)
    strongest = line[strength >= np.quantile(strength, 0.6)]
    tone = np.median(strongest, axis=0)
    table = FOREGROUNDS[palette]
    return min(table, key=lambda name: _off_line(tone, ground, table[name]))


def _off_line(tone: Floats, ground: Floats, colour: Rgb) -> float:
    """Distance from `tone` to the last two fifths of the way from the ground to the colour."""
    way = np.array(colour) - ground
    along = float(np.clip(((tone - ground) @ way) / (way @ way), 0.6, 1.0))
    return float(np.linalg.norm(tone - ground - along * way))


@dataclass(frozen=True, kw_only=True)
class _Tones:
    """How well a colour and its tint explain some pixels, and how many are of each tone."""

    error: float
    plain: float
    pale: float


def _tones(pixels: Floats, colour: Rgb) -> _Tones:
    plain, pale = np.array(colour, float), np.array(tint(colour), float)
    way = pale - plain
    along = np.clip((pixels - plain) @ way / (way @ way), 0.0, 1.0)
    nearest = plain + along[:, None] * way
    errors = np.linalg.norm(pixels - nearest, axis=-1)
    # A tint of one colour may lie near another colour: tones in the middle count as mistakes.
    unsure = float(np.linalg.norm(way)) * np.minimum(along, 1 - along)
    return _Tones(
        error=float(np.median(errors) + errors.mean() + 0.5 * unsure.mean()),
        plain=float((along < 0.3).mean()),
        pale=float((along > 0.7).mean()),
    )
