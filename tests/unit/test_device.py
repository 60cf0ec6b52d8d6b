"""The torch seam where no GPU is at hand: what it tells torch."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from click.testing import CliRunner

from loaders import accelerator, buffers, cli, crossing, host
from loaders.crossing import Crossing
from loaders.device import Device
from loaders.errors import NoDeviceError
from loaders.pipelines import built
from loaders.pipelines.arguments import Call
from registry.settings import Settings
from tests.pretend import Pretend


def test_a_thread_works_on_its_own_gpu_and_not_on_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", told.append)
    monkeypatch.setattr(torch.cuda, "set_stream", told.append)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"a stream of {device}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    Device("cpu").enter_thread()
    Device("cuda").enter_thread()
    Device("cuda:1").enter_thread()
    Device("cuda:1").enter_thread(moves=True)
    first, second = torch.device("cuda:0"), torch.device("cuda:1")
    assert told == [first, second, second, "a stream of cuda:1"]


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


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        (0, "there is no device cuda:1 here: torch finds no GPU with a driver that it was built for"),
        (1, "there is no device cuda:1 here: the last one is cuda:0"),
    ],
)
def test_a_host_for_a_gpu_that_is_not_there_says_so_and_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: int, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("MARQUEE_TEST_CLUSTER", raising=False)
    words = ["--url", "http://127.0.0.1:9", "--key", "mq_key", "--home", str(tmp_path), "--device", "cuda:1"]
    ended = CliRunner().invoke(cli.host, words)
    assert (ended.exit_code, ended.output.splitlines()[-1]) == (1, f"Error: {said}")


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


class Insisting(SimpleNamespace):
    """On a GPU, as LTX's when it decodes: its own `torch.randn` gets the generator it was given."""

    components: ClassVar[dict[str, Any]] = {}
    device = "the GPU"

    def __call__(self, generator: Any) -> str:
        if generator.device == "cpu":
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        return str(generator.drawn)


class Generator(SimpleNamespace):
    made: ClassVar[list[str]] = []

    def __init__(self, device: str) -> None:
        super().__init__(device=device)
        self.made.append(device)

    def manual_seed(self, seed: int) -> "Generator":
        self.drawn = f"{seed} by {self.device}"
        return self


def test_a_class_that_insists_gets_a_generator_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "Generator", Generator)
    call = Call(arguments={}, seed=3, count=1)
    found = [built.run(Insisting(), call, on_step=lambda step: None) for _ in range(2)]
    assert found == ["3 by the GPU"] * 2
    assert Generator.made == ["cpu", "the GPU", "the GPU"], "and the second time at once"


def test_sounds_are_given_to_a_class_where_its_weights_are() -> None:
    class Hearing(SimpleNamespace):
        components: ClassVar[dict[str, Any]] = {}
        device = torch.device("meta")

        def __call__(self, generator: Any, **given: Any) -> list[str]:
            return [str(getattr(value, "device", value)) for value in given.values()]

    call = Call(arguments={"audio": torch.zeros(1, 2), "rate": 44_100}, seed=3, count=1)
    assert built._run(Hearing(), call, lambda step: None, "cpu") == ["meta", "44100"]


class Driver:
    """What CUDA would be asked to pin: address -> bytes."""

    def __init__(self) -> None:
        self.pinned: dict[int, int] = {}
        self.answers: list[int] = []  # first to last; then all is well
        self.latched = 0  # what the next kernel of the thread would be told
        self.calls = 0

    def cudaHostRegister(self, address: int, size_bytes: int, flags: int) -> int:
        self.calls += 1
        if answer := self.answers.pop(0) if self.answers else 0:
            self.latched = answer
        else:
            self.pinned[address] = size_bytes
        return answer

    def cudaHostUnregister(self, address: int) -> int:
        del self.pinned[address]
        return 0

    def launch(self, *args: Any, **kwargs: Any) -> None:
        if self.latched:
            self.latched = 0
            raise torch.AcceleratorError("CUDA error: out of memory")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: made)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "ones", made.launch)
    return made


def sent(device: Device, memory: torch.Tensor) -> torch.Tensor:
    """As the mover does before each chunk."""
    device.buffers.pin(memory.data_ptr(), memory.nbytes)
    return memory


def test_memory_for_a_gpu_is_pinned_at_its_own_size_and_once(driver: Driver) -> None:
    """Torch's own way takes 16 GiB for a model of 9, and never gives it back: budgets were passed."""
    device = Device("cuda:1")
    first = device.host_buffer(9 << 20)
    assert driver.pinned == {}, "not before anything is copied out of it"
    address = sent(device, first).data_ptr()
    assert driver.pinned == {address: 10 << 20}, "whole huge pages"
    first[-1] = 7
    del first
    again = sent(device, device.host_buffer(9 << 20))
    assert (again.data_ptr(), int(again[-1]), driver.calls) == (address, 7, 1)
    del again
    smaller = sent(device, device.host_buffer(6 << 20))
    assert driver.pinned == {smaller.data_ptr(): 6 << 20}, "what does not fit is unpinned and returned"
    del smaller
    device.buffers.give_back()
    assert driver.pinned == {}


