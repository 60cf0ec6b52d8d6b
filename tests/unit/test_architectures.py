"""Every family of pipelines through the engine: bound from files, equal to diffusers' own loading to the bit."""

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from loaders import adapters, protocol, ways
from loaders.device import Device
from loaders.engine import Engine, Event
from loaders.pipelines import outputs, siblings
from loaders.protocol import AdapterUse, AttemptKey
from loaders.running import Finished
from loaders.store import Store
from registry import folders
from registry.catalog import AdapterManifest, Manifest
from tests import architectures, references
from tests.architectures import loras
from tests.architectures.calls import CALLS, Example, mask_uri, picture_uri, sound_uri

pytestmark = [
    pytest.mark.filterwarnings("ignore:::diffusers"),
    pytest.mark.filterwarnings("ignore:::transformers"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # torch on diffusers' weight norm
]

STARTER = Path(__file__).parents[2] / "starter" / "models" / "shapes"
SIBLINGS = {  # task → family, what is added to its call
    "image to image": ("flux", {"image_url": picture_uri(), "strength": 0.8}),
    "image to image, UNet": ("sd15", {"image_url": picture_uri(), "strength": 0.8}),
    "inpainting": ("sd15", {"image_url": picture_uri(), "mask_url": mask_uri(), "strength": 0.9}),
    "inpainting, transformer": (
        "flux",
        {"image_url": picture_uri(), "mask_url": mask_uri(), "strength": 0.9},
    ),
    "ControlNet from an image": (
        "sd15_controlnet",
        {"image_url": picture_uri(1), "strength": 0.8},
    ),
    "image to video": ("ltx", {"image_url": picture_uri()}),
    "audio to audio": ("stable_audio", {"audio_url": sound_uri()}),
}
LORAS = [  # family, layout, which parts it changes; kohya where diffusers knows the family's names
    ("sd15", "kohya", "all"),
    ("sd15", "diffusers", "all"),
    ("sdxl", "kohya", "all"),
    ("sdxl", "diffusers", "denoiser"),
    ("sd3", "diffusers", "all"),
    ("flux", "diffusers", "denoiser"),
    ("flux", "kohya", "denoiser"),
    ("flux2_klein", "diffusers", "denoiser"),
    ("sana", "diffusers", "denoiser"),
    ("qwen_image", "diffusers", "denoiser"),
    ("qwen_image", "kohya", "denoiser"),
    ("z_image", "diffusers", "denoiser"),
    ("z_image", "kohya", "denoiser"),
    ("wan", "diffusers", "denoiser"),
    ("wan", "kohya", "denoiser"),
    ("ltx", "diffusers", "denoiser"),
    ("cogvideox", "diffusers", "denoiser"),
    ("hunyuan_video", "diffusers", "denoiser"),
]
STREAMED = ways.Choice(way="streamed", reason="asked for by a test", seconds={})


class OneCore(Device):
    """Tiny tensors are no work for two."""

    def use_all_cores(self) -> None:
        torch.set_num_threads(1)


class Studio:
    """An engine, and for each run the arrays that it made before they were encoded."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.made: list[Any] = []
        self._events: queue.Queue[Event] = queue.Queue()
        self._folders: dict[tuple[str, int], Path] = {}
        self._home = home
        self._count = 0
        encode = outputs.encode

        def recording(result: Any, how: outputs.Style) -> Any:
            self.made.append(references.arrays(result))
            return encode(result, how)

        patch.setattr(outputs, "encode", recording)
        self.engine = Engine(
            home / "engine",
            device=OneCore("cpu"),
            store=Store(home / "engine"),
            budgets={"device": 1 << 30, "disk": 1 << 40},
            listener=self._events.put,
        )

    def folder(self, family: str, seed: int = 1) -> Path:
        if (family, seed) not in self._folders:
            self._folders[family, seed] = architectures.write(
                self._home / f"{family}-{seed}", family, seed=seed
            )
        return self._folders[family, seed]

    def run(
        self, manifest: Manifest, example: Example, lora: AdapterManifest | None = None
    ) -> tuple[Any, Finished]:
        self._count += 1
        self.engine.describe(
            protocol.DescribeVersion(digest=manifest.digest, manifest=manifest, defaults=example.defaults)
        )
        key = AttemptKey(f"request-{self._count}", 1)
        uses: tuple[AdapterUse, ...] = ()
        if lora is not None:
            self.engine.describe(protocol.DescribeAdapter(digest=lora.digest, manifest=lora))
            uses = (AdapterUse(lora.digest, 1.0),)
        self.engine.submit(
            protocol.Assign(attempt=key, version=manifest.digest, adapters=uses, input=example.values)
        )
        while not isinstance(event := self._events.get(timeout=120), Finished | protocol.Failed):
            pass
        assert isinstance(event, Finished), event
        return self.made.pop(), event


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        one = Studio(tmp_path_factory.mktemp("studio"), patch)
        yield one
        one.engine.close()
        one.engine.check_integrity()
    torch.set_num_threads(threads)


@pytest.mark.parametrize("family", CALLS)
def test_a_family_runs_swaps_and_equals_diffusers(studio: Studio, family: str) -> None:
    example = CALLS[family]
    folder = studio.folder(family)
    manifest, other = (folders.read_pipeline(studio.folder(family, seed)) for seed in (1, 2))
    assert manifest.architecture == other.architecture
    first, report = studio.run(manifest, example)
    second, _ = studio.run(other, example)
    again, repeat = studio.run(manifest, example)
    expected = references.run(folder, manifest.pipeline_class, example.values, example.defaults)
    assert np.isfinite(first).all()
    assert first.std() > 0
    assert (first.shape, first.tobytes()) == (expected.shape, expected.tobytes())
    assert first.tobytes() != second.tobytes()
    assert (again.tobytes(), repeat.outputs) == (first.tobytes(), report.outputs)


def test_a_sibling_may_lack_what_the_class_itself_goes_without(studio: Studio) -> None:
    """Stable Diffusion 3 is often saved without its T5, as the starter models are."""
    values = {"prompt": "a red circle", "num_inference_steps": 2, "seed": 1}
    more = {"image_url": picture_uri(), "strength": 0.8}
    manifest, defaults = folders.read_pipeline(STARTER), {"max_sequence_length": 16}
    plain, _ = studio.run(manifest, Example(values, defaults))
    made, _ = studio.run(manifest, Example(values | more, defaults))
    assert np.isfinite(made).all()
    assert made.tobytes() != plain.tobytes()
    roles = (part.name for part in manifest.components)
    found = siblings.choose(diffusers.StableDiffusion3Pipeline, {"image"}, roles)
    assert found is diffusers.StableDiffusion3Img2ImgPipeline


@pytest.mark.parametrize("task", SIBLINGS)
def test_a_warm_model_takes_its_siblings_calls(studio: Studio, task: str) -> None:
    family, more = SIBLINGS[task]
    base = CALLS[family]
    example = Example({**base.values, **more}, base.defaults)
    folder = studio.folder(family)
    manifest = folders.read_pipeline(folder)
    plain, _ = studio.run(manifest, base)
    made, _ = studio.run(manifest, example)
    expected = references.run(folder, manifest.pipeline_class, example.values, example.defaults)
    assert (made.shape, made.tobytes()) == (expected.shape, expected.tobytes())
    assert made.tobytes() != plain.tobytes()
    assert studio.run(manifest, base)[0].tobytes() == plain.tobytes()


@pytest.mark.parametrize(("family", "layout", "parts"), LORAS)
def test_a_lora_works_as_pefts_in_both_ways_and_leaves_the_base_exact(
    studio: Studio,
    family: str,
    layout: loras.Layout,
    parts: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    example = CALLS[family]
    folder = studio.folder(family)
    manifest = folders.read_pipeline(folder)
    more: Any = {"seed": 5, "alpha": 2.0, "encoders": parts == "all"}
    file = architectures.write_lora(tmp_path / "lora.safetensors", folder, layout=layout, **more)
    known = file  # diffusers loses kohya's text encoder layers on the way to PEFT
    if parts == "all":
        known = architectures.write_lora(tmp_path / "known.safetensors", folder, **more)
    lora = adapters.describe(file, architecture=manifest.architecture)
    base, _ = studio.run(manifest, example)
    kept, _ = studio.run(manifest, example, lora)
    monkeypatch.setattr(ways, "choose", lambda *facts: STREAMED)
    streamed, _ = studio.run(manifest, example, lora)
    again, _ = studio.run(manifest, example)
    expected = references.run(folder, manifest.pipeline_class, example.values, example.defaults, known)
    assert again.tobytes() == base.tobytes()
    assert streamed.tobytes() == kept.tobytes()
    assert np.abs(kept - base).max() > 1e-3
    assert np.abs(kept - expected).max() < 1e-4  # merged, not beside: other roundings
