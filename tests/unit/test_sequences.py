"""Any sequence of variants, LoRAs, cancels and faults leaves the bits as a fresh process makes them."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import pretend
from tests.bench import Bench
from tests.pretend import Pretend, PretendDevice
from tests.sequences import Request, Zoo, play, references

STEPS, SEED = 30, 7


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def expected(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Mapping[Request, bytes]:
    return references(zoo, tmp_path_factory.mktemp("reference"), steps=STEPS, seed=SEED)


def played(zoo: Zoo, bench: Bench, expected: Mapping[Request, bytes]) -> None:
    try:
        counts = play(zoo, bench, expected, steps=STEPS, seed=SEED)
    finally:
        bench.engine.close()
    bench.engine.check_integrity()
    assert counts["exact"] > STEPS / 2
    assert counts["faults"] > 0


@pytest.mark.slow
def test_random_sequences_under_a_tight_budget_equal_a_fresh_process(
    zoo: Zoo, expected: Mapping[Request, bytes], tmp_path: Path
) -> None:
    room = int(max(variant.size_bytes for variant in zoo.variants) * 2.5)
    played(zoo, Bench(tmp_path / "home", room), expected)


@pytest.mark.slow
@pytest.mark.parametrize("landing", ["when waited for", "some time"])
def test_the_same_with_memory_apart_and_late_copies(
    zoo: Zoo, expected: Mapping[Request, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landing: str
) -> None:
    """As on a GPU: a copy that nobody waited for, or that was written over, would be seen in a picture."""
    pretend.patched(monkeypatch.setattr)
    accelerator = Pretend(late=landing == "when waited for", seed=SEED)
    room = int(max(variant.size_bytes for variant in zoo.variants) * 2)
    device = PretendDevice(accelerator)
    bench = Bench(tmp_path / "home", room, memory_bytes=int(room * 1.5), device=device)
    try:
        played(zoo, bench, expected)
    finally:
        accelerator.close()
    assert accelerator.violations == []
    assert accelerator.sent_bytes > 5 * room
