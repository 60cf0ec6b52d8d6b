"""The messages between a router and its hosts, msgpack over one WebSocket that the host opens. Pure.

A host says `Hello` with all it holds and runs, then deltas. The router describes a version or adapter once a
link (`Describe…`), then names it by digest. Every report carries the attempt's number, so one that comes late
changes nothing. A host keeps a finished attempt's outputs until the router says `Settled`; after a lost link
it says them again.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from registry.catalog import AdapterManifest, Digest, Manifest

PROTOCOL_VERSION = 1
# A file of the router's, below its `/files/`: day, 128 random bits that nobody can guess, suffix.
FILE_ID = r"(\d{8})-([0-9a-f]{32})\.([a-z0-9]{1,11})"
PREVIEWS = "previews"  # of an input, true where the caller wishes to see the run
MAX_PREVIEW_BYTES = 64 << 10
OUTPUT_CHUNK_BYTES = 1 << 20  # outputs travel in pieces, so that a video does not hold up heartbeats

Tier = Literal["device", "memory", "disk"]
Pace = Annotated[float, msgspec.Meta(gt=0, lt=1e18)]  # neither nothing nor no number: it is divided by
Count = Annotated[int, msgspec.Meta(ge=1)]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """Base of every message; `tag` puts the class name in field `type`."""


class Held(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One component or adapter in one tier."""

    digest: Digest
    tier: Tier
    size_bytes: int


class AttemptKey(msgspec.Struct, frozen=True):
    """One try of one request; the number is the fencing token."""

    request_id: str
    number: int


class AdapterUse(msgspec.Struct, frozen=True):
    """A LoRA by digest and the scale it is applied at."""

    digest: Digest
    scale: float = 1.0


class Speeds(msgspec.Struct, frozen=True, kw_only=True):
    """What a host measured of itself, bytes per second: how fast a missing component arrives from each tier."""

    disk_to_memory: Pace
    memory_to_device: Pace
    network_to_disk: Pace


class OutputFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One output of an attempt; its bytes travelled as `OutputChunk`s with the same index."""

    index: int
    content_type: str
    size_bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    seconds: float | None = None


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Where an attempt's seconds went on the host."""

    wait: float = 0.0  # from assignment until the device was free
    load: float = 0.0  # moving weights that were missing, as far as it delayed the run
    run: float = 0.0
    encode: float = 0.0


# host -> router


class Hello(Message, frozen=True, kw_only=True):
    """First message of a link: who the host is and all it holds and runs."""

    protocol: int
    host_id: str  # stable across restarts; kept in the host's home
    name: str
    device: str  # `cpu`, `NVIDIA H200`…
    pool: str
    zone: str | None  # failure domain
    speed: Pace  # run speed relative to the catalogue's prior; 1.0 until measured
    budgets: Mapping[Tier, int]  # bytes
    speeds: Speeds
    held: tuple[Held, ...]
    running: tuple[AttemptKey, ...]  # accepted, staged or running
    finished: tuple[AttemptKey, ...]  # done or failed, not yet settled: reports follow
    known: tuple[Digest, ...] = ()  # versions and adapters it still has descriptions of
    slots: Count = 2  # assignments it takes at once: one running, the rest staging
    blobs_url: str | None = None  # where hosts of its pool may fetch verified files from it


class Residency(Message, frozen=True, kw_only=True):
    """What arrived in and left which tier since the last message."""

    added: tuple[Held, ...] = ()
    removed: tuple[Held, ...] = ()


class Started(Message, frozen=True, kw_only=True):
    """The device began this attempt (weights may still be loading)."""

    attempt: AttemptKey
    phase: Literal["loading", "running"]


class Progress(Message, frozen=True, kw_only=True):
    attempt: AttemptKey
    step: int
    steps: int
    preview: bytes = b""  # WebP, small: what it seems to become, where the caller asked for that


