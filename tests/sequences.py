"""Random sequences on one engine: variants, LoRA sets, scales, cancels, prewarms, and faults in every IO step.

After each the books must balance, and every picture must equal the one that a fresh process makes of the same
request. Used by the tests with a few hundred steps' worth of patience and by `benchmarks/exactness.py` with 1,000.
"""

import contextlib
import errno
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from loaders import adapters, protocol, reader, store
from loaders.device import Device
from loaders.errors import SourceDownError, WeightsDamagedError
from loaders.pipelines import built, outputs
from loaders.running import Finished
from registry import folders
from registry.catalog import AdapterManifest, Manifest
from tests import architectures
from tests.bench import Bench

SIZE = {"width": 32, "height": 32}
SCALES = (1.0, 0.5, -0.75)
Request = tuple[int, tuple[tuple[int, float], ...], int]  # variant, (LoRA, scale)…, seed


class Zoo:
    """Four variants of one architecture, two of another, and LoRAs for each; made where they are not there yet."""

    def __init__(self, root: Path) -> None:
        self.variants: list[Manifest] = []
        self.loras: list[list[AdapterManifest]] = []
        for family, seeds in (("flux", (1, 2, 3, 4)), ("sd15", (1, 2))):
            made = [_once(root / f"{family}{seed}", family, seed) for seed in seeds]
            manifests = [folders.read_pipeline(folder) for folder in made]
            files = [
                _lora_once(root / f"{family}-lora{n}.safetensors", made[0], seed=n, rank=rank)
                for n, rank in enumerate((1, 4, 16))
            ]
            loras = [adapters.describe(file, architecture=manifests[0].architecture) for file in files]
            self.variants += manifests
            self.loras += [loras] * len(manifests)

    def random_request(self, rng: random.Random) -> Request:
        variant = rng.randrange(len(self.variants))
        chosen = rng.sample(range(3), rng.choice((0, 0, 1, 1, 2)))
        return variant, tuple((lora, rng.choice(SCALES)) for lora in chosen), rng.randrange(2)

    def submit(self, bench: Bench, request: Request, steps: int = 2) -> protocol.AttemptKey:
        variant, loras, seed = request
        uses = {self.loras[variant][lora]: scale for lora, scale in loras}
        return bench.submit(
            self.variants[variant], uses, seed=seed, num_inference_steps=steps, image_size=SIZE
        )


def _once(folder: Path, family: str, seed: int) -> Path:
    return folder if folder.exists() else architectures.write(folder, family, seed=seed)


def _lora_once(file: Path, base: Path, *, seed: int, rank: int) -> Path:
    return file if file.exists() else architectures.write_lora(file, base, seed=seed, rank=rank)


class Faults:
    """Makes the chosen step fail once, the next time it is reached."""

    def __init__(self) -> None:
        self.armed: str | None = None
        self.struck = 0

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name, (owner, attribute, error) in STEPS.items():
                stack.enter_context(self._wrapped(name, owner, attribute, error))
            yield

    @contextlib.contextmanager
    def _wrapped(
        self, name: str, owner: Any, attribute: str, error: Callable[[], Exception]
    ) -> Iterator[None]:
        real = getattr(owner, attribute)

        def flaky(*args: Any, **kwargs: Any) -> Any:
            if self.armed == name:
                self.armed = None
                self.struck += 1
                raise error()
            return real(*args, **kwargs)

        setattr(owner, attribute, flaky)
        try:
            yield
        finally:
            setattr(owner, attribute, real)


def _no_space() -> OSError:
    return OSError(errno.ENOSPC, "no space left on device")


STEPS: Mapping[str, tuple[Any, str, Callable[[], Exception]]] = {
    "fetch": (store.Store, "ensure", lambda: SourceDownError("injected")),
    "disk": (store.Store, "locate", _no_space),
    "header": (reader, "read_header", lambda: WeightsDamagedError("injected")),
    "read": (reader, "_fill", lambda: OSError(errno.EIO, "injected")),
    "parse": (adapters, "parse", lambda: MemoryError("injected")),
    "merge": (adapters, "merge", lambda: MemoryError("injected")),
    "run": (built, "run", lambda: RuntimeError("injected")),
    "full": (built, "run", lambda: MemoryError("injected")),
    "encode": (outputs, "encode", lambda: OSError(errno.EIO, "injected")),
}


def play(
    zoo: Zoo, bench: Bench, expected: Mapping[Request, bytes], *, steps: int, seed: int
) -> dict[str, int]:
    """Raises `AssertionError` at the first picture that differs. Returns what happened, counted."""
    rng = random.Random(seed)
    faults = Faults()
    counts = {"exact": 0, "cancelled": 0, "failed": 0}
    with faults.installed():
        for _ in range(steps):
            faults.armed = rng.choice([*STEPS, None, None, None, None, None, None])
            if rng.random() < 0.1:
                stage = protocol.Stage(version=rng.choice(zoo.variants).digest)
                bench.engine.stage(stage)
            burst = [zoo.random_request(rng) for _ in range(rng.choice((1, 1, 2, 3)))]
            keys = {zoo.submit(bench, request): request for request in burst}
            if rng.random() < 0.15:
                bench.engine.cancel(rng.choice(list(keys)))
            for _ in burst:
                outcome = bench.outcome()
                if isinstance(outcome, Finished):
                    assert outcome.outputs[0] == expected[keys[outcome.attempt]], keys[outcome.attempt]
                    counts["exact"] += 1
                else:
                    counts["cancelled" if outcome.kind == "cancelled" else "failed"] += 1
            bench.engine.check_integrity()
    return {**counts, "faults": faults.struck}


def requests(zoo: Zoo, *, steps: int, seed: int) -> list[Request]:
    """The different requests that `play` will make, in order of first appearance."""
    rng = random.Random(seed)
    wanted: list[Request] = []
    for _ in range(steps):
        rng.choice([*STEPS, None, None, None, None, None, None])
        if rng.random() < 0.1:
            rng.choice(zoo.variants)
        burst = [zoo.random_request(rng) for _ in range(rng.choice((1, 1, 2, 3)))]
        wanted += burst
        if rng.random() < 0.15:
            rng.choice(burst)
    return list(dict.fromkeys(wanted))


def references(
    zoo: Zoo, home: Path, *, steps: int, seed: int, device: Device | None = None
) -> dict[Request, bytes]:
    """What each request of that game gives on an engine that has room for everything and meets no faults."""
    found: dict[Request, bytes] = {}
    for request in requests(zoo, steps=steps, seed=seed):
        bench = Bench(home, 1 << 30, device=device)
        zoo.submit(bench, request)
        outcome = bench.outcome()
        assert isinstance(outcome, Finished), outcome
        found[request] = outcome.outputs[0]
        bench.engine.close()
    return found
