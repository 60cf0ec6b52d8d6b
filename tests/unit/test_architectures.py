"""Thirteen architectures run through the same code: as diffusers itself would, and exactly again after a swap."""

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loaders.pipelines import arguments
from loaders.running import Finished
from registry import folders
from registry.catalog import Manifest
from tests import architectures
from tests.bench import Bench

# `torch.nn.utils.weight_norm` in one VAE, rounding in torchsde's bookkeeping: and numpy 2 in an old scheduler: theirs, harmless.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*copy.keyword.*:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("home"), 1 << 30)
    yield made
    made.engine.close()


def run(bench: Bench, manifest: Manifest, family: str) -> Finished:
    bench.submit(manifest, **architectures.INPUTS[family])
    outcome = bench.outcome()
    assert isinstance(outcome, Finished), outcome
    return outcome


@pytest.mark.parametrize("family", architectures.INPUTS)
def test_it_runs_as_diffusers_runs_it_and_swaps_exactly(family: str, bench: Bench, tmp_path: Path) -> None:
    base, other = (
        folders.read_pipeline(architectures.write(tmp_path / f"{seed}", family, seed=seed)) for seed in (1, 2)
    )
    first = run(bench, base, family)
    assert run(bench, other, family).outputs != first.outputs
    assert run(bench, base, family).outputs == first.outputs
    if first.done.outputs[0].content_type == "image/png":
        ours = np.asarray(_open(first.outputs[0]), dtype=int)
        assert np.abs(ours - _bare(Path(base.source.location), family)).max() <= 1  # of 255


def _open(data: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(data))


def _bare(folder: Path, family: str) -> Any:
    import diffusers
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    values = {"seed": 3, **architectures.INPUTS[family]}
    call = arguments.prepare(type(pipeline).__call__, values)
    generator = torch.Generator("cpu").manual_seed(call.seed)
    images = pipeline(**call.arguments, generator=generator).images
    return (np.asarray(images[0]) * 255).round().astype(int)
