"""Batches of rendered pictures as tensors. Pure apart from the generator passed in."""

from collections.abc import Sequence

import numpy as np
import torch

from starter import shapes
from starter.palettes import Palette, Style

Mixture = tuple[tuple[Palette, Style, float], ...]
VAE_MIXTURE: Mixture = (
    ("day", "fill", 0.40),
    ("dusk", "fill", 0.26),
    ("day", "outline", 0.12),
    ("day", "stripes", 0.14),
    ("dusk", "outline", 0.04),
    ("dusk", "stripes", 0.04),
)  # shares of the pictures that the autoencoder learns from
SHARPENING_MIXTURE: Mixture = (
    ("day", "fill", 0.24),
    ("dusk", "fill", 0.16),
    ("day", "outline", 0.28),
    ("day", "stripes", 0.16),
    ("dusk", "outline", 0.08),
    ("dusk", "stripes", 0.08),
)  # and those that its decoder is sharpened on


def draw(count: int, mixture: Mixture, rng: np.random.Generator) -> list[shapes.Scene]:
    """Scenes of the training combinations only."""
    pool = shapes.training_combinations()
    kinds = rng.choice(len(mixture), size=count, p=[share for _, _, share in mixture])
    scenes = []
    for kind in kinds:
        palette, style, _ = mixture[kind]
        what = pool[int(rng.integers(len(pool)))]
        scenes.append(shapes.draw_scene(what, rng, palette=palette, style=style))
    return scenes


def to_bytes(scenes: Sequence[shapes.Scene]) -> torch.Tensor:
    """uint8 [count, 3, 64, 64]."""
    pixels = np.stack([shapes.render(scene) for scene in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def to_unit(pixels: torch.Tensor) -> torch.Tensor:
    """float32 in -1..1, as the autoencoder sees them."""
    return pixels.float() / 127.5 - 1.0
