"""Any sequence of variants, LoRAs, cancels and faults leaves the bits as a fresh process makes them."""

from pathlib import Path

import pytest

from tests.bench import Bench
from tests.sequences import Zoo, play, references

STEPS, SEED = 30, 7


@pytest.mark.slow
def test_random_sequences_under_a_tight_budget_equal_a_fresh_process(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "models")
    expected = references(zoo, tmp_path / "reference", steps=STEPS, seed=SEED)
    room = int(max(variant.size_bytes for variant in zoo.variants) * 2.5)
    bench = Bench(tmp_path / "home", room)
    try:
        counts = play(zoo, bench, expected, steps=STEPS, seed=SEED)
    finally:
        bench.engine.close()
    bench.engine.check_integrity()
    assert counts["exact"] > STEPS / 2
    assert counts["faults"] > 0
