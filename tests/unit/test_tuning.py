"""What a run does differently: asked for by name, decided by the request alone, and undone afterwards."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from loaders import protocol
from loaders.errors import InputError
from loaders.pipelines import attention, tuning
from loaders.pipelines.attention import Kit
from loaders.pipelines.tuning import Decoder, Tuning
from registry import folders
from tests import architectures
from tests.bench import Bench

DECODER = Decoder(channels=256, item_bytes=4, can_slice=True, can_tile=True)  # 3 KiB a pixel
MEGA = 1 << 20  # pixels


@pytest.mark.parametrize(
    ("decoder", "pixels", "count", "expected"),
    [
        (DECODER, 1 * MEGA, 1, "whole"),
        (DECODER, 8 * MEGA, 8, "slices"),
        (DECODER, 8 * MEGA, 1, "tiles"),
        (Decoder(channels=256, item_bytes=2, can_slice=True, can_tile=True), 5 * MEGA, 1, "whole"),
        (Decoder(channels=256, item_bytes=4, can_slice=False, can_tile=True), 8 * MEGA, 8, "tiles"),
        (Decoder(channels=256, item_bytes=4, can_slice=False, can_tile=False), 8 * MEGA, 8, "whole"),
    ],
)
def test_large_outputs_are_decoded_in_pieces(
    decoder: Decoder, pixels: int, count: int, expected: str
) -> None:
    assert tuning.decoding(decoder, pixels=pixels, count=count) == expected


def test_nothing_is_done_that_was_not_asked_for() -> None:
    assert tuning.plan({"prompt": "a cat"}, DECODER, pixels=MEGA, count=1) == Tuning()
    assert Tuning().said() == {}


def test_what_is_lossy_says_so() -> None:
    asked = tuning.plan({"step_cache": 0.1, "attention": "native"}, None, pixels=0, count=1)
    assert asked == Tuning(step_cache=0.1, attention="native")
    assert asked.said() == {"step_cache": "0.1, lossy", "attention": "native"}


@pytest.mark.parametrize(
    "given",
    [
        {"step_cache": 0},
        {"step_cache": 2},
        {"step_cache": True},
        {"step_cache": "x"},
        {"attention": "sage_hub"},
    ],
)
def test_what_cannot_be_is_refused_by_its_field(given: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        tuning.plan(given, None, pixels=0, count=1)
    assert caught.value.location == tuple(given)


BARE = frozenset({"_native_cudnn"})  # comes with torch
BOTH = BARE | {"flash", "_flash_3"}


@pytest.mark.parametrize(
    ("word", "kit", "dtype", "expected"),
    [
        ("a CPU", Kit(None, BOTH), "bfloat16", None),
        ("a Hopper with everything", Kit(9, BOTH), "bfloat16", "_flash_3"),
        ("a Hopper as torch comes", Kit(9, BARE), "float16", "_native_cudnn"),
        ("a Blackwell, for which that kernel is not made", Kit(10, BOTH), "bfloat16", "_native_cudnn"),
        ("an Ampere with FlashAttention", Kit(8, BOTH), "bfloat16", "flash"),
        ("an Ampere without", Kit(8, BARE), "bfloat16", None),
        ("an old one", Kit(7, BOTH), "float16", None),
        ("float32", Kit(9, BOTH), "float32", None),
        ("no dtype said", Kit(9, BOTH), None, None),
    ],
)
def test_attention_is_chosen_by_what_the_device_can_do(
    word: str, kit: Kit, dtype: str | None, expected: str | None
) -> None:
    assert attention.choose(kit, dtype) == expected, word
    assert expected is None or expected in tuning.ATTENTION


def test_what_is_not_installed_is_not_chosen() -> None:
    """Asked of diffusers, which wants some versions and not others."""
    assert [name for name in ("_native_cudnn", "flash", "_flash_3") if attention._is_usable(name)] == [
        "_native_cudnn"
    ]


def pixels(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path / "home", 1 << 30)
    yield one
    one.engine.close()
    one.engine.check_integrity()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    root = tmp_path_factory.mktemp("tuning")
    return lambda family: folders.read_pipeline(architectures.write(root / family, family, seed=1))


def test_a_step_cache_changes_its_own_run_and_no_other(engine: Bench, models: Callable[[str], Any]) -> None:
    flux = models("flux")
    base = engine.run(flux, num_inference_steps=6)
    cached = engine.run(flux, num_inference_steps=6, step_cache=1.0)
    again = engine.run(flux, num_inference_steps=6)
    assert again.outputs == base.outputs != cached.outputs
    assert (base.done.how, cached.done.how) == ({}, {"step_cache": "1, lossy"})
    assert engine.run(flux, num_inference_steps=6, step_cache=1.0).outputs == cached.outputs


def test_a_model_without_a_step_cache_says_so_and_stays_as_it_was(
    engine: Bench, models: Callable[[str], Any]
) -> None:
    unet = models("sd15")
    base = engine.run(unet)
    engine.submit(unet, step_cache=0.1)
    outcome = engine.outcome()
    assert isinstance(outcome, protocol.Failed)
    assert (outcome.kind, outcome.location) == ("input", ("step_cache",))
    assert engine.run(unet).outputs == base.outputs


def test_pieces_and_attention_are_put_back(
    engine: Bench, models: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flux = models("flux")
    two = engine.run(flux, num_images=2)
    auto = engine.run(flux, num_images=2, attention="auto")
    assert (auto.outputs, auto.done.how) == (two.outputs, {}), "on a CPU torch's own choice"
    math = engine.run(flux, num_images=2, attention="_native_math")
    assert math.done.how == {"attention": "_native_math"}
    monkeypatch.setattr(tuning, "DECODE_BYTES", 64 * 64 * 64 * 4 * 3)  # one small picture
    sliced = engine.run(flux, num_images=2)
    assert sliced.done.how == {"decoding": "slices"}
    assert all(
        np.abs(pixels(one) - pixels(other)).max() <= 1
        for one, other in zip(sliced.outputs, two.outputs, strict=True)
    )
    monkeypatch.setattr(tuning, "DECODE_BYTES", 1)
    assert engine.run(flux, num_images=2).done.how == {"decoding": "tiles"}
    monkeypatch.undo()
    assert engine.run(flux, num_images=2).outputs == two.outputs


def test_a_kernel_that_refuses_what_auto_gave_it_costs_no_request(
    engine: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chosen by what the files hold, as no dtype is asked for; cuDNN's is refused here because this is no GPU."""
    flux = folders.read_pipeline(architectures.write(tmp_path / "flux", "flux", seed=1, dtype=torch.bfloat16))
    plain = engine.run(flux)
    monkeypatch.setattr(attention, "kit", lambda device: Kit(9, BARE))
    for _ in range(2):
        auto = engine.run(flux, attention="auto")
        assert auto.outputs == plain.outputs
        assert auto.done.how == {"attention": "torch's own, _native_cudnn refused"}
    engine.submit(flux, attention="_native_cudnn")
    outcome = engine.outcome()
    assert isinstance(outcome, protocol.Failed), "who names one gets that one"
    assert outcome.error == "pipeline_failed"
