"""Measure the starter models: `python -m starter.evaluate [--dir DIR] [--only NAME ...]`.

Each model draws the 100 held-out prompts, twenty steps each, one seed per prompt; the judge reads
the pictures. Figures go to `figures.json` and into the model card, pictures onto contact sheets.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline

from starter import card, parts, shapes, sheets
from starter.judge import Verdict, judge
from starter.palettes import PALETTES, STYLES, Palette, Style

STEPS = 20
GUIDANCE = 4.0
BATCH = 20


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model or a model with an adapter, and what its pictures ought to look like."""

    name: str
    model: str
    lora: str | None = None
    palette: Palette = "day"
    style: Style = "fill"
    zero_tokens: int = 16  # the pipeline's `max_sequence_length`


SUBJECTS = (
    Subject(name="shapes", model="shapes"),
    Subject(name="shapes-256", model="shapes", zero_tokens=256),
    Subject(name="dusk", model="shapes-dusk", palette="dusk"),
    Subject(name="outline", model="shapes", lora="shapes-outline", style="outline"),
    Subject(name="stripes", model="shapes", lora="shapes-stripes", style="stripes"),
    Subject(
        name="dusk-outline",
        model="shapes-dusk",
        lora="shapes-outline",
        palette="dusk",
        style="outline",
    ),
    Subject(
        name="dusk-stripes",
        model="shapes-dusk",
        lora="shapes-stripes",
        palette="dusk",
        style="stripes",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Percent of the pictures in which the judge found each thing right."""

    pictures: int
    background: float
    colour: float
    shape: float
    palette: float
    style: float


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the starter models.")
    parser.add_argument("--dir", type=Path, default=Path(__file__).parent)
    parser.add_argument("--only", nargs="*", choices=[s.name for s in SUBJECTS])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    path = chosen.dir / "figures.json"
    figures = json.loads(path.read_text("utf-8")) if path.exists() else {}
    prompts = shapes.held_out_prompts(chosen.count)
    for subject in SUBJECTS:
        if chosen.only and subject.name not in chosen.only:
            continue
        images = draw(subject, prompts, chosen.dir)
        sheets.save(images, chosen.dir / f"contact_sheet_{subject.name}.png")
        figures[subject.name] = asdict(measure(subject, prompts, images))
        print(subject.name, figures[subject.name], flush=True)
    if not chosen.only:
        figures["judge on renders"] = asdict(measure_judge())
        figures["seconds a picture"] = measure_seconds(chosen.dir)
    path.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    card.rewrite(chosen.dir / "MODEL_CARD.md", figures)


def open_subject(subject: Subject, folder: Path) -> StableDiffusion3Pipeline:
    pipeline = parts.load(folder / "models" / subject.model)
    if subject.lora is not None:
        pipeline.load_lora_weights(folder / "loras" / subject.lora)
    return pipeline


def draw(subject: Subject, prompts: Sequence[shapes.Prompt], folder: Path) -> list[shapes.Picture]:
    """One picture per prompt; picture i starts from seed i."""
    pipeline = open_subject(subject, folder)
    images: list[shapes.Picture] = []
    for first in range(0, len(prompts), BATCH):
        part = prompts[first : first + BATCH]
        seeds = range(first, first + len(part))
        made = pipeline(
            prompt=[prompt.text for prompt in part],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            max_sequence_length=subject.zero_tokens,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        ).images
        images += [np.asarray(image) for image in made]
    return images


def measure(subject: Subject, prompts: Sequence[shapes.Prompt], images: Sequence[shapes.Picture]) -> Figures:
    truths = [_truth(prompt.what, subject.palette, subject.style) for prompt in prompts]
    verdicts = [judge(image) for image in images]
    for prompt, truth, verdict in zip(prompts, truths, verdicts, strict=True):
        if verdict != truth:
            print(f"{subject.name}: {prompt.text!r} read as {verdict}", flush=True)
    return _tally(truths, verdicts)


def measure_judge() -> Figures:
    """The judge's own accuracy on pure renders of every combination, palette and style."""
    rng = np.random.default_rng(99)
    scenes = [
        shapes.draw_scene(what, rng, palette=palette, style=style)
        for palette in PALETTES
        for style in STYLES
        for what, _ in shapes.combinations()
    ]
    truths = [_truth(scene.what, scene.palette, scene.style) for scene in scenes]
    return _tally(truths, [judge(shapes.render(scene)) for scene in scenes])


def measure_seconds(folder: Path) -> dict[str, float]:
    """One picture at a time, by threads and number of zero tokens; the best of three."""
    pipeline = open_subject(SUBJECTS[0], folder)
    seconds = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for length in (256, 16):
            tries = [_time_one(pipeline, length) for _ in range(3)]
            label = f"{threads} thread{'s' * (threads > 1)}, max_sequence_length {length}"
            seconds[label] = round(min(tries), 2)
    return seconds


def _time_one(pipeline: StableDiffusion3Pipeline, length: int) -> float:
    start = time.perf_counter()
    pipeline(
        "a red circle on white",
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        max_sequence_length=length,
    )
    return time.perf_counter() - start


def _truth(what: shapes.Combination, palette: Palette, style: Style) -> Verdict:
    return Verdict(
        background=what.background,
        palette=palette,
        colour=what.colour,
        shape=what.shape,
        style=style,
    )


def _tally(truths: Sequence[Verdict], verdicts: Sequence[Verdict]) -> Figures:
    def percent(fact: str) -> float:
        pairs = zip(truths, verdicts, strict=True)
        right = sum(getattr(truth, fact) == getattr(verdict, fact) for truth, verdict in pairs)
        return float(round(100 * right / len(truths), 1))

    return Figures(
        pictures=len(truths),
        background=percent("background"),
        colour=percent("colour"),
        shape=percent("shape"),
        palette=percent("palette"),
        style=percent("style"),
    )


if __name__ == "__main__":
    main()
