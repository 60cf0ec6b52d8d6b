"""One run on the device: bind the weights, merge the LoRAs, run, encode, and let go again.

Called on the device thread. It leaves nothing behind: modules are unbound, schedulers were copies, merged weights
are the shelf's to evict. Out of memory is answered once by evicting everything idle and trying again.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import msgspec

from loaders import protocol
from loaders.assembly import Ready
from loaders.compiling import Compiler
from loaders.device import Device
from loaders.errors import DiskFullError, InputError, LoaderError, OutOfMemoryError
from loaders.headroom import Headroom
from loaders.headroom import pixels as pixels_of
from loaders.intake import Intake
from loaders.jobs import Job
from loaders.partial import NO_ROOM
from loaders.pipelines import arguments, built, narrow, outputs, tuned
from loaders.protocol import AttemptKey
from loaders.residency import Shelf
from loaders.sketches import Sketches
from loaders.sketching import Sketching

MAX_MESSAGE = 4096  # characters
PROGRESS_SECONDS = 0.1  # between two reports of progress

T = TypeVar("T")
Report = Callable[[protocol.Progress], None]


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """A run that succeeded, with its outputs."""

    done: protocol.Done
    outputs: tuple[bytes, ...]

    @property
    def attempt(self) -> AttemptKey:
        return self.done.attempt


def run(job: Job, shelf: Shelf, device: Device, **circumstances: Any) -> Finished:
    """Once more with torch's own attention where a kernel that `auto` chose refuses: it may take no masks, or no such heads.

    Nobody remembers that: what a host has met must not change another request's bits. Raises as `_run` does.
    """
    try:
        return _run(job, shelf, device, **circumstances)
    except (ValueError, RuntimeError):
        if not _taken(job).is_attention_ours:
            raise
        job.intake = _taken(job).with_torchs_attention()
    return _run(job, shelf, device, **circumstances)


def _run(
    job: Job,
    shelf: Shelf,
    device: Device,
    *,
    idle_since: float,
    report: Report,
    compiler: Compiler,
    sketching: Sketching,
    measured: Callable[[], AbstractContextManager[None]],
) -> Finished:
    """`measured` is around the pipeline's own work. Raises `LoaderError`s, and whatever the pipeline itself raises."""
    job.check_cancelled()
    taken = _taken(job)
    call, pipeline = taken.call, taken.pipeline

    def attempt() -> tuple[Any, float]:
        with _bound(job, shelf, device), tuned.applied(pipeline.components, taken.tuning), measured():
            begun = time.monotonic()
            return built.run(pipeline, call, on_step=_watch(job, report, sketching)), time.monotonic() - begun

    def retried() -> tuple[Any, float]:
        return twice_when_full(attempt, shelf, device)

    ready = _ready(job)
    architecture = ready.manifest.architecture
    if taken.tuning.changes_layers:
        result, run_seconds = retried()
    else:
        result, run_seconds = compiler.run(architecture, ready.built, retried)
    sketching.learn(result)
    return _finished(job, result, run_seconds, idle_since, compiler.said(architecture))


def _finished(
    job: Job, result: Any, run_seconds: float, idle_since: float, compiled: Mapping[str, str]
) -> Finished:
    taken = _taken(job)
    begun = time.monotonic()
    encoded = outputs.encode(result, taken.style)
    timings = _timings(job, idle_since, run=run_seconds, encode=time.monotonic() - begun)
    done = protocol.Done(
        attempt=job.attempt,
        outputs=tuple(output.file for output in encoded),
        result=_answers(job, taken.call, result, len(encoded)),
        timings=timings,
        how={**_how(job), **compiled},
    )
    return Finished(done=done, outputs=tuple(output.data for output in encoded))


def failure(job: Job, error: BaseException, *, idle_since: float) -> protocol.Failed:
    """What the router is told. An error that nobody foresaw is the model's own: it would come again elsewhere."""
    timings = _timings(job, idle_since, run=0.0, encode=0.0)
    error = _named(error)
    if isinstance(error, LoaderError):
        return protocol.Failed(
            attempt=job.attempt,
            kind=error.kind,
            error=error.name,
            message=_sayable(str(error)),
            location=error.location,
            timings=timings,
        )
    return protocol.Failed(
        attempt=job.attempt,
        kind="host" if isinstance(error, OSError) else "model",
        error="pipeline_failed",
        message=_sayable(f"{type(error).__name__}: {error}"),
        timings=timings,
    )


def _named(error: BaseException) -> BaseException:
    """What a disk or memory that is full makes any library raise: a clip's temporary file, a picture to decode."""
    if isinstance(error, MemoryError):
        return OutOfMemoryError(f"this host has no memory left: {error}")
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return DiskFullError(f"no room on this host's disk: {error}")
    return error


