"""The loaders without a router: `with Loader() as loader: loader.run("path/or/repo", prompt="…")`.

IO: an engine of its own, described from what `finding` finds. Blocking, for programs and the command line; several
threads may use one, and their runs take turns on the device. A host process uses the engine itself.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from loaders import host, protocol
from loaders.artefacts import Artefacts
from loaders.carried import carried
from loaders.compiling import Compiler
from loaders.device import Device
from loaders.engine import Engine, Event
from loaders.errors import HostError, InputError, LoaderError
from loaders.fetch import Remote
from loaders.finding import Finding
from loaders.interest import Interest
from loaders.motion import Motion, OnMotion, Telling
from loaders.protocol import AdapterUse, AttemptKey
from loaders.retrieval import Retrieval
from loaders.running import Finished
from loaders.store import Store
from registry import logs
from registry.catalog import AdapterManifest, Digest, Manifest
from registry.settings import Settings

SUFFIXES = {
    "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "video/mp4": "mp4", "audio/wav": "wav",
}  # fmt: skip

Heard = queue.SimpleQueue[Event | Motion | None]  # of one run; None: the loader was closed


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One picture, clip or sound."""

    content_type: str
    sha256: str
    data: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    @property
    def suffix(self) -> str:
        return SUFFIXES.get(self.content_type, "bin")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run gave, and where its seconds went."""

    outputs: tuple[Output, ...]
    answers: dict[str, Any]
    how: dict[str, str]  # which way was chosen where there was a choice, and why
    load_seconds: float
    run_seconds: float


class FailedRunError(LoaderError):
    """A run failed; `failure` is the report a router would have got, and `name`, `kind` and `location` are its."""

    def __init__(self, failure: protocol.Failed) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.kind = failure.kind
        self.name = failure.error
        self.location = failure.location


class Loader:
    """One device, many models. Models are folders, Hub repositories or slugs of the catalogue file.

    `on_step` is told of each denoising step, `on_motion` of what is fetched, checked and read before; both on the
    thread that called `run`.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        catalog: Path | None = None,
        on_step: Callable[[int, int], None] | None = None,
        on_motion: OnMotion | None = None,
    ) -> None:
        """Raises `HostError`: no such device, or a home that cannot be used."""
        logs.adopt()
        self._settings = settings or Settings()
        self._on_step = on_step or (lambda step, steps: None)
        self._on_motion = on_motion or (lambda motion: None)
        home = self._settings.home / "loader"
        device = Device(self._settings.device)
        remote = Remote(
            hub_endpoint=self._settings.hub_endpoint,
            hub_token=self._settings.hub_token,
            allow_private=True,  # whoever calls this runs it
        )
        self._store = store = Store(home, remote=remote)
        budgets = host.budgets_for(device, home, self._settings, stored_bytes=store.used_bytes())
        host.limit(store, self._settings, budgets)
        self.engine = Engine(
            home,
            device=device,
            store=store,
            budgets=budgets,
            listener=self._hear,
            retrieval=Retrieval(allow_private=True),
            compiler=Compiler(self._settings.compile, Artefacts(home / "compiled", device)),
            order=self._settings.eviction_order,
        )
        self.engine.warm_up()
        self._finding = Finding(self._settings, catalog, home=home, digests=store.digests)
        self._runs: dict[AttemptKey, Heard] = {}
        self._lock = threading.Lock()
        self._count = 0
        self._is_closed = False

    def run(
        self, model: str | Path, *, loras: Sequence[tuple[str | Path, float]] = (), **values: Any
    ) -> Result:
        """Raises `FailedRunError`, and `LoaderError` when the model or a LoRA cannot be had.

        Whatever ends it early, an interrupt among others, also stops the run, at its next step.
        """
        given = carried(values)
        found = self.manifest(model)
        self.engine.describe(
            protocol.DescribeVersion(
                digest=found.digest, manifest=found, defaults=self._finding.defaults(str(model))
            )
        )
        uses = tuple(AdapterUse(self._described(lora, found), _number(scale)) for lora, scale in loras)
        with self._listening() as (attempt, heard):
            self.engine.submit(
                protocol.Assign(attempt=attempt, version=found.digest, adapters=uses, input=given),
                Interest(Telling(heard.put)),
            )
            return self._await(heard)

    def manifest(self, model: str | Path) -> Manifest:
        """Of a folder, a slug of the catalogue file, or a repository (`owner/repo`, `owner/repo@revision`)."""
        return self._finding.manifest(str(model), self._interest())

    def adapter(self, lora: str | Path, base: Manifest) -> AdapterManifest:
        """Of a file, a folder, a slug, or a repository (`owner/repo`, `owner/repo/file.safetensors`)."""
        return self._finding.adapter(str(lora), base, self._interest())

    def close(self) -> None:
        """Runs of other threads are cancelled."""
        with self._lock:
            self._is_closed = True
            runs = dict(self._runs)
        for attempt, heard in runs.items():
            heard.put(None)
            self.engine.cancel(attempt)
        self.engine.close()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _interest(self) -> Interest:
        return Interest(Telling(self._on_motion))

    def _described(self, lora: str | Path, base: Manifest) -> Digest:
        adapter = self.adapter(lora, base)
        self.engine.describe(protocol.DescribeAdapter(digest=adapter.digest, manifest=adapter))
        return adapter.digest

    @contextmanager
    def _listening(self) -> Iterator[tuple[AttemptKey, Heard]]:
        """A run's name, and what is heard of it."""
        heard: Heard = queue.SimpleQueue()
        with self._lock:
            if self._is_closed:
                raise HostError("this loader is closed")
            self._count += 1
            attempt = AttemptKey(f"local-{self._count}", 1)
            self._runs[attempt] = heard
        try:
            yield attempt, heard
        finally:
            self.engine.cancel(attempt)
            del self._runs[attempt]

    def _hear(self, event: Event) -> None:
        """From the engine's threads."""
        if not isinstance(event, protocol.Residency) and (heard := self._runs.get(event.attempt)):
            heard.put(event)

    def _await(self, heard: Heard) -> Result:
        while True:
            match heard.get():
                case None:
                    raise HostError("this loader was closed")
                case protocol.Progress(step=step, steps=steps):
                    self._on_step(step, steps)
                case Motion() as motion:
                    self._on_motion(motion)
                case protocol.Failed() as failure:
                    raise FailedRunError(failure)
                case Finished() as finished:
                    return _result(finished)


def _number(scale: float) -> float:
    try:
        return float(scale)
    except (TypeError, ValueError) as error:
        raise InputError(f"a LoRA's scale has to be a number, not {scale!r}", "loras") from error


def _result(finished: Finished) -> Result:
    outputs = tuple(
        Output(content_type=file.content_type, sha256=file.sha256, data=data)
        for file, data in zip(finished.done.outputs, finished.outputs, strict=True)
    )
    timings = finished.done.timings
    return Result(
        outputs=outputs,
        answers=dict(finished.done.result),
        how=dict(finished.done.how),
        load_seconds=timings.load,
        run_seconds=timings.run,
    )
