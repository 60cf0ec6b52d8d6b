"""The judge of the starter models against pure renders, where the truth is known."""

from collections import Counter

import numpy as np
import pytest

from starter import shapes
from starter.judge import NOTHING, Verdict, judge
from starter.palettes import PALETTES, STYLES, Palette, Style

KINDS = [(palette, style) for palette in PALETTES for style in STYLES]


def truth(scene: shapes.Scene) -> Verdict:
    return Verdict(
        background=scene.what.background,
        palette=scene.palette,
        colour=scene.what.colour,
        shape=scene.what.shape,
        style=scene.style,
    )


@pytest.mark.parametrize(("palette", "style"), KINDS)
def test_judge_reads_renders(palette: Palette, style: Style) -> None:
    rng = np.random.default_rng(20)
    everything = [what for what, _ in shapes.combinations()]
    scenes = [
        shapes.draw_scene(everything[row], rng, palette=palette, style=style)
        for row in rng.choice(len(everything), 16, replace=False)
    ]

    right = sum(judge(shapes.render(scene)) == truth(scene) for scene in scenes)

    assert right >= 15


def test_judge_reads_noisy_renders() -> None:
    rng = np.random.default_rng(21)
    scenes = [shapes.draw_scene(what, rng) for what in shapes.held_out_combinations()[::3]]
    noisy = [np.clip(shapes.render(scene) + rng.normal(0, 5, (64, 64, 3)), 0, 255) for scene in scenes]

    right = sum(judge(image) == truth(scene) for image, scene in zip(noisy, scenes, strict=True))

    assert right >= 0.9 * len(scenes)


def test_empty_ground_has_a_background_only() -> None:
    assert judge(np.full((64, 64, 3), 248)) == Verdict(
        background="white", palette="day", colour=None, shape=None, style=None
    )


def test_unknown_ground_is_nothing() -> None:
    assert judge(np.full((64, 64, 3), (0, 255, 0))) == NOTHING


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="64"):
        judge(np.zeros((32, 32, 3)))


def test_held_out_prompts_are_unseen_and_repeatable() -> None:
    prompts = shapes.held_out_prompts()
    counts = Counter(prompt.what for prompt in prompts)

    assert prompts == shapes.held_out_prompts()
    assert len(prompts) == 100
    assert set(counts) == set(shapes.held_out_combinations())
    assert max(counts.values()) <= 3
    assert not set(shapes.training_combinations()) & set(counts)
