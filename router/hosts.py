"""The records that `fleet` folds: what happened to a host, and its bookkeeping. Pure."""

from dataclasses import dataclass, field

import msgspec

from loaders import protocol
from loaders.protocol import AttemptKey, Hello
from registry.catalog import Digest

OVERRUN_SHARE = 0.25  # of its estimate that a run is expected to need still once it has passed it


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to one host."""

    host_id: str


class Joined(Event, frozen=True, kw_only=True):
    """A link opened. Attempts the host says it runs are folded in as `Assigned` by who knows them."""

    hello: Hello


class Left(Event, frozen=True, kw_only=True):
    """The link is gone, and all that was on the host with it."""


class Assigned(Event, frozen=True, kw_only=True):
    """An attempt was sent to a host. `evicts` are the parts that the host was told may go for it."""

    attempt: AttemptKey
    bundles: tuple[Digest, ...]  # the version first, then its adapters
    run_seconds: float  # expected on this host
    evicts: tuple[Digest, ...] = ()


class Staging(Event, frozen=True, kw_only=True):
    """A host was told to bring bundles onto its device without a run."""

    bundles: tuple[Digest, ...]  # the version first, then adapters
    evicts: tuple[Digest, ...] = ()


class Reported(Event, frozen=True, kw_only=True):
    """A message from the host."""

    message: protocol.FromHost


FleetEvent = Joined | Left | Assigned | Staging | Reported


@dataclass(slots=True)
class Running:
    """One attempt on a host: running if it is the first, else staged behind the others."""

    key: AttemptKey
    bundles: tuple[int, ...]
    parts: frozenset[int]
    run_seconds: float
    ready_at: float  # its weights are expected on the device
    is_afar: bool = False  # something of it was not even on the disk
    started_at: float | None = None
    ends_at: float = 0.0  # from reported progress, while it runs


@dataclass(slots=True)
class Host:
    """One host's bookkeeping; its numbers for pricing stand in the fleet's arrays at `index`."""

    index: int
    hello: Hello
    held: dict[int, int] = field(default_factory=dict)  # part -> bit set of tiers, as reported
    on_device: set[int] = field(default_factory=set)  # parts there or arriving, and not leaving
    pinned: frozenset[int] = frozenset()  # parts that attempts here use
    arriving: dict[int, float] = field(default_factory=dict)  # part -> expected at
    leaving: set[int] = field(default_factory=set)  # told to drop, not yet reported gone
    attempts: dict[AttemptKey, Running] = field(default_factory=dict)
    used_at: dict[int, float] = field(
        default_factory=dict
    )  # part -> last use, which is the host's eviction order
    draining: bool = False
    network_free_at: float = 0.0  # all that comes from elsewhere is on the disk
    arrives_by: float = 0.0  # nothing is expected later than this; may be too late


def expected_end(attempt: Running, free_at: float, now: float) -> float:
    """When an attempt will have left the device, which others hold until `free_at`."""
    if attempt.started_at is None:
        return max(free_at, attempt.ready_at) + attempt.run_seconds
    if attempt.ends_at > now:
        return max(free_at, attempt.ends_at)
    overrun = (now - attempt.started_at) * OVERRUN_SHARE
    return max(free_at, now + overrun)
