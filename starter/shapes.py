"""What a starter picture is: a scene, its prompt and its pixels. Pure; numpy only.

A scene is one shape in one colour on one plain background. Its prompt is drawn from a small
grammar, its pixels from signed distances, so edges are antialiased exactly. Every fifth
combination of colour, shape and background is held out: training never sees it.
Randomness comes in as a generator.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from starter.palettes import (
    BACKGROUNDS,
    COLOURS,
    FOREGROUNDS,
    GROUNDS,
    SHAPES,
    Palette,
    Style,
    tint,
)

Size: TypeAlias = Literal["any", "small", "big"]
Plane: TypeAlias = NDArray[np.float32]
Picture: TypeAlias = NDArray[np.uint8]

SIDE: Final = 64  # pixels
LINE: Final = 4.0  # pixels, width of an outline; a quarter of it lies outside the shape
PERIOD: Final = 8.0  # pixels, one pair of stripes
JITTER: Final = 5.0  # pixels, how far a centre may lie from the middle
STEADY: Final = (2.5, 22.0)  # pixels: largest offset and, of shapes of any size, largest radius
STEADY_LEAST: Final = 17.0  # pixels, smallest radius of shapes of any size
RADII: Final[dict[Size, tuple[float, float]]] = {
    "any": (15.0, 24.0),
    "small": (13.0, 16.0),
    "big": (22.0, 26.0),
}  # pixels
TEMPLATES: Final = (
    "a {subject} on {ground}",
    "a {subject} on a {ground} background",
    "{subject} on {ground}",
    "{subject} on a {ground} background",
    "{subject}, {ground} background",
)


@dataclass(frozen=True, kw_only=True)
class Combination:
    colour: str
    shape: str
    background: str


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One picture, described completely; `cx`, `cy` and `radius` are in pixels."""

    what: Combination
    size: Size = "any"
    cx: float = SIDE / 2
    cy: float = SIDE / 2
    radius: float = 19.0
    palette: Palette = "day"
    style: Style = "fill"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    text: str
    what: Combination
    size: Size


def combinations() -> Iterator[tuple[Combination, bool]]:
    """All combinations; the flag says whether it is held out (one background per colour and shape)."""
    for i, colour in enumerate(COLOURS):
        for j, shape in enumerate(SHAPES):
            for k, ground in enumerate(GROUNDS):
                held_out = (i + j + k) % len(GROUNDS) == 0
                yield Combination(colour=colour, shape=shape, background=ground), held_out


def training_combinations() -> tuple[Combination, ...]:
    return tuple(what for what, held_out in combinations() if not held_out)


def held_out_combinations() -> tuple[Combination, ...]:
    return tuple(what for what, held_out in combinations() if held_out)


def describe(what: Combination, size: Size, rng: np.random.Generator) -> str:
    words = () if size == "any" else (size,)
    subject = " ".join((*words, what.colour, what.shape))
    return str(rng.choice(TEMPLATES)).format(subject=subject, ground=what.background)


def held_out_prompts(count: int = 100, seed: int = 7) -> tuple[Prompt, ...]:
    """The same prompts for the same seed; every held-out combination comes about equally often."""
    rng = np.random.default_rng(seed)
    pool = held_out_combinations()
    rounds = -(-count // len(pool))
    order = np.concatenate([rng.permutation(len(pool)) for _ in range(rounds)])[:count]
    prompts = []
    for index in order:
        size = draw_size(rng)
        text = describe(pool[index], size, rng)
        prompts.append(Prompt(text=text, what=pool[index], size=size))
    return tuple(prompts)


def draw_size(rng: np.random.Generator) -> Size:
    sizes: tuple[Size, ...] = ("any", "any", "small", "big")
    return sizes[int(rng.integers(len(sizes)))]


def draw_scene(
    what: Combination,
    rng: np.random.Generator,
    *,
    palette: Palette = "day",
    style: Style = "fill",
) -> Scene:
    size = draw_size(rng)
    low, high = RADII[size]
    cx, cy = rng.uniform(-JITTER, JITTER, 2) + SIDE / 2
    radius = rng.uniform(low, high)
    return Scene(
        what=what,
        size=size,
        cx=float(cx),
        cy=float(cy),
        radius=float(radius),
        palette=palette,
        style=style,
    )


def is_steady(scene: Scene) -> bool:
    """Whether the shape lies near the middle and is neither small nor big without being called so."""
    offset, most = STEADY
    near = max(abs(scene.cx - SIDE / 2), abs(scene.cy - SIDE / 2)) <= offset
    return near and (scene.size != "any" or STEADY_LEAST <= scene.radius <= most)


def _regular(turns: NDArray[np.float64], radii: NDArray[np.float64], *, drop: float) -> NDArray[np.float64]:
    angles = 2 * np.pi * turns - np.pi / 2
    return np.stack([radii * np.cos(angles), radii * np.sin(angles) + drop], axis=1)


def _heart(count: int = 28) -> NDArray[np.float64]:
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y + 2.5], axis=1) / 16.0


