"""Small pictures of a run under way, by a linear map from latents to colours that earlier runs taught.

Every family packs and scales its latents in its own way, and none shall need code here. What all have in common: in
the end there are latents, as the scheduler left them, and the picture that was made of them. So the end of a run is a
lesson, and a preview costs one small multiplication. Decisions are pure; `Sketches` keeps what was learned on disk. It
refuses to decode anything, and to let a run fail for a preview's sake.
"""

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from loaders import whole
from registry.catalog import Digest

Array = np.ndarray[Any, Any]
Grid = tuple[int, int, int]  # frames, rows, columns of the latents

QUALITY = 80  # of WebP
PATCH = 2  # pixels a side that a token of a sequence says; those that come as a grid say one
STIFFNESS = 1e-3  # of the fit, relative to the features' spread: few cells shall not make wild colours
LEAST_CELLS = 4
MOST_GRIDS = 64
MOST_LESSONS = 16  # then a new one takes the place of as much of the old ones
FRAMES_PER_LATENT = (8, 4, 6, 2, 1)  # how autoencoders of clips shrink time


class Sketch(msgspec.Struct, frozen=True, kw_only=True):
    """What an architecture's runs have taught: the moments of its latents and of the colours that became of them."""

    features: int
    patch: int
    lessons: int = 1
    means: list[float]  # of the features
    colours: list[float]  # of a cell, on average
    spread: list[list[float]]  # features x features, of their products
    pairing: list[list[float]]  # features x colours, likewise
    grids: dict[int, Grid] = {}  # how so many tokens were laid out when it was learned


class Fit(msgspec.Struct, frozen=True):
    """The map from latents to colours that a sketch amounts to."""

    patch: int
    weights: Array  # features x colours
    offset: Array


class Size(msgspec.Struct, frozen=True):
    """Of a result, in frames and pixels."""

    frames: int
    height: int
    width: int


