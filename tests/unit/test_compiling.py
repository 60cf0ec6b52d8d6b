"""Compiled blocks: weights and LoRAs swap under them, the verdict is kept, and only one's own pool's code is believed."""

import contextlib
import errno
import http.server
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from loaders import artefacts, deltas, kernels
from loaders.artefacts import Artefacts, Parcel, Verdict
from loaders.compiling import Compiler, Pair, is_settled, judge
from loaders.device import Device
from loaders.errors import OutOfMemoryError
from loaders.peers import BlobServer
from loaders.pipelines import streamed
from loaders.pipelines.blocks import Blocks
from registry.catalog import Digest
from tests import architectures

BACKEND = "aot_eager"  # traces and guards as the real one does, without a C++ compiler
ARCHITECTURE = Digest("sha256:" + "a" * 64)


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(16, 16)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(self.inner(value)) + value


class Denoiser(torch.nn.Module):
    _repeated_blocks = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(Block() for _ in range(3))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            value = layer(value)
        return value


@pytest.fixture
def denoiser() -> Denoiser:
    torch._dynamo.reset()
    torch.manual_seed(0)
    return Denoiser().eval().requires_grad_(requires_grad=False)


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def updates(seed: int, dtype: torch.dtype, rank: int = 8) -> dict[streamed.Place, streamed.Update]:
    generator = torch.Generator().manual_seed(seed)
    return {
        ("denoiser", f"layers.{number}.inner.weight"): streamed.Update(
            torch.randn(rank, 16, generator=generator),
            torch.randn(16, rank, generator=generator),
            torch.empty(16, 16, dtype=dtype),
            torch.empty(16, 16),
        )
        for number in range(3)
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_and_loras_swap_under_compiled_code(denoiser: Denoiser, dtype: torch.dtype) -> None:
    value, blocks = torch.ones(2, 16, dtype=dtype), Blocks([denoiser.to(dtype)], backend=BACKEND)
    roots = {"denoiser": denoiser}
    plain = denoiser(value)
    with blocks.compiled():
        base = denoiser(value)
        with streamed.streaming(roots, updates(1, dtype)):
            first = denoiser(value)
        made = graphs()
        with streamed.streaming(roots, updates(2, dtype)):
            second = denoiser(value)
        kept = [parameter.data for parameter in denoiser.parameters()]
        for place, update in updates(1, dtype).items():
            weight = denoiser.get_parameter(place[1])
            weight.data = deltas.add(weight.data, update.down, update.up, torch.empty_like(weight.data))
        merged = denoiser(value)
        for parameter, data in zip(denoiser.parameters(), kept, strict=True):
            parameter.data = data
        again = denoiser(value)
        assert graphs() == made
    assert torch.allclose(base, plain, atol=1e-2 if dtype == torch.bfloat16 else 1e-6)
    assert torch.equal(first, merged)
    assert not torch.allclose(first, second)
    assert torch.equal(again, base)
    assert torch.equal(denoiser(value), plain)


class Host:
    """A compiler over one tiny denoiser; each run's seconds are told, not measured."""

    def __init__(self, folder: Path, denoiser: Denoiser, mode: Any = "auto", key: str | None = "key") -> None:
        self.artefacts = Artefacts(folder, Device("cpu"), key)
        self.compiler = Compiler(mode, self.artefacts, backend=BACKEND)
        self.built: Any = SimpleNamespace(slots={"denoiser": SimpleNamespace(module=denoiser)})
        self.ways: list[str] = []

    def run(self, plain: Sequence[float] = (), compiled: Sequence[float] = ()) -> str:
        """Which of its runs it took: `plain` or `compiled`. Given: what its runs take, the first of each uncounted."""
        left = {"plain": [9.0, *plain], "compiled": [9.0, *compiled]}

        def attempt() -> tuple[str, float]:
            block = self.built.slots["denoiser"].module.layers[0]
            way = "plain" if block._compiled_call_impl is None else "compiled"
            self.built.slots["denoiser"].module(torch.ones(2, 16))
            self.ways.append(way)
            return way, left[way].pop(0)

        return self.compiler.run(ARCHITECTURE, self.built, attempt)[0]


def test_off_compiles_nothing(tmp_path: Path, denoiser: Denoiser) -> None:
    host = Host(tmp_path, denoiser, "off")
    assert (host.run(), host.ways, host.compiler.said(ARCHITECTURE)) == ("plain", ["plain"], {})


def test_the_first_request_finds_out_and_the_verdict_stays(tmp_path: Path, denoiser: Denoiser) -> None:
    host = Host(tmp_path, denoiser)
    assert [host.run([2.0] * 3, [1.0] * 3), host.run()] == ["compiled", "compiled"]
    pairs = ["compiled", "plain", "plain", "compiled", "compiled", "plain"]
    assert host.ways == ["plain", "compiled", *pairs, "compiled"]
    said = "compiled runs were 2.00 times as fast, by 3 pairs"
    assert host.compiler.said(ARCHITECTURE) == {"compiled": said}
    assert denoiser.layers[0]._compiled_call_impl is None
    restarted = Host(tmp_path, denoiser)
    assert (restarted.run(), restarted.ways) == ("compiled", ["compiled"])


def test_what_does_not_pay_stays_off(tmp_path: Path, denoiser: Denoiser) -> None:
    host = Host(tmp_path, denoiser)
    assert [host.run([1.0] * 3, [0.99] * 3), host.run()] == ["plain", "plain"]
    assert Host(tmp_path, denoiser).run() == "plain"
    assert Host(tmp_path, denoiser, "on").run() == "compiled"


def test_one_slow_run_decides_nothing(tmp_path: Path, denoiser: Denoiser) -> None:
    host = Host(tmp_path, denoiser)
    assert host.run([9.0, *[1.0] * 8], [1.0] * 9) == "plain"
    said = "compiled runs were 1.00 times as fast, by 9 pairs, which does not pay"
    assert host.compiler.said(ARCHITECTURE) == {"compiled": said}


def test_runs_that_differ_by_chance_speak_against_it() -> None:
    chance = [(1.1, 1.0), (1.1, 1.0), (1.0, 1.0)] * 3
    assert (judge(chance).is_compiled, judge([*chance[:7], *[(1.1, 1.0)] * 2]).is_compiled) == (False, True)


def test_code_that_was_only_asked_for_is_no_verdict(tmp_path: Path, denoiser: Denoiser) -> None:
    assert Host(tmp_path, denoiser, "on").run() == "compiled"
    host = Host(tmp_path, denoiser, "auto")
    assert (host.run([1.0] * 3, [2.0] * 3), len(host.ways)) == ("plain", 8)


def test_a_failure_that_is_not_the_compilers_finds_nothing_out(tmp_path: Path, denoiser: Denoiser) -> None:
    host = Host(tmp_path, denoiser)
    with pytest.raises(IndexError):  # the first run that counts fails
        host.run()
    assert denoiser.layers[0]._compiled_call_impl is None
    assert host.run([2.0] * 3, [1.0] * 3) == "compiled"


@pytest.mark.parametrize(
    ("word", "pairs", "expected"),
    [
        ("nothing was compared", [], False),
        ("too few to be sure", [(2.0, 1.0)] * 2, False),
        ("they agree", [(2.0, 1.0)] * 3, True),
        ("they disagree", [(2.0, 1.0), (2.0, 1.0), (1.0, 1.0)], False),
        ("they will never agree", [(2.0, 1.0), (1.0, 1.0), (2.0, 1.0)] * 3, True),
        ("the caller has waited enough", [(20.0, 10.0)], True),
    ],
)
def test_ways_are_compared_until_it_is_clear(word: str, pairs: list[Pair], expected: bool) -> None:  # noqa: FBT001
    assert is_settled(pairs) == expected, word


def test_a_verdict_says_what_was_measured() -> None:
    assert judge([(1.0, 2.0), (9.0, 2.0), (1.0, 2.0)]) == Verdict(
        is_compiled=False,
        reason="compiled runs were 0.50 times as fast, by 3 pairs, which does not pay",
        seconds={"plain": 1.0, "compiled": 2.0},
    )


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("flux", {"FluxTransformerBlock": 1, "FluxSingleTransformerBlock": 1}),  # diffusers says so
        ("sd3", {"JointTransformerBlock": 2}),
        ("pixart", {"BasicTransformerBlock": 2}),
        ("cogvideox", {"CogVideoXBlock": 1}),
    ],
)
def test_blocks_are_the_denoisers_alone(family: str, expected: dict[str, int]) -> None:
    parts = architectures.FAMILIES[family]().components.values()
    found = Blocks([part for part in parts if isinstance(part, torch.nn.Module)]).found
    assert Counter(type(block).__name__ for block in found) == expected