def _sayable(text: str) -> str:
    """As it can travel: names of files and of strangers' weights may hold half characters, and end nowhere."""
    return text[:MAX_MESSAGE].encode(errors="backslashreplace").decode()


@contextmanager
def _bound(job: Job, shelf: Shelf, device: Device) -> Iterator[None]:
    """The version's weights in its modules, with its LoRAs applied. Afterwards the modules hold nothing.

    However it ends, nothing on the device reads the weights any more: they may be let go of, and their room be used.
    """
    ready = _ready(job)
    slots = ready.built.slots
    roles = [component.name for component in ready.manifest.components]
    with contextlib.ExitStack() as stack:
        for role in roles:
            stack.callback(slots[role].unbind)
        stack.callback(device.wait)
        for payload in job.payloads:
            device.expect(payload.arena)
        for role, payload in zip(roles, job.payloads, strict=False):
            slots[role].point(payload.views)
        computed = {
            role: item.computed for role, item in zip(roles, ready.components, strict=True) if item.storage
        }
        with (
            job.lora.applied(shelf, device) if job.lora is not None else contextlib.nullcontext(),
            narrow.widening(slots, computed),
        ):
            yield


def sketching(job: Job, known: Sketches) -> Sketching:
    """Of its previews, if it wants any."""
    taken, manifest = _taken(job), _ready(job).manifest
    wanted = job.assign.input.get(protocol.PREVIEWS) is True
    return Sketching(known, manifest, taken.pipeline, taken.call, wanted=wanted)


def weight_bytes(job: Job) -> int:
    """Of the version alone: how many cores a run gets must not depend on anything that could change its bits."""
    return _ready(job).manifest.size_bytes


def applied(uses: Sequence[protocol.AdapterUse]) -> list[protocol.AdapterUse]:
    """Those that change something. Raises `InputError` for a scale that is no number."""
    if not all(math.isfinite(use.scale) for use in uses):
        raise InputError("a LoRA's scale has to be a finite number", "loras")
    return [use for use in uses if use.scale]


def headroom(job: Job, known: Headroom) -> int:
    """Bytes that the run is expected to take beside its weights."""
    ready, pixels = _ready(job), _pixels(job)
    return known.expected(ready.manifest.architecture, pixels, weight_bytes=ready.manifest.size_bytes)


def learn(job: Job, known: Headroom, peak_bytes: int) -> None:
    known.learn(_ready(job).manifest.architecture, _pixels(job), peak_bytes)


def _pixels(job: Job) -> int:
    call = _taken(job).call
    return pixels_of(call.arguments, call.count)


def _ready(job: Job) -> Ready:
    assert job.ready is not None, "the mover thread prepares a job before the device thread gets it"
    return job.ready


def _taken(job: Job) -> Intake:
    assert job.intake is not None, "the mover thread takes a job's input in"
    return job.intake


def twice_when_full(attempt: Callable[[], T], shelf: Shelf, device: Device) -> T:
    """Out of memory: everything idle leaves, then once more. Raises `OutOfMemoryError` when that does not help."""
    try:
        return attempt()
    except Exception as error:
        tier = device.full_tier(error)
        if tier is None:
            raise
    freed = shelf.evict_idle(tier)
    device.give_back()
    try:
        return attempt()
    except Exception as error:
        if device.full_tier(error):
            raise OutOfMemoryError(f"{error}; {freed} bytes had been freed before trying again") from error
        raise


def _watch(job: Job, report: Report, sketching: Sketching) -> built.OnStep:
    last = float("-inf")

    def on_step(step: built.Step) -> None:
        nonlocal last
        job.check_cancelled()
        preview = sketching.preview(step)
        now = time.monotonic()
        if preview or step.number == step.steps or now - last >= PROGRESS_SECONDS:
            last = now
            progress = protocol.Progress(
                attempt=job.attempt, step=step.number, steps=step.steps, preview=preview
            )
            report(progress)

    return on_step


def _answers(job: Job, call: arguments.Call, result: Any, count: int) -> dict[str, Any]:
    flagged = getattr(result, "nsfw_content_detected", None)
    return {
        "seed": call.seed,
        "prompt": job.assign.input.get("prompt", ""),
        "has_nsfw_concepts": [bool(flag) for flag in flagged] if flagged else [False] * count,
    }


def _how(job: Job) -> dict[str, str]:
    lora = {} if job.lora is None else {"lora": str(job.lora.choice)}
    storage = next((item.storage for item in _ready(job).components if item.storage), None)
    held = {} if storage is None else {"storage": storage}
    return {**lora, **held, **_taken(job).tuning.said()}


def _timings(job: Job, idle_since: float, *, run: float, encode: float) -> protocol.Timings:
    free_at = max(idle_since, job.submitted_at)
    began_at = job.started_at if job.started_at is not None else time.monotonic()
    return protocol.Timings(
        wait=free_at - job.submitted_at, load=max(0.0, began_at - free_at), run=run, encode=encode
    )