class OutputChunk(Message, frozen=True, kw_only=True):
    attempt: AttemptKey
    index: int
    data: bytes


class Done(Message, frozen=True, kw_only=True):
    """All chunks are sent. `result` holds the pipeline's other answers: seed, prompt, has_nsfw_concepts.

    `how` says which way the host chose where it had a choice, and why.
    """

    attempt: AttemptKey
    outputs: tuple[OutputFile, ...]
    result: Mapping[str, Any]
    timings: Timings
    how: Mapping[str, str] = {}


class Failed(Message, frozen=True, kw_only=True):
    """`kind` decides what follows: `input` and `model` go to the caller, `host` is tried elsewhere."""

    attempt: AttemptKey
    kind: Literal["input", "model", "host", "cancelled"]
    error: str  # the error's name: `weights_missing`, `out_of_memory`, `invalid_input`…
    message: str
    location: tuple[str, ...] = ()  # for `input`: the offending field
    timings: Timings = Timings()


class Draining(Message, frozen=True, kw_only=True):
    """No more work, please; staged attempts named here are handed back unrun."""

    returned: tuple[AttemptKey, ...] = ()


# router -> host


class Welcome(Message, frozen=True, kw_only=True):
    """Answer to `Hello`. Attempts in `abandon` belong to somebody else by now: stop them, report nothing."""

    pool: str
    abandon: tuple[AttemptKey, ...] = ()


class Peers(Message, frozen=True, kw_only=True):
    """Other hosts of the pool that give out verified files, each by its `blobs_url`. Replaces what was said before."""

    urls: tuple[str, ...]


class DescribeVersion(Message, frozen=True, kw_only=True):
    digest: Digest
    manifest: Manifest
    defaults: Mapping[str, Any] = {}


class DescribeAdapter(Message, frozen=True, kw_only=True):
    digest: Digest
    manifest: AdapterManifest


class Assign(Message, frozen=True, kw_only=True):
    """Run this. `input` is validated and complete: defaults are filled in, the seed is set."""

    attempt: AttemptKey
    version: Digest
    adapters: tuple[AdapterUse, ...]
    input: Mapping[str, Any]
    traceparent: str | None = None  # W3C; the host's spans become its children


class Cancel(Message, frozen=True, kw_only=True):
    attempt: AttemptKey


class Settled(Message, frozen=True, kw_only=True):
    """Result and usage are committed; forget the attempt and its outputs."""

    attempt: AttemptKey


class Stage(Message, frozen=True, kw_only=True):
    """Prewarm: bring these to the device; no run follows by itself.

    Until `pin_until` (unix seconds) they leave only where nothing else makes room for a request, or after a `Drop`.
    """

    version: Digest
    adapters: tuple[Digest, ...] = ()
    pin_until: float | None = None


class Drop(Message, frozen=True, kw_only=True):
    """These may go first when room is needed."""

    digests: tuple[Digest, ...]


FromHost = Hello | Residency | Started | Progress | OutputChunk | Done | Failed | Draining
ToHost = Welcome | Peers | DescribeVersion | DescribeAdapter | Assign | Cancel | Settled | Stage | Drop

_encoder = msgspec.msgpack.Encoder()
_from_host: msgspec.msgpack.Decoder[FromHost] = msgspec.msgpack.Decoder(FromHost)
_to_host: msgspec.msgpack.Decoder[ToHost] = msgspec.msgpack.Decoder(ToHost)


class ProtocolError(ValueError):
    """A frame is not a message this side understands. The link is closed; the peer is of another version or broken."""


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode_from_host(frame: bytes) -> FromHost:
    """Raises `ProtocolError`."""
    try:
        return _from_host.decode(frame)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"not a message from a host: {error}") from error


def decode_to_host(frame: bytes) -> ToHost:
    """Raises `ProtocolError`."""
    try:
        return _to_host.decode(frame)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"not a message from a router: {error}") from error
