"""Out of memory, on the way in and in a run: what is idle leaves, it is tried once more, and the engine lives on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from loaders import protocol, reader
from loaders.pipelines import built
from registry import folders
from registry.catalog import Manifest
from tests import architectures
from tests.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "home", 1 << 30)
    yield made
    made.engine.close()
    made.engine.check_integrity()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    root = tmp_path_factory.mktemp("tiny")
    return [
        folders.read_pipeline(architectures.write(root / str(seed), "flux", seed=seed)) for seed in (1, 2)
    ]


def failing(times: int, error: Exception, real: Callable[..., Any]) -> Callable[..., Any]:
    left = [times]

    def call(*args: Any, **kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise error
        return real(*args, **kwargs)

    return call


def on_device(bench: Bench) -> set[str]:
    return {held.digest for held in bench.engine.held() if held.tier == "device"}


def components(manifest: Manifest) -> set[str]:
    return {component.digest for component in manifest.components}


FULL = [
    pytest.param(built, "run", torch.OutOfMemoryError("CUDA out of memory"), id="a GPU's, in a run"),
    pytest.param(
        built, "run", torch.AcceleratorError("CUDA error: out of memory"), id="the driver's, in a run"
    ),
    pytest.param(built, "run", MemoryError(), id="the machine's, in a run"),
    pytest.param(reader, "read", MemoryError(), id="the machine's, while weights are read"),
]


@pytest.mark.parametrize(("owner", "name", "error"), FULL)
def test_what_is_idle_leaves_and_the_second_try_is_exact(
    bench: Bench,
    models: list[Manifest],
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    error: Exception,
) -> None:
    expected = bench.picture(models[0])
    bench.picture(models[1])
    bench.engine._shelf.evict_idle()
    bench.picture(models[1])
    monkeypatch.setattr(owner, name, failing(1, error, getattr(owner, name)))
    assert bench.picture(models[0]) == expected
    assert on_device(bench) == components(models[0])


@pytest.mark.parametrize(("owner", "name", "error"), FULL)
def test_when_that_does_not_help_it_is_named_and_the_next_run_is_served(
    bench: Bench,
    models: list[Manifest],
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    error: Exception,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, failing(2, error, getattr(owner, name)))
        bench.submit(models[0])
        outcome = bench.outcome()
    assert isinstance(outcome, protocol.Failed)
    assert (outcome.kind, outcome.error) == ("host", "out_of_memory")
    assert bench.picture(models[0])


def test_a_run_is_measured_and_its_room_is_kept_free(
    bench: Bench, models: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.picture(models[0])
    learned = bench.engine._headroom.expected(models[0].architecture, 64 * 64, weight_bytes=0)
    reserved: list[int] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        reserved.append(bench.engine._shelf.tiers["device"].reserved_bytes)
        return real(*args, **kwargs)

    real = built.run
    monkeypatch.setattr(built, "run", watched)
    bench.picture(models[0])
    assert reserved == [learned] != [0]