def grid(tokens: int, size: Size) -> Grid | None:
    """How a sequence of tokens covers a result: as many frames as some autoencoder makes, cells as square as can be."""
    for step in FRAMES_PER_LATENT if size.frames > 1 else (1,):
        frames = (size.frames - 1) // step + 1
        if tokens % frames:
            continue
        rows = round((tokens // frames * size.height / size.width) ** 0.5)
        if rows and tokens % (frames * rows) == 0:
            columns = tokens // (frames * rows)
            if abs(rows * size.width - columns * size.height) < size.width + size.height:
                return frames, rows, columns
    return None


def cells(latents: Array, layout: Grid | None, channels: int | None) -> Array | None:
    """Features of the first frame of the first result, (rows, columns, features). None where it is no picture.

    `layout` is of sequences; `channels` tells the axis of clips whose frames come first.
    """
    first: Array | None = None
    if latents.ndim == 3 and layout is not None:
        frames, rows, columns = layout
        if latents.shape[1] == frames * rows * columns:
            first = latents[0, : rows * columns].reshape(rows, columns, -1)
    elif latents.ndim == 4:
        first = np.moveaxis(latents[0], 0, -1)
    elif latents.ndim == 5:
        frames_first = channels == latents.shape[2] != latents.shape[1]
        first = np.moveaxis(latents[0, 0] if frames_first else latents[0, :, 0], 0, -1)
    return first


def learn(found: Array, picture: Array, patch: int) -> Sketch | None:
    """One lesson. `found`: (rows, columns, features); `picture`: (height, width, 3), 0 to 1."""
    rows, columns, features = found.shape
    if rows * columns < LEAST_CELLS or not np.isfinite(found).all():
        return None
    known = found.reshape(-1, features).astype(np.float64)
    wanted = _patches(_shrunk(picture, rows * patch, columns * patch), patch).astype(np.float64)
    return Sketch(
        features=features,
        patch=patch,
        means=known.mean(axis=0).tolist(),
        colours=wanted.mean(axis=0).tolist(),
        spread=(known.T @ known / len(known)).tolist(),
        pairing=(known.T @ wanted / len(known)).tolist(),
    )


def joined(before: Sketch | None, lesson: Sketch) -> Sketch:
    """One picture has few colours; each lesson counts as much as another, until there are many."""
    if before is None or (before.features, before.patch) != (lesson.features, lesson.patch):
        return lesson
    share = 1 / (min(before.lessons, MOST_LESSONS - 1) + 1)

    def mean(name: str) -> Any:
        old, new = np.array(getattr(before, name)), np.array(getattr(lesson, name))
        return (old + share * (new - old)).tolist()

    moments = {name: mean(name) for name in ("means", "colours", "spread", "pairing")}
    grids = dict(list({**before.grids, **lesson.grids}.items())[-MOST_GRIDS:])
    return msgspec.structs.replace(lesson, lessons=before.lessons + 1, grids=grids, **moments)


def fit(sketch: Sketch) -> Fit:
    """By least squares."""
    means, colours = np.array(sketch.means), np.array(sketch.colours)
    spread = np.array(sketch.spread) - np.outer(means, means)
    pairing = np.array(sketch.pairing) - np.outer(means, colours)
    stiffness = STIFFNESS * max(float(np.trace(spread)) / sketch.features, 1e-12)
    weights = np.linalg.solve(spread + stiffness * np.eye(sketch.features), pairing)
    return Fit(sketch.patch, weights, colours - means @ weights)


def laid_out(sketch: Sketch, tokens: int, layout: Grid | None) -> Sketch:
    """With how so many tokens were laid out; the next run may not say its size."""
    return sketch if layout is None else msgspec.structs.replace(sketch, grids={tokens: layout})


def draw(fitted: Fit, found: Array) -> bytes | None:
    """WebP. None for latents of another kind than those learned from."""
    from PIL import Image

    rows, columns, features = found.shape
    if features != fitted.weights.shape[0]:
        return None
    coloured = found.astype(np.float64) @ fitted.weights + fitted.offset
    patch = fitted.patch
    whole = coloured.reshape(rows, columns, patch, patch, 3).transpose(0, 2, 1, 3, 4)
    pixels = (np.nan_to_num(whole).reshape(rows * patch, columns * patch, 3) * 255).clip(0, 255)
    out = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(out, "WEBP", quality=QUALITY)
    return out.getvalue()


def first_picture(result: Any) -> tuple[Array, int] | None:
    """(height, width, 3) from 0 to 1 of a pipeline's first result, and its frames. None for sounds."""
    images, clips = getattr(result, "images", None), getattr(result, "frames", None)
    if images is not None and len(images):
        return _rgb(images[0]), 1
    if clips is not None and len(clips):
        return _rgb(clips[0][0]), len(clips[0])
    return None


class Sketches:
    """What each architecture's runs have taught, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Digest, Sketch | None] = {}
        self._fits: dict[Digest, Fit] = {}

    def get(self, whose: Digest) -> Sketch | None:
        if whose not in self._known:
            self._known[whose] = self._read(whose)
        return self._known[whose]

    def fit(self, whose: Digest) -> Fit | None:
        sketch = self.get(whose)
        if sketch is not None and whose not in self._fits:
            self._fits[whose] = fit(sketch)
        return self._fits.get(whose)

    def put(self, whose: Digest, lesson: Sketch) -> None:
        self._known[whose] = sketch = joined(self.get(whose), lesson)
        self._fits.pop(whose, None)
        self._folder.mkdir(parents=True, exist_ok=True)
        whole.write(self._path(whose), msgspec.json.encode(sketch))

    def _read(self, whose: Digest) -> Sketch | None:
        try:
            return msgspec.json.decode(self._path(whose).read_bytes(), type=Sketch)
        except (OSError, msgspec.MsgspecError):  # none yet, or of another release: learned anew
            return None

    def _path(self, whose: Digest) -> Path:
        return self._folder / f"{whose.removeprefix('sha256:')}.json"


def _rgb(picture: Any) -> Array:
    pixels = np.asarray(picture)
    shares = pixels / 255 if pixels.dtype == np.uint8 else np.nan_to_num(pixels)
    return np.repeat(shares[..., None], 3, axis=2) if shares.ndim == 2 else shares[..., :3]


def _shrunk(picture: Array, height: int, width: int) -> Array:
    """By the means of what each new pixel covers."""
    from PIL import Image

    whole = Image.fromarray((picture * 255).clip(0, 255).round().astype(np.uint8))
    return np.asarray(whole.resize((width, height), Image.Resampling.BOX)) / 255


def _patches(picture: Array, patch: int) -> Array:
    """(cells, colours of a cell)."""
    rows, columns = picture.shape[0] // patch, picture.shape[1] // patch
    cut = picture.reshape(rows, patch, columns, patch, 3).transpose(0, 2, 1, 3, 4)
    return cut.reshape(rows * columns, patch * patch * 3)
