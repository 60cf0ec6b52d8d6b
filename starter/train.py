"""Train the starter models: `python -m starter.train --out DIR [--stage STAGE]`.

Stages build on each other through files below DIR: `vae` leaves the autoencoder in `work/vae`,
`base` the pipeline in `models/shapes`, `dusk` one with another transformer in
`models/shapes-dusk`, `outline` and `stripes` an adapter each in `loras/`. One CPU core is enough.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from starter import adapters, autoencoder, flow, parts, pictures
from starter.palettes import Palette, Style

Stage = Callable[[Path], None]

BASE = flow.Recipe(stage="base", steps=2700, learning_rate=1.5e-3)
DUSK = flow.Recipe(stage="dusk", steps=700, learning_rate=8e-4, seed=1)
OUTLINE = flow.Recipe(stage="outline", steps=450, learning_rate=2e-3, seed=2)
STRIPES = flow.Recipe(stage="stripes", steps=450, learning_rate=2e-3, seed=3)
PICTURES = {"base": 12000, "dusk": 4000, "outline": 4000, "stripes": 4000}


def main() -> None:
    stages: dict[str, Stage] = {
        "vae": train_vae,
        "base": train_base,
        "dusk": train_dusk,
        "outline": lambda out: train_adapter(out, OUTLINE, "outline"),
        "stripes": lambda out: train_adapter(out, STRIPES, "stripes"),
    }
    parser = argparse.ArgumentParser(description="Train the starter models.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--stage", choices=[*stages, "all"], default="all")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for name in stages if chosen.stage == "all" else (chosen.stage,):
        stages[name](chosen.out)


def train_vae(out: Path) -> None:
    vae = autoencoder.build()
    autoencoder.train(vae, autoencoder.render_pool(seed=1), seed=1)
    vae.save_pretrained(out / "work" / "vae")


def train_base(out: Path) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(out / "work" / "vae")
    fresh = parts.Parts(
        vae=vae,
        text_encoder=parts.text_encoder(),
        text_encoder_2=parts.text_encoder(),
        transformer=parts.transformer(),
    )
    trained = [
        *fresh.transformer.parameters(),
        *fresh.text_encoder.parameters(),
        *fresh.text_encoder_2.parameters(),
    ]
    folder = out / "models" / "shapes"
    corpus = prepare(vae, BASE.stage, out, palette="day", style="fill")
    flow.train(fresh, trained, corpus, BASE, lambda _: parts.save(fresh, folder))
    parts.save(fresh, folder)


def train_dusk(out: Path) -> None:
    """Only the transformer learns; autoencoder and text encoders stay the base's, byte for byte."""
    tuned = _base(out)
    folder = out / "models" / "shapes-dusk"
    corpus = prepare(tuned.vae, DUSK.stage, out, palette="dusk", style="fill")
    trained = list(tuned.transformer.parameters())
    flow.train(tuned, trained, corpus, DUSK, lambda _: parts.save(tuned, folder))
    parts.save(tuned, folder)


def train_adapter(out: Path, recipe: flow.Recipe, style: Style) -> None:
    adapted = _base(out)
    folder = out / "loras" / f"shapes-{style}"
    corpus = prepare(adapted.vae, recipe.stage, out, palette="day", style=style)
    trained = adapters.put_on(adapted.transformer)
    flow.train(adapted, trained, corpus, recipe, lambda _: adapters.save(adapted.transformer, folder))
    adapters.save(adapted.transformer, folder)


def _base(out: Path) -> parts.Parts:
    base = parts.parts_of(parts.load(out / "models" / "shapes"))
    for frozen in (base.vae, base.text_encoder, base.text_encoder_2):
        frozen.requires_grad_(requires_grad=False)
    return base


def prepare(vae: AutoencoderKL, stage: str, out: Path, *, palette: Palette, style: Style) -> flow.Corpus:
    """Render and encode a stage's pictures, or read what an earlier run encoded."""
    path = out / "work" / f"corpus-{stage}.pt"
    count = PICTURES[stage]
    scenes = pictures.draw(count, ((palette, style, 1.0),), np.random.default_rng(11))
    if path.exists():
        latents = torch.load(path)
    else:
        latents = autoencoder.encode(vae, pictures.to_bytes(scenes))
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(latents, path)
    return flow.Corpus(scenes=scenes, latents=latents)


if __name__ == "__main__":
    main()
