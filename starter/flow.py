"""Flow matching on latents: one loop trains the base, the fine-tune and the adapters.

The convention is `FlowMatchEulerDiscreteScheduler`'s with shift 1: at noise level s in 0..1 a
sample is (1 - s) · latents + s · noise, the model sees timestep 1000 · s and predicts
noise - latents. One prompt in ten is dropped, so that guidance has something to push away from.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import CLIPTokenizer

from starter import registers, shapes, tokens
from starter.ledger import Ledger, cosine
from starter.parts import Parts

PATCHES = 16  # tokens of a picture
DROPPED = 0.1  # share of prompts replaced by none
CENTRE, SPREAD = 0.2, 1.2  # of the normal behind the noise level
EMA_DECAY = 0.998


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Scenes and their normalised latents, float32 [count, 4, 16, 16]."""

    scenes: Sequence[shapes.Scene]
    latents: torch.Tensor

    def steady(self) -> "Corpus":
        kept = [row for row, scene in enumerate(self.scenes) if shapes.is_steady(scene)]
        return Corpus(scenes=[self.scenes[row] for row in kept], latents=self.latents[kept])


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how fast to train; the learning rate falls over `horizon` steps, or over all."""

    stage: str
    steps: int
    learning_rate: float
    horizon: int | None = None
    batch: int = 32
    seed: int = 0


class Average:
    """Exponential moving average of trained parameters, slower as training goes on."""

    def __init__(self, trained: Sequence[torch.nn.Parameter]) -> None:
        self._trained = trained
        self._means = [parameter.detach().clone() for parameter in trained]
        self._count = 0

    def update(self) -> None:
        self._count += 1
        decay = min(EMA_DECAY, (1 + self._count) / (10 + self._count))
        for mean, parameter in zip(self._means, self._trained, strict=True):
            mean.lerp_(parameter.detach(), 1 - decay)

    def swap(self) -> None:
        """Exchange averages and parameters; a second call puts them back."""
        for mean, parameter in zip(self._means, self._trained, strict=True):
            held = parameter.detach().clone()
            parameter.detach().copy_(mean)
            mean.copy_(held)


def embed(parts: Parts, tokenizer: CLIPTokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Text as the pipeline gives it, but with a single zero token; joint [n, 17, 128], pooled [n, 128]."""
    ids = tokenizer(
        texts, padding="max_length", max_length=tokens.MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    outputs = [
        encoder(ids, output_hidden_states=True) for encoder in (parts.text_encoder, parts.text_encoder_2)
    ]
    words = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
    return torch.nn.functional.pad(words, (0, 0, 0, 1)), pooled


def draw_texts(scenes: Sequence[shapes.Scene], rng: np.random.Generator) -> list[str]:
    return [
        "" if rng.random() < DROPPED else shapes.describe(scene.what, scene.size, rng) for scene in scenes
    ]


def train(
    parts: Parts,
    trained: Sequence[torch.nn.Parameter],
    corpus: Corpus,
    recipe: Recipe,
    checkpoint: Callable[[int], None],
) -> None:
    """Train `trained` in place and leave their averages in them; `checkpoint` sees averages too."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    tokenizer = tokens.build()
    attention = registers.install(parts.transformer)
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    average = Average(trained)
    ledger = Ledger(recipe.stage, recipe.steps)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * cosine(step, recipe.horizon or recipe.steps)
        rows = rng.integers(len(corpus.scenes), size=recipe.batch)
        texts = draw_texts([corpus.scenes[row] for row in rows], rng)
        joint, pooled = embed(parts, tokenizer, texts)
        latents = corpus.latents[torch.from_numpy(rows)]
        attention.bias = registers.draw_bias(recipe.batch, PATCHES + joint.shape[1], generator)
        loss = velocity_loss(parts, latents, joint, pooled, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update()
        ledger.note(step, loss.item(), time.monotonic())
        if step % 250 == 249:
            average.swap()
            checkpoint(step + 1)
            average.swap()
    average.swap()
    registers.remove(parts.transformer)


def velocity_loss(
    parts: Parts,
    latents: torch.Tensor,
    joint: torch.Tensor,
    pooled: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    level = torch.sigmoid(torch.randn(len(latents), generator=generator) * SPREAD + CENTRE)
    noise = torch.randn(latents.shape, generator=generator)
    share = level[:, None, None, None]
    predicted = parts.transformer(
        hidden_states=latents.lerp(noise, share),
        timestep=level * 1000,
        encoder_hidden_states=joint,
        pooled_projections=pooled,
        return_dict=False,
    )[0]
    return torch.nn.functional.mse_loss(predicted, noise - latents)