def _cross(arm: float = 0.34) -> NDArray[np.float64]:
    a, b = arm, 1.0
    corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
    return np.array([*corners, *((-x, -y) for x, y in corners)])


_POINTS: Final = np.arange(10) / 10
POLYGONS: Final[dict[str, NDArray[np.float64]]] = {
    "square": np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.85,
    "triangle": _regular(np.arange(3) / 3, np.full(3, 1.15), drop=0.2),
    "star": _regular(_POINTS, np.where(np.arange(10) % 2, 0.46, 1.12), drop=0.05),
    "cross": _cross(),
    "heart": _heart(),
}  # corners for radius 1 around the origin, y down


def distance(shape: str, cx: float, cy: float, radius: float) -> Plane:
    """Signed distance in pixels from each pixel's centre to the shape's edge; negative inside."""
    points = _centred(cx, cy)
    if shape == "circle":
        round_off: Plane = np.hypot(points[..., 0], points[..., 1]) - np.float32(radius)
        return round_off
    corners = (POLYGONS[shape] * radius).astype(np.float32)
    sign = np.where(_inside(corners, points), -1.0, 1.0).astype(np.float32)
    signed: Plane = sign * _edge_distance(corners, points)
    return signed


def inside(shape: str, cx: float, cy: float, radius: float) -> NDArray[np.bool_]:
    """Which pixels' centres lie inside the shape."""
    points = _centred(cx, cy)
    if shape == "circle":
        within: NDArray[np.bool_] = np.hypot(points[..., 0], points[..., 1]) <= radius
        return within
    return _inside((POLYGONS[shape] * radius).astype(np.float32), points)


def _centred(cx: float, cy: float) -> Plane:
    axis = np.arange(SIDE) + 0.5
    x, y = np.meshgrid(axis - cx, axis - cy)
    return np.stack([x, y], axis=-1).astype(np.float32)


def _edge_distance(corners: Plane, points: Plane) -> Plane:
    start = corners[:, None, None, :]
    edge = np.roll(corners, -1, axis=0)[:, None, None, :] - start
    offset = points[None] - start
    along = np.clip((offset * edge).sum(-1) / (edge**2).sum(-1), 0, 1)
    nearest: Plane = np.sqrt(((offset - edge * along[..., None]) ** 2).sum(-1).min(0))
    return nearest


def _inside(corners: Plane, points: Plane) -> NDArray[np.bool_]:
    """Even-odd rule: count the edges to the right of each point."""
    odd = np.zeros(points.shape[:2], bool)
    x, y = points[..., 0], points[..., 1]
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if ay != by:
            odd ^= ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return odd


def _coverage(signed: Plane) -> Plane:
    covered: Plane = np.clip(0.5 - signed, 0.0, 1.0)
    return covered


def render(scene: Scene) -> Picture:
    """The scene's pixels, 64 by 64 by 3 bytes."""
    signed = distance(scene.what.shape, scene.cx, scene.cy, scene.radius)
    ground = np.array(BACKGROUNDS[scene.palette][scene.what.background], np.float32)
    ink = np.array(FOREGROUNDS[scene.palette][scene.what.colour], np.float32)
    paint = np.broadcast_to(ink, (SIDE, SIDE, 3))
    if scene.style == "outline":
        signed = np.abs(signed + LINE / 4) - LINE / 2
    if scene.style == "stripes":
        pale = np.array(tint(FOREGROUNDS[scene.palette][scene.what.colour]), np.float32)
        paint = ink + (pale - ink) * _stripes()[..., None]
    cover = _coverage(signed)[..., None]
    mixed = ground + (paint - ground) * cover
    pixels: Picture = np.rint(mixed).astype(np.uint8)
    return pixels


def _stripes() -> Plane:
    """How much of each pixel is the pale tone: diagonal bands fixed to the picture."""
    row, column = np.indices((SIDE, SIDE), dtype=np.float32)
    phase = np.mod((row + column) / np.sqrt(2.0), PERIOD)
    pale: Plane = np.clip(np.abs(phase - PERIOD / 2) - PERIOD / 4 + 0.5, 0.0, 1.0)
    return pale
