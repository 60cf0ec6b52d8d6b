"""Train the starter models: `python -m starter.train --out DIR [--stage STAGE]`.

Stages build on each other through files below DIR. `vae` leaves the autoencoder in `work/vae`;
`base` trains text encoders and transformer (`models/shapes`). From the base, `dusk` trains the
transformer only, on the night palette (`models/shapes-dusk`), and `outline` and `stripes` an
adapter each (`loras/`). `sharpen` trains the decoder that base and dusk share.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from starter import adapters, autoencoder, flow, parts, pictures
from starter.palettes import Palette, Style

Stage = Callable[[Path], None]

BASE = flow.Recipe(stage="base", steps=4000, learning_rate=1.5e-3)
DUSK = flow.Recipe(stage="dusk", steps=400, learning_rate=8e-4, seed=1)
OUTLINE = flow.Recipe(stage="outline", steps=5000, learning_rate=2e-3, seed=2)
STRIPES = flow.Recipe(stage="stripes", steps=1200, learning_rate=2e-3, seed=3)
PICTURES = {"day": 12000, "dusk": 4000, "outline": 4000, "stripes": 4000}


def main() -> None:
    stages: dict[str, Stage] = {
        "vae": train_vae,
        "base": train_base,
        "dusk": train_dusk,
        "outline": lambda out: train_adapter(out, OUTLINE, "outline"),
        "stripes": lambda out: train_adapter(out, STRIPES, "stripes"),
        "sharpen": sharpen,
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
    corpus = prepare(vae, "day", out, palette="day", style="fill").steady()
    _train_and_save(fresh, trained, corpus, BASE, out / "models" / "shapes")


def train_dusk(out: Path) -> None:
    """Only the transformer learns; autoencoder and text encoders stay the base's, byte for byte."""
    tuned = _open(out / "models" / "shapes")
    corpus = prepare(tuned.vae, "dusk", out, palette="dusk", style="fill").steady()
    trained = list(tuned.transformer.parameters())
    _train_and_save(tuned, trained, corpus, DUSK, out / "models" / "shapes-dusk")


def _train_and_save(
    model: parts.Parts,
    trained: list[torch.nn.Parameter],
    corpus: flow.Corpus,
    recipe: flow.Recipe,
    folder: Path,
) -> None:
    flow.train(model, trained, corpus, recipe, lambda _: parts.save(model, folder))
    parts.save(model, folder)


def train_adapter(out: Path, recipe: flow.Recipe, style: Style) -> None:
    adapted = _open(out / "models" / "shapes")
    folder = out / "loras" / f"shapes-{style}"
    corpus = prepare(adapted.vae, style, out, palette="day", style=style).steady()
    trained = adapters.put_on(adapted.transformer)
    flow.train(adapted, trained, corpus, recipe, lambda _: adapters.save(adapted.transformer, folder))
    adapters.save(adapted.transformer, folder)


def sharpen(out: Path) -> None:
    vae = AutoencoderKL.from_pretrained(out / "models" / "shapes" / "vae")
    autoencoder.sharpen(vae, seed=4)
    for model in ("shapes", "shapes-dusk"):
        parts.save(replace(_open(out / "models" / model), vae=vae), out / "models" / model)


def _open(folder: Path) -> parts.Parts:
    """A saved pipeline's parts, all frozen but the transformer."""
    opened = parts.parts_of(parts.load(folder))
    for frozen in (opened.vae, opened.text_encoder, opened.text_encoder_2):
        frozen.requires_grad_(requires_grad=False)
    return opened


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
