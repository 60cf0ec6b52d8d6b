"""A request's states and its legal moves; the records that the queue, the dispatcher and the doors share. Pure."""

import base64
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, NewType

import msgspec

from loaders.protocol import AdapterUse
from registry.catalog import Digest, OrganizationName, Slug
from router.errors import Issue

RequestId = NewType("RequestId", str)  # a UUIDv7: its time orders requests and names their partition
Priority = Literal["normal", "low"]


class State(StrEnum):
    """`queued → running → succeeded | failed | cancelled`; a host's fault sends `running` back to `queued`."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in FINAL


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
MOVES: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.FAILED, State.CANCELLED}),
    State.RUNNING: frozenset({State.QUEUED, State.SUCCEEDED, State.FAILED, State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}


class IllegalMoveError(Exception):
    """A request was asked to go where its state does not lead; the caller's view of it is old."""

    def __init__(self, before: State, after: State) -> None:
        super().__init__(f"a request cannot go from {before} to {after}")
        self.before = before
        self.after = after


def move(before: State, after: State) -> State:
    """Raises `IllegalMoveError`."""
    if after not in MOVES[before]:
        raise IllegalMoveError(before, after)
    return after


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the router's records."""


class Request(Record, frozen=True, kw_only=True):
    """One call, resolved and validated: the slug is bound to a version, LoRAs to digests, the seed is set."""

    id: RequestId
    organization: OrganizationName
    key_id: str
    slug: Slug
    version: Digest
    adapters: tuple[AdapterUse, ...] = ()
    input: Mapping[str, Any]  # complete: defaults filled in
    pool: str = "local"
    priority: Priority = "normal"
    created_at: datetime  # aware, by the database's clock
    start_deadline: datetime | None = None
    webhook_url: str | None = None
    door: Literal["fal", "replicate", "openai", "huggingface", "page", "cli"] = "fal"
    traceparent: str | None = None  # W3C; the spans of its life join this trace
    result_key: Digest | None = None  # the same request made again answers with the stored result


class Failure(Record, frozen=True, kw_only=True):
    """Why a request failed, in terms every door can translate."""

    kind: Literal["input", "model", "host", "cancelled", "deadline"]
    error: str  # the error's name
    message: str
    location: tuple[str, ...] = ()
    issues: tuple[Issue, ...] = ()  # an input's, where a partner named several or said more of one


class LogLine(Record, frozen=True, kw_only=True):
    """What a run printed, as far as whoever runs it tells."""

    message: str
    level: str = "INFO"
    timestamp: str | None = None  # ISO 8601


class Place(Record, frozen=True, kw_only=True):
    """Where in a result the address of a file belongs."""

    path: tuple[str | int, ...]
    file: int  # its position among the outcome's files


class StoredFile(Record, frozen=True, kw_only=True):
    """An output in the file store."""

    id: str  # unguessable; its address is `/files/{id}`
    content_type: str
    size_bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    seconds: float | None = None


class Outcome(Record, frozen=True, kw_only=True):
    """What became of a request, stored with its usage record in one transaction."""

    state: State
    files: tuple[StoredFile, ...] = ()
    result: Mapping[str, Any] = {}  # seed, prompt, has_nsfw_concepts…
    places: tuple[Place, ...] | None = None  # not None: `result` is the whole answer, a partner's own shape
    logs: tuple[LogLine, ...] = ()
    failure: Failure | None = None
    wait_seconds: float = 0.0
    load_seconds: float = 0.0
    run_seconds: float = 0.0
    host_id: str | None = None
    attempt: int = 0
    reused: bool = False  # made by an earlier identical request
    erased: bool = False  # files, result and logs were forgotten at its owner's wish
    how: Mapping[str, str] = {}  # which way the host chose where it had a choice, and why


class Status(Record, frozen=True, kw_only=True):
    """A request as its caller may see it."""

    request: Request
    state: State
    queue_position: int | None = None  # requests ahead of it, 0 for the next; only while queued
    phase: Literal["loading", "running"] | None = None  # only while running: weights on their way, or steps
    step: int | None = None
    steps: int | None = None
    preview: bytes = b""  # WebP, the newest, where the caller asked for previews
    logs: tuple[LogLine, ...] = ()  # so far, where a partner tells them
    attempt: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outcome: Outcome | None = None

    @property
    def preview_uri(self) -> str | None:
        """The preview as an address that holds it, small enough for an event."""
        if not self.preview or self.state.is_final:
            return None
        return f"data:image/webp;base64,{base64.b64encode(self.preview).decode()}"
