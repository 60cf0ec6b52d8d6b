"""One run on the device: bind the weights, merge the LoRAs, run, encode, and let go again.

Called on the device thread. It leaves nothing behind: modules are unbound, schedulers were copies, merged weights
are the shelf's to evict. Out of memory is answered once by evicting everything idle and trying again.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from loaders import adapters, protocol
from loaders.assembly import Ready
from loaders.device import Device
from loaders.errors import CancelledError, LoaderError, OutOfMemoryError
from loaders.layout import ALIGNMENT_BYTES
from loaders.pipelines import arguments, built, outputs
from loaders.protocol import AttemptKey
from loaders.residency import Item, Shelf
from registry.catalog import Digest, digest_of

PROGRESS_SECONDS = 0.1  # between two reports of progress

Report = Callable[[protocol.Progress], None]


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """A run that succeeded, with its outputs."""

    done: protocol.Done
    outputs: tuple[bytes, ...]

    @property
    def attempt(self) -> AttemptKey:
        return self.done.attempt


class Job:
    """One assignment on its way through the engine. Each field is written by one thread at a time."""

    def __init__(self, *, assign: protocol.Assign, submitted_at: float) -> None:
        self.assign = assign
        self.submitted_at = submitted_at
        self.cancelled = threading.Event()
        self.returned = False
        self.ready: Ready | None = None
        self.defaults: Mapping[str, Any] = {}
        self.items: tuple[Item, ...] = ()
        self.scales: tuple[float, ...] = ()
        self.payloads: list[Any] = []
        self.ready_at: float | None = None
        self.started_at: float | None = None

    @property
    def attempt(self) -> AttemptKey:
        return self.assign.attempt

    def check_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise CancelledError("the request was cancelled")


def run(job: Job, shelf: Shelf, device: Device, *, idle_since: float, report: Report) -> Finished:
    """Raises `LoaderError`s, and whatever the pipeline itself raises."""
    job.check_cancelled()
    pipeline = _ready(job).pipeline
    call = arguments.prepare(pipeline.__class__.__call__, job.assign.input, job.defaults)
    with _bound(job, shelf):
        begun = time.monotonic()
        result = _twice_when_full(
            lambda: built.run(pipeline, call, on_step=_watch(job, report)), shelf, device
        )
        ran = time.monotonic()
    encoded = outputs.encode(result)
    timings = _timings(job, idle_since, run=ran - begun, encode=time.monotonic() - ran)
    done = protocol.Done(
        attempt=job.attempt,
        outputs=tuple(output.file for output in encoded),
        result=_answers(job, call, result, len(encoded)),
        timings=timings,
    )
    return Finished(done=done, outputs=tuple(output.data for output in encoded))


def failure(job: Job, error: Exception, *, idle_since: float) -> protocol.Failed:
    """What the router is told. An error that nobody foresaw is the model's own: it would come again elsewhere."""
    timings = _timings(job, idle_since, run=0.0, encode=0.0)
    if isinstance(error, LoaderError):
        return protocol.Failed(
            attempt=job.attempt,
            kind=error.kind,
            error=error.name,
            message=str(error),
            location=error.location,
            timings=timings,
        )
    return protocol.Failed(
        attempt=job.attempt,
        kind="host" if isinstance(error, OSError) else "model",
        error="pipeline_failed",
        message=f"{type(error).__name__}: {error}",
        timings=timings,
    )


@contextmanager
def _bound(job: Job, shelf: Shelf) -> Iterator[None]:
    """The version's weights in its modules, LoRAs merged. Afterwards the modules hold nothing."""
    ready = _ready(job)
    components = ready.manifest.components
    payloads = {component.name: job.payloads[i] for i, component in enumerate(components)}
    loras = job.payloads[len(components) :]
    slots = ready.built.slots
    merged: Digest | None = None
    try:
        for role, payload in payloads.items():
            slots[role].point(payload.views)
        if loras:
            merged = _merge(job, shelf, payloads, loras)
        yield
    finally:
        for role in payloads:
            slots[role].unbind()
        if merged is not None:
            shelf.release([merged])


def _merge(job: Job, shelf: Shelf, payloads: Mapping[str, Any], loras: Sequence[adapters.Lora]) -> Digest:
    """Points the touched slots at merged copies, made now or kept from an earlier run; the digest they are held by."""
    count = len(payloads)
    digests = [item.digest for item in job.items]
    uses = sorted(zip(digests[count:], job.scales, loras, strict=True), key=lambda use: use[:2])
    touched = adapters.touched(loras)
    originals = {
        (role, name): payloads[role].views[name] for role, names in touched.items() for name in names
    }
    digest = digest_of(
        {
            "merged": [digests[i] for i, role in enumerate(payloads) if role in touched],
            "adapters": [[adapter, scale] for adapter, scale, _ in uses],
        }
    )
    size_bytes = sum(-(-t.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for t in originals.values())
    views = shelf.hold(digest, size_bytes, lambda: adapters.merged(originals, [(u[2], u[1]) for u in uses]))
    for role, names in touched.items():
        _ready(job).built.slots[role].point({name: views[role, name] for name in names})
    return digest


def _ready(job: Job) -> Ready:
    assert job.ready is not None, "the mover thread prepares a job before the device thread gets it"
    return job.ready


def _twice_when_full(attempt: Callable[[], Any], shelf: Shelf, device: Device) -> Any:
    try:
        return attempt()
    except Exception as error:
        if not device.is_out_of_memory(error):
            raise
    freed = shelf.evict_idle()
    device.give_back()
    try:
        return attempt()
    except Exception as error:
        if device.is_out_of_memory(error):
            raise OutOfMemoryError(f"{error}; {freed} bytes had been freed before trying again") from error
        raise


def _watch(job: Job, report: Report) -> built.OnStep:
    last = float("-inf")

    def on_step(step: int, steps: int) -> None:
        nonlocal last
        job.check_cancelled()
        now = time.monotonic()
        if step == steps or now - last >= PROGRESS_SECONDS:
            last = now
            report(protocol.Progress(attempt=job.attempt, step=step, steps=steps))

    return on_step


def _answers(job: Job, call: arguments.Call, result: Any, count: int) -> dict[str, Any]:
    flagged = getattr(result, "nsfw_content_detected", None)
    return {
        "seed": call.seed,
        "prompt": job.assign.input.get("prompt", ""),
        "has_nsfw_concepts": [bool(flag) for flag in flagged] if flagged else [False] * count,
    }


def _timings(job: Job, idle_since: float, *, run: float, encode: float) -> protocol.Timings:
    free_at = max(idle_since, job.submitted_at)
    began_at = job.started_at if job.started_at is not None else time.monotonic()
    return protocol.Timings(
        wait=free_at - job.submitted_at, load=max(0.0, began_at - free_at), run=run, encode=encode
    )
