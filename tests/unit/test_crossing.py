"""What crosses to an accelerator: in chunks, behind the reader, and out of memory that nobody touches meanwhile."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from loaders import crossing, reader
from loaders.crossing import Crossing, Lane
from loaders.device import Arena, Device
from loaders.interest import Interest
from loaders.layout import Layout, lay_out
from tests import pretend
from tests.pretend import Pretend

CHUNK = 16 << 10


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    pretend.patched(monkeypatch.setattr, under_way=crossing.MOST_UNDER_WAY)
    return Pretend()


@pytest.fixture
def device(accelerator: Pretend) -> Device:
    return Device(accelerator=accelerator)


def lane(device: Device) -> Lane:
    assert device._lane is not None
    return device._lane


def filled(device: Device, size_bytes: int) -> torch.Tensor:
    memory = device.host_buffer(size_bytes)
    memory.copy_(torch.arange(size_bytes) % 251)
    return memory


def test_whole_chunks_leave_as_soon_as_they_are_in_place(accelerator: Pretend, device: Device) -> None:
    source = filled(device, 5 * CHUNK + 100)
    one = Crossing(lane(device), source.numel())
    sent = []
    for stop in (100, CHUNK, 3 * CHUNK - 1, 4 * CHUNK):
        one.advance(source, stop)
        sent.append(accelerator.sent_bytes)
    one.finish(source)
    assert [*sent, accelerator.sent_bytes] == [0, CHUNK, 2 * CHUNK, 4 * CHUNK, source.numel()]
    assert not torch.equal(one.target, source), "a copy that nobody waited for has not landed"
    assert one.mark is not None
    one.mark.wait()
    assert torch.equal(one.target, source)


def test_few_are_under_way_and_who_moves_may_be_stopped_between_them(
    accelerator: Pretend, device: Device
) -> None:
    source, interest = filled(device, 40 * CHUNK), Interest()
    under_way: list[int] = []

    def moved() -> None:
        under_way.append(len(accelerator._under_way))
        if len(under_way) == 10:
            interest.give_up()
        interest.check()

    one = Crossing(lane(device), source.numel())
    with pytest.raises(Exception, match="nobody waits"):
        one.finish(source, moved)
    assert under_way == [0, 1, 2, 3, 4, 4, 4, 4, 4, 4]


def test_host_memory_comes_back_only_after_copies_out_of_it(accelerator: Pretend, device: Device) -> None:
    """The one who let go of it did so while they were under way; what is read next would be written over it."""
    memory = filled(device, 3 * CHUNK)
    plan = Layout(places=(), size_bytes=memory.numel())
    wanted, address = memory.clone(), memory.data_ptr()
    arena = device.to_device(Arena(memory, plan))
    del memory
    again = filled(device, 3 * CHUNK).zero_()
    assert again.data_ptr() == address, "and before any other: its accounts are closed"
    device.expect(arena)
    assert torch.equal(arena.storage, wanted)
    assert accelerator.violations == []


def test_nor_is_it_unpinned_under_them(accelerator: Pretend, device: Device) -> None:
    """As when a run of another request, on another thread, finds no memory."""
    arena = device.to_device(Arena(filled(device, 3 * CHUNK), Layout(places=(), size_bytes=3 * CHUNK)))
    device.give_back()
    device.expect(arena)
    assert int(arena.storage[100]) == 100
    assert accelerator.violations == []


def test_the_pretended_one_finds_out_what_is_wrong(accelerator: Pretend, device: Device) -> None:
    """Otherwise the other tests could not fail."""
    memories, target = [filled(device, CHUNK), filled(device, CHUNK)], accelerator.landing(CHUNK)
    marks = [lane(device).send(memory, target) for memory in memories]
    memories[0][5] = 77
    accelerator.unpin(memories[1].data_ptr())
    marks[1].wait()
    del target, marks
    assert accelerator.violations == [
        "memory was unpinned under a copy", "memory was written under a copy",
        "memory was written under a copy", "weights were freed under a run",
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_file_crosses_while_it_is_read(
    accelerator: Pretend, device: Device, tmp_path: Path, dtype: torch.dtype | None
) -> None:
    torch.manual_seed(1)
    paths = [tmp_path / f"{n}.safetensors" for n in range(2)]
    for number, path in enumerate(paths):
        save_file({f"{number}.{n}": torch.randn(50 + 1000 * n, 7) for n in range(9)}, path)
    name = None if dtype is None else str(dtype).removeprefix("torch.")
    plan = lay_out(reader.read_headers(paths), dtype_of=lambda _, stored: name or stored)
    landing, sent = device.landing(plan), []

    def on_filled(arena: Arena, stop: int) -> None:
        landing.advance(arena, stop)
        sent.append((stop, accelerator.sent_bytes))

    arena = reader.read(paths, plan, device, on_filled=on_filled)
    assert sent[0][0] < plan.size_bytes, "more than one block"
    assert all(already == stop // CHUNK * CHUNK for stop, already in sent)
    there = landing.finish(arena)
    device.expect(there)
    assert all(torch.equal(there.views[name], view) for name, view in arena.views.items())
    assert accelerator.violations == []


def test_tensors_from_anywhere_are_gathered(accelerator: Pretend, device: Device) -> None:
    tensors: dict[str, Any] = {
        "turned": torch.randn(70, 30).T, "half": torch.randn(9, 2, 3, 3).to(torch.bfloat16), "one": torch.ones(1, 1),
    }  # fmt: skip
    arena = device.gathered(tensors)
    assert bool(arena.views["turned"].isnan().all()), "nothing has landed"
    device.expect(arena)
    assert all(torch.equal(arena.views[name], tensor) for name, tensor in tensors.items())


def test_a_copy_that_fails_keeps_its_source_and_fails_all_that_come_after(
    accelerator: Pretend, device: Device
) -> None:
    source = filled(device, CHUNK)
    device.to_device(Arena(source, Layout(places=(), size_bytes=CHUNK)))
    accelerator.error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    address = source.data_ptr()
    del source
    for _ in range(2):
        with pytest.raises(torch.AcceleratorError) as raised:
            device.host_buffer(CHUNK)
    assert device.is_broken(raised.value)
    accelerator.error = None
    assert device.buffers.take(CHUNK).data_ptr() != address