def test_much_memory_is_pinned_in_parts_as_it_is_needed(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one call the driver would lock out every process of the machine for seconds, and refuse half a terabyte."""
    monkeypatch.setattr(buffers, "PIN_BYTES", 4 << 20)
    device = Device("cuda:1")
    memory = device.host_buffer(9 << 20)
    address = memory.data_ptr()
    sent(device, memory[5 << 20 : 6 << 20])
    assert driver.pinned == {address + (4 << 20): 4 << 20}
    sent(device, memory[7 << 20 :])
    sent(device, torch.zeros(10))
    assert driver.pinned == {address + (4 << 20): 4 << 20, address + (8 << 20): 2 << 20}
    del memory
    device.buffers.give_back()
    assert driver.pinned == {}


def test_no_copy_is_out_of_two_pinned_parts() -> None:
    assert buffers.PIN_BYTES % crossing.CHUNK_BYTES == 0


def test_memory_that_cannot_be_pinned_is_memory_that_lacks(driver: Driver) -> None:
    """And the next kernel of the thread does not fail of it."""
    driver.answers = [2]
    device = Device("cuda:1")
    memory = device.host_buffer(9 << 20)
    with pytest.raises(MemoryError, match="cannot be pinned") as raised:
        sent(device, memory)
    assert device.full_tier(raised.value) == "memory"
    assert (driver.pinned, driver.latched) == ({}, 0)
    sent(device, memory)
    assert driver.pinned == {memory.data_ptr(): 10 << 20}


def test_where_nothing_can_be_pinned_copies_are_only_slower(driver: Driver) -> None:
    driver.answers = [801]  # not supported
    device = Device("cuda:1")
    for _ in range(2):
        sent(device, device.host_buffer(9 << 20))
    device.buffers.give_back()
    assert (driver.pinned, driver.latched, driver.calls) == ({}, 0, 1)


@pytest.mark.parametrize(
    ("said", "settings"), [(None, ["expandable_segments:True"]), ("max_split_size_mb:64", [])]
)
def test_memory_of_a_gpu_is_not_cut_to_pieces(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, said: str | None, settings: list[str]
) -> None:
    """Unless an operator told torch how to keep it."""
    told: list[str] = []
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", told.append)
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    if said:
        monkeypatch.setenv("PYTORCH_ALLOC_CONF", said)
    Device("cuda:1")
    assert told == settings


@pytest.mark.parametrize(
    ("error", "tiers"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), ("device", "device")),
        (torch.AcceleratorError("CUDA error: out of memory"), ("device", "device")),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), ("device", "device")),
        (MemoryError(), ("device", "memory")),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ("device", "memory")),
        (RuntimeError("shapes do not fit"), (None, None)),
        (ValueError("can't allocate memory"), (None, None)),
    ],
)
def test_which_memory_is_full(error: Exception, tiers: tuple[str | None, str | None]) -> None:
    """On a CPU there is one; elsewhere what leaves the device makes no room on the host."""
    found = (Device("cpu").full_tier(error), Device(accelerator=Pretend()).full_tier(error))
    assert found == tiers


def test_hosts_of_several_gpus_share_the_machines_memory_and_disk(tmp_path: Path) -> None:
    device = Device(accelerator=Pretend(capacity_bytes=1000))
    memory_bytes = Device("cpu").free_bytes()
    alone = host.budgets_for(
        device, tmp_path, Settings(home=tmp_path, disk_budget_bytes=1000), stored_bytes=0
    )
    shared = Settings(home=tmp_path, hosts_here=2, disk_budget_bytes=1000, memory_budget_bytes=500)
    assert (alone["disk"], alone["device"], 0.55 < alone["memory"] / memory_bytes < 0.65) == (900, 850, True)
    assert host.budgets_for(device, tmp_path, shared, stored_bytes=0) == {
        "disk": 450, "memory": 250, "device": 850
    }  # fmt: skip


def test_copies_go_by_the_movers_stream_and_kernels_by_the_callers(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CUDA is told, in order."""
    told: list[Any] = []

    @contextlib.contextmanager
    def stream(chosen: str) -> Iterator[None]:
        told.append(f"on {chosen}")
        yield
        told.append("back")

    class Event(SimpleNamespace):
        def record(self) -> None:
            told.append(("marked", self.blocking))

        def wait(self) -> None:
            told.append("stream waits")

        def synchronize(self) -> None:
            told.append("thread waits")

    real = torch.Tensor.copy_

    def copy(target: torch.Tensor, source: torch.Tensor, *, non_blocking: bool) -> torch.Tensor:
        told.append((target.numel(), non_blocking))
        return real(target, source)

    def room(cuda: accelerator.Cuda, size_bytes: int) -> torch.Tensor:
        told.append(f"{size_bytes} bytes")
        return torch.zeros(size_bytes, dtype=torch.uint8)

    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"the mover's of {device}")
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    monkeypatch.setattr(crossing, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(accelerator.Cuda, "room", room)
    lane = Device("cuda:1")._lane
    assert lane is not None
    over = Crossing(lane, 1500)
    over.finish(torch.zeros(1500, dtype=torch.uint8))
    assert over.mark is not None
    over.mark.wait()
    lane.settle()
    own = "on the mover's of cuda:1"
    assert told == [
        own, "1500 bytes", "back",
        own, (1000, True), ("marked", True), "back",
        own, (500, True), ("marked", True), "back",
        "stream waits", "thread waits", "thread waits",
    ]  # fmt: skip