def test_what_cannot_be_compiled_runs_as_it_is_though_it_was_asked_for(
    tmp_path: Path, denoiser: Denoiser
) -> None:
    host = Host(tmp_path, denoiser, "on")
    host.compiler._blocks[ARCHITECTURE] = Blocks([denoiser], backend="no such backend")
    assert [host.run(), host.run([1.0])] == ["plain", "plain"]
    assert host.ways == ["plain", "plain"]
    said = host.compiler.said(ARCHITECTURE)["compiled"]
    assert said.endswith("in compiling"), said


@pytest.fixture
def parcels(tmp_path: Path) -> Callable[..., Artefacts]:
    return lambda name, key="key": Artefacts(tmp_path / name, Device("cpu"), key)


def test_a_host_takes_compiled_code_of_its_own_pool_and_of_nobody_else(
    parcels: Callable[..., Artefacts],
) -> None:
    parcel = Parcel(Verdict(is_compiled=True, reason="it pays"), b"code")
    ours, theirs = parcels("ours"), parcels("theirs")
    theirs.save(ARCHITECTURE, parcel)
    server = BlobServer(theirs.locate, "key")
    try:
        assert ours.load(ARCHITECTURE) is None
        ours.know_peers([f"http://127.0.0.1:{server.port}"])
        assert ours.load(ARCHITECTURE) == parcel
    finally:
        server.close()
    assert parcels("ours").load(ARCHITECTURE) == parcel  # it is here now
    assert parcels("ours", "another key").load(ARCHITECTURE) is None
    path = ours.locate(ours.name(ARCHITECTURE))
    assert path is not None
    path.write_bytes(path.read_bytes()[:-1])
    assert parcels("ours").load(ARCHITECTURE) is None


