"""On a real GPU, which the other tests only pretend: what arrives, what a run leaves behind, and bits that repeat."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loaders import merging, reader, ways
from loaders.device import Arena, Device
from loaders.layout import Layout, lay_out
from registry.catalog import AdapterManifest
from tests.bench import Bench
from tests.sequences import Request, Zoo, play, references

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

STEPS, SEED = 30, 7


@pytest.fixture
def device() -> Device:
    return Device("cuda:0")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("models"))


def test_a_file_arrives_while_it_is_read(device: Device, tmp_path: Path) -> None:
    tensors = {str(n): torch.randn(1024, 4096 + 512 * n) for n in range(8)}  # some chunks' worth
    save_file(tensors, tmp_path / "weights.safetensors")
    paths = [tmp_path / "weights.safetensors"]
    plan = lay_out(reader.read_headers(paths))
    for _ in range(3):
        landing = device.landing(plan)
        arena = reader.read(paths, plan, device, on_filled=landing.advance)
        there = landing.finish(arena)
        del arena
        device.expect(there)
        assert all(torch.equal(there.views[name].cpu(), tensor) for name, tensor in tensors.items())
        device.wait()  # before it is let go of


def test_a_copy_does_not_wait_for_a_run(device: Device) -> None:
    """Kernels that take a second are on their way; a copy that is sent after them arrives before them."""
    device.enter_thread()
    memory = device.host_buffer(64 << 20)
    memory.fill_(7)
    torch.cuda._sleep(int(2e9))
    busy = torch.cuda.Event()
    busy.record()
    there = device.to_device(Arena(memory, Layout(places=(), size_bytes=memory.numel())))
    assert there.arrival is not None
    there.arrival.synchronize()
    assert not busy.query()
    device.expect(there)
    assert int(there.storage[-1]) == 7, "and who uses it comes after both"


def test_both_ways_of_a_lora_give_the_same_bits(
    device: Device, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses: dict[AdapterManifest, float] = {zoo.loras[0][0]: 1.0, zoo.loras[0][2]: 0.5}
    bench = Bench(tmp_path / "home", 1 << 30, device=device)
    pictures: dict[str, bytes] = {}
    for way in ("kept", "streamed"):
        choice = ways.Choice(way=way, reason="told", seconds={})  # type: ignore[arg-type]
        monkeypatch.setattr(merging.ways, "choose", lambda *_, choice=choice: choice)
        pictures[way] = bench.picture(zoo.variants[0], uses)
    bench.engine.close()
    assert pictures["kept"] == pictures["streamed"]


@pytest.mark.slow
def test_random_sequences_equal_a_fresh_engine(device: Device, zoo: Zoo, tmp_path: Path) -> None:
    expected: Mapping[Request, bytes] = references(
        zoo, tmp_path / "reference", steps=STEPS, seed=SEED, device=device
    )
    room = int(max(variant.size_bytes for variant in zoo.variants) * 2)
    bench = Bench(tmp_path / "home", room, memory_bytes=int(room * 1.5), device=device)
    try:
        counts = play(zoo, bench, expected, steps=STEPS, seed=SEED)
    finally:
        bench.engine.close()
    bench.engine.check_integrity()
    assert counts["exact"] > STEPS / 2
