"""An engine whose reports a test can wait for: describe, submit and hear the outcome in one call."""

import queue
from pathlib import Path
from typing import Any

from loaders import protocol
from loaders.compiling import Compiler
from loaders.device import Device
from loaders.engine import Engine, Event
from loaders.mover import Steps
from loaders.protocol import AdapterUse, AttemptKey
from loaders.running import Finished
from loaders.store import Store
from registry.catalog import AdapterManifest, Manifest

INPUT = {"prompt": "a cat", "seed": 3, "num_inference_steps": 2, "image_size": {"width": 64, "height": 64}}


class Bench:
    """An engine with its reports in a queue."""

    def __init__(
        self,
        home: Path,
        device_bytes: int,
        compiler: Compiler | None = None,
        *,
        disk_bytes: int = 1 << 40,
        memory_bytes: int = 1 << 30,
        store: Store | None = None,
        device: Device | None = None,
    ) -> None:
        """`memory_bytes` are for a `device` with memory of its own; without one it is the CPU."""
        device = device or Device("cpu")
        budgets: dict[protocol.Tier, int] = {"device": device_bytes, "disk": disk_bytes}
        if not device.is_cpu:
            budgets["memory"] = memory_bytes
        self.home = home
        self.defaults: dict[str, Any] = {}  # of the variants, as the catalogue would say them
        self.events: queue.Queue[Event] = queue.Queue()
        self.engine = Engine(
            home,
            device=device,
            store=store or Store(home),
            budgets=budgets,
            listener=self.events.put,
            compiler=compiler,
        )
        self._count = 0

    def submit(
        self, manifest: Manifest, adapters: dict[AdapterManifest, float] | None = None, **values: Any
    ) -> AttemptKey:
        self._count += 1
        described = protocol.DescribeVersion(
            digest=manifest.digest, manifest=manifest, defaults=self.defaults
        )
        self.engine.describe(described)
        for adapter in adapters or {}:
            self.engine.describe(protocol.DescribeAdapter(digest=adapter.digest, manifest=adapter))
        key = AttemptKey(f"request-{self._count}", 1)
        self.engine.submit(
            protocol.Assign(
                attempt=key,
                version=manifest.digest,
                adapters=tuple(AdapterUse(a.digest, scale) for a, scale in (adapters or {}).items()),
                input={**INPUT, **values},
            )
        )
        return key

    def outcome(self) -> Finished | protocol.Failed:
        while True:
            event = self.events.get(timeout=600)
            if isinstance(event, Finished | protocol.Failed):
                return event

    def picture(
        self, manifest: Manifest, adapters: dict[AdapterManifest, float] | None = None, **values: Any
    ) -> bytes:
        return self.run(manifest, adapters, **values).outputs[0]

    def run(
        self, manifest: Manifest, adapters: dict[AdapterManifest, float] | None = None, **values: Any
    ) -> Finished:
        self.submit(manifest, adapters, **values)
        outcome = self.outcome()
        assert isinstance(outcome, Finished), outcome
        return outcome


def in_place(steps: Steps) -> None:
    """Carries out an order on this thread, errands and all."""
    result: Any = None
    error: BaseException | None = None
    while True:
        try:
            errand = steps.send(result) if error is None else steps.throw(error)
        except StopIteration:
            return
        result = error = None
        try:
            result = errand.work()
        except BaseException as caught:  # noqa: BLE001 (handed to the steps)
            error = caught
