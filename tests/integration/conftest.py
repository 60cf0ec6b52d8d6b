"""Pipelines on disk, made once a run: real files in the real layout, with weights that nobody will run."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import safetensors.numpy

from tests.live import Live, furnish, serving

CATALOG = """
schemas:
  prompt: {type: object, required: [prompt], properties: {prompt: {type: string}}, examples: [{prompt: a}]}
models:
  acme/toys:
    task: text-to-image
    input: prompt
    variants:
      acme/toys: {path: toys}
      acme/toys/late: {path: toys-late}
adapters:
  acme/toys-bent: {base: acme/toys, path: toys-bent, trigger_words: [bent]}
"""


PARTS = {
    "transformer": ("diffusers", "SD3Transformer2DModel", "diffusion_pytorch_model"),
    "vae": ("diffusers", "AutoencoderKL", "diffusion_pytorch_model"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection", "model"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", "model"),
}


def save_pipeline(folder: Path, seed: int) -> None:
    """As `save_pretrained` lays it out. Only the transformer's weights depend on the seed."""
    index = {
        "_class_name": "StableDiffusion3Pipeline",
        "_diffusers_version": "0.42.1",
        "text_encoder_3": [None, None],
    }
    for number, (name, (library, class_name, stem)) in enumerate(PARTS.items()):
        index[name] = [library, class_name]
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps({"_class_name": class_name}))
        rng = np.random.default_rng(seed if name == "transformer" else 1000 + number)
        weights = {"weight": rng.standard_normal((64, 64)).astype(np.float32)}
        safetensors.numpy.save_file(weights, folder / name / f"{stem}.safetensors")
    for name, class_name in (
        ("scheduler", "FlowMatchEulerDiscreteScheduler"),
        ("tokenizer", "CLIPTokenizer"),
    ):
        index[name] = ["diffusers" if name == "scheduler" else "transformers", class_name]
        (folder / name).mkdir()
        (folder / name / f"{name}_config.json").write_text("{}")
    (folder / "model_index.json").write_text(json.dumps(index))


def save_lora(folder: Path) -> None:
    folder.mkdir()
    names = ("lora_A", "lora_B")
    weights = {f"transformer.to_q.{name}.weight": np.ones((4, 64), np.float32) for name in names}
    safetensors.numpy.save_file(weights, folder / "pytorch_lora_weights.safetensors")


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue file with two variants of one architecture and a LoRA. Read it, copy it, never change it."""
    folder = tmp_path_factory.mktemp("toys")
    save_pipeline(folder / "toys", seed=1)
    save_pipeline(folder / "toys-late", seed=2)
    save_lora(folder / "toys-bent")
    (folder / "catalog.yaml").write_text(CATALOG)
    return folder / "catalog.yaml"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder of a file's gateway."""
    return tmp_path_factory.mktemp("home")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(module_dsn: str, home: Path) -> AsyncIterator[Live]:
    """One gateway for all tests of a file; each test leaves its queue empty."""
    async with serving(module_dsn, home, await furnish(module_dsn)) as running:
        yield running