def test_a_peer_that_drips_compiled_code_is_given_up(
    parcels: Callable[..., Artefacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device's thread waits for it, and every request with it."""
    monkeypatch.setattr(artefacts, "PEER_SECONDS", 0.3)
    over = threading.Event()

    class Dripping(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            with contextlib.suppress(OSError):
                while not over.wait(0.05):
                    self.wfile.write(b".")

        def log_message(self, *arguments: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dripping) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        ours = parcels("ours")
        ours.know_peers([f"http://127.0.0.1:{server.server_address[1]}"] * 2)
        found = queue.SimpleQueue[Parcel | None]()
        threading.Thread(target=lambda: found.put(ours.load(ARCHITECTURE)), daemon=True).start()
        try:
            assert found.get(timeout=20) is None
        finally:
            over.set()
            server.shutdown()


PROCESS = """
import json, sys
from pathlib import Path
import torch
from loaders.compiling import Compiler
from tests.unit.test_compiling import ARCHITECTURE, Denoiser, Host

torch.manual_seed(0)
host = Host(Path(sys.argv[1]), Denoiser().eval().requires_grad_(requires_grad=False), "on")
host.compiler = Compiler("on", host.artefacts)
value = host.compiler.run(
    ARCHITECTURE, host.built, lambda: (host.built.slots["denoiser"].module(torch.ones(2, 16)), 1.0)
)[0]
print(json.dumps(value.tolist()))
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_second_process_runs_the_firsts_code_and_compiles_none(tmp_path: Path) -> None:
    """By the real backend; each process with a cache folder of its own, and a compiler that writes down its work."""
    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> "$MADE"\nexec {shutil.which("g++")} "$@"\n')
    compiler.chmod(0o755)

    def process(name: str) -> tuple[str, int]:
        environment = {
            **os.environ, "CXX": str(compiler), "MADE": str(tmp_path / f"{name}.log"),
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / name), "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0", "PYTHONPATH": str(Path(__file__).parents[2]),
        }  # fmt: skip
        command = [sys.executable, "-c", PROCESS, str(tmp_path / "artefacts")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        log = (tmp_path / f"{name}.log").read_text().splitlines()
        return done.stdout.splitlines()[-1], sum(".main.so" in line for line in log)

    first, made = process("first")
    assert made > 0
    assert process("second") == (first, 0)


def test_libraries_are_written_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    kernels.install({"../out.so": b"x", f"{tmp_path}/out.so": b"x", "ab/in.so": b"x", "ab/in.py": b"x"})
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == ["cache/ab/in.so"]
    kernels.install({"ab/in.so": b"y"})
    assert (tmp_path / "cache/ab/in.so").read_bytes() == b"x"


def test_a_disk_without_room_for_the_code_fails_no_request(
    tmp_path: Path, denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert Host(tmp_path, denoiser).run([2.0] * 3, [1.0] * 3) == "compiled"


def test_code_that_another_release_wrote_is_made_again(tmp_path: Path, denoiser: Denoiser) -> None:
    host = Host(tmp_path, denoiser)
    name = host.artefacts.name(ARCHITECTURE)
    body = msgspec.msgpack.encode({"verdict": "yes"})
    host.artefacts._write(name, host.artefacts._signature(name, body) + body)
    assert host.run([2.0] * 3, [1.0] * 3) == "compiled"


def test_a_device_too_full_for_compiled_runs_serves_plain_ones(tmp_path: Path, denoiser: Denoiser) -> None:
    host = Host(tmp_path, denoiser)

    def attempt() -> tuple[str, float]:
        if denoiser.layers[0]._compiled_call_impl is not None:
            raise OutOfMemoryError("full")
        return "plain", 1.0

    made = [host.compiler.run(ARCHITECTURE, host.built, attempt) for _ in range(2)]
    assert made == [("plain", 1.0)] * 2
