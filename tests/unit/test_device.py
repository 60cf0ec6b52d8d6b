"""The torch seam where no GPU is at hand: what it tells torch."""

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from loaders.device import Device
from loaders.errors import NoDeviceError
from loaders.pipelines import built
from loaders.pipelines.arguments import Call


def test_a_thread_works_on_its_own_gpu_and_not_on_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", told.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    Device("cpu").enter_thread()
    Device("cuda").enter_thread()  # whichever torch takes
    Device("cuda:1").enter_thread()
    assert told == [torch.device("cuda:1")]


@pytest.mark.parametrize(
    ("gpus", "reason"),
    [(0, "torch finds no GPU with a driver that it was built for"), (4, "the last one is cuda:3")],
)
def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, gpus: int, reason: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(NoDeviceError) as refused:
        Device("cuda:4")
    assert str(refused.value) == f"there is no device cuda:4 here: {reason}"


class Careless(SimpleNamespace):
    """A pipeline that draws from torch's own generator, as some schedulers and autoencoders do."""

    components: ClassVar[dict[str, Any]] = {}

    def __call__(self, generator: torch.Generator) -> torch.Tensor:
        return torch.rand(4)


def test_what_draws_without_a_generator_gives_the_same_again_and_disturbs_nobody() -> None:
    def run(seed: int) -> list[float]:
        call = Call(arguments={}, seed=seed, count=1)
        return [float(number) for number in built.run(Careless(), call, on_step=lambda step: None)]

    before = torch.get_rng_state()
    first = run(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert (run(1) == first, run(2) == first) == (True, False)


class Driver:
    """What CUDA would be asked to pin: address -> bytes."""

    def __init__(self) -> None:
        self.pinned: dict[int, int] = {}
        self.answer = 0
        self.calls = 0

    def cudaHostRegister(self, address: int, size_bytes: int, flags: int) -> int:
        self.calls += 1
        if not self.answer:
            self.pinned[address] = size_bytes
        return self.answer

    def cudaHostUnregister(self, address: int) -> int:
        del self.pinned[address]
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: made)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return made


def test_memory_for_a_gpu_is_pinned_at_its_own_size_and_once(driver: Driver) -> None:
    """Torch's own way takes 16 GiB for a model of 9, and never gives it back: budgets were passed."""
    device = Device("cuda:1")
    first = device.host_buffer(9 << 20)
    address = first.data_ptr()
    assert driver.pinned == {address: 10 << 20}, "whole huge pages"
    first[-1] = 7
    del first
    again = device.host_buffer(9 << 20)
    assert (again.data_ptr(), int(again[-1]), driver.calls) == (address, 7, 1)
    del again
    smaller = device.host_buffer(6 << 20)
    assert driver.pinned == {smaller.data_ptr(): 6 << 20}, "what does not fit is unpinned and returned"
    del smaller
    device.buffers.give_back()
    assert driver.pinned == {}


def test_memory_that_cannot_be_pinned_is_memory_that_lacks(driver: Driver) -> None:
    driver.answer = 2
    device = Device("cuda:1")
    with pytest.raises(MemoryError, match="cannot be pinned") as raised:
        device.host_buffer(9 << 20)
    assert device.is_out_of_memory(raised.value)
