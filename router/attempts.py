"""One attempt in a dispatcher's hands: where it runs, what arrived of its outputs, and the outcome they make.

Drafts write to the file store (IO); the rest is pure. It refuses to decide what follows from a fault: `term` does.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from loaders.protocol import MAX_PREVIEW_BYTES, AttemptKey, Done, Failed, OutputChunk, Progress, Timings
from registry.tracing import NO_SPAN, Span
from router.files import Draft, FileStore
from router.requests import Failure, LogLine, Outcome, State, Status, StoredFile
from router.rows import Entry
from router.waiting import Work

NO_TIMINGS = Timings()


class DamagedOutputError(Exception):
    """An output is not what the host said it sent; another attempt may do better."""


@dataclass(slots=True, eq=False)
class Attempt:
    """`sent` once its row is committed and its host knows of it; what ends it before that is remembered."""

    entry: Entry
    key: AttemptKey
    host_id: str
    work: Work
    run_seconds: float  # expected
    assigned_at: float  # unix seconds
    booked_seconds: float = 0.0  # of its organization's share, until it is known what it took
    sent: bool = False
    lost: bool = False  # its host left before it was sent
    cancelled: bool = False  # its row is final already
    early: Done | Failed | None = None  # reported before an adoption was committed
    phase: Literal["loading", "running"] | None = None
    began_at: float | None = None  # its host's device, unix seconds
    step: int | None = None
    steps: int | None = None
    preview: bytes = b""
    span: Span = NO_SPAN  # until its outcome is stored
    drafts: dict[int, Draft] = field(default_factory=dict)
    unkept: OSError | None = None  # why its outputs cannot be stored here
    position: int | None = None  # in the queue of the partner that has it
    logs: tuple[LogLine, ...] = ()

    def status(self) -> Status:
        return Status(
            request=self.entry.request,
            state=State.RUNNING if self.position is None else State.QUEUED,
            queue_position=self.position,
            logs=self.logs,
            phase=self.phase,
            step=self.step,
            steps=self.steps,
            preview=self.preview,
            attempt=self.key.number,
            started_at=datetime.fromtimestamp(self.assigned_at, UTC),
        )

    def advance(self, progress: Progress) -> None:
        self.step, self.steps = progress.step, progress.steps
        if 0 < len(progress.preview) <= MAX_PREVIEW_BYTES:
            self.preview = progress.preview

    def receive(self, chunk: OutputChunk, store: FileStore) -> None:
        """A full disk is remembered until the outcome: the link and what else its host runs go on."""
        if self.unkept is not None:
            return
        try:
            draft = self.drafts.get(chunk.index)
            if draft is None:
                draft = self.drafts[chunk.index] = store.draft()
            draft.write(chunk.data)
        except OSError as error:
            self.discard()
            self.unkept = error

    def device_seconds(self, now: float) -> float:
        return 0.0 if self.began_at is None else max(0.0, now - self.began_at)

    def discard(self) -> None:
        for draft in self.drafts.values():
            draft.discard()
        self.drafts.clear()
        self.unkept = None

    def succeed(self, done: Done, now: float) -> Outcome:
        """Gives the outputs their ids. Raises `DamagedOutputError` before any of them is kept, and `OSError`."""
        if self.unkept is not None:
            raise self.unkept
        for output in done.outputs:
            draft = self.drafts.get(output.index)
            if draft is None or (draft.size_bytes, draft.sha256) != (output.size_bytes, output.sha256):
                raise DamagedOutputError(f"output {output.index} is not what the host said it sent")
        names = [name for name in StoredFile.__struct_fields__ if name != "id"]
        files = tuple(
            StoredFile(
                id=self.drafts[output.index].keep(output.content_type, now),
                **{name: getattr(output, name) for name in names},
            )
            for output in done.outputs
        )
        return self.outcome(State.SUCCEEDED, done.timings, files=files, result=done.result, how=done.how)

    def fail(self, failure: Failure, timings: Timings = NO_TIMINGS) -> Outcome:
        state = State.CANCELLED if failure.kind == "cancelled" else State.FAILED
        return self.outcome(state, timings, failure=failure)

    def outcome(self, state: State, timings: Timings, **fields: Any) -> Outcome:
        waited = self.assigned_at - self.entry.request.created_at.timestamp()
        outcome = Outcome(
            state=state,
            wait_seconds=max(0.0, waited) + timings.wait,
            load_seconds=timings.load,
            run_seconds=timings.run,
            host_id=self.host_id,
            attempt=self.key.number,
            logs=self.logs,
        )
        return msgspec.structs.replace(outcome, **fields)


def failure_of(report: Failed) -> Failure:
    """Without NUL characters, which Postgres does not store."""
    return Failure(
        kind=report.kind,
        error=report.error.replace("\0", ""),
        message=report.message.replace("\0", ""),
        location=report.location,
    )


def not_stored(error: OSError) -> Failure:
    """The outputs were made, and there is no place for them."""
    message = f"its outputs could not be stored: {error.strerror or error}"
    return Failure(kind="host", error="not_stored", message=message)


def set_aside(faults: int, reason: str) -> Failure:
    """Why a request is not tried again."""
    message = f"set aside after {faults} hosts failed while they ran it; the last: {reason}"
    return Failure(kind="host", error="too_many_host_faults", message=message)
