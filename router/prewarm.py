"""What should be warm before anybody asks, and what may go cold: windows + demand + fleet → orders to hosts.

Pure. A launch wants its replicas warm from its staging time until a while after it opened; what is popular wants as
many copies as its demand fills; what nobody has asked for in a long time is offered for eviction. Orders are few: a
host gets one at a time, and never the same again within `CHURN_SECONDS`. It refuses to evict what is dearer to lose
than a first caller's wait.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
import numpy as np

from registry import windows
from registry.catalog import Digest, Release, Share, Slug, Version
from router.demand import FAST, SLOW, TARGET_LOAD
from router.fleet import Fleet
from router.hosts import Host, Staging
from router.pricing import State

HOLD_SECONDS = 1800.0  # after its opening a launch keeps its replicas; then demand decides
CHURN_SECONDS = 60.0  # before a host is told the same again
IDLE_SECONDS = 1800.0  # that weights stay unused before they are offered for eviction
TAIL_WANTED = 0.02  # probability that a part is wanted within the horizon, below which it is tail
POPULAR_LOAD = 0.05  # of a GPU: less demand than this waits for its first caller
ASSUMED_STAGING_SECONDS = 600.0  # while no host is linked that could say
OCCUPIED_SECONDS = 60.0
SPARE_LOOKS = 8  # hosts priced for a copy beyond twice as many as copies are missing
STAGING_MARGIN = 2.0  # times what the slowest host needs
NOTHING_EXPECTED: Mapping[Digest, float] = {}


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a release that wants to be warm. Times in unix seconds."""

    slug: Slug
    version: Digest
    replicas: int
    stage_at: float
    opens_at: float


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """How far the fleet is with a launch."""

    launch: Launch
    warm: int  # hosts that hold all of it
    loading: int  # hosts that it is on its way to


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Bring a version onto a host's device."""

    staging: Staging
    pin_until: float | None
    reason: str


class Drop(msgspec.Struct, frozen=True, kw_only=True):
    """These parts may go first on a host."""

    host_id: str
    digests: tuple[Digest, ...]


Order = Stage | Drop


@dataclass
class Memory:
    """What was ordered lately, so that nothing is ordered twice."""

    staged: dict[tuple[str, Digest], float] = field(default_factory=dict)
    offered: dict[tuple[str, int], float] = field(
        default_factory=dict
    )  # part → its last use when it was offered


def launches(
    releases: Iterable[Release],
    versions: Mapping[tuple[Slug, int], Version],
    staging_seconds: Mapping[Digest, float],
    now: datetime,
) -> tuple[Launch, ...]:
    """Every launch that is ahead or whose hold is not over, earliest first."""
    found = [
        launch
        for release in releases
        for share in release.shares
        if (version := versions.get((release.variant, share.version))) is not None
        and (launch := _launch(release, share, version, staging_seconds, now)) is not None
    ]
    return tuple(sorted(found, key=lambda one: (one.opens_at, one.slug, one.version)))


def _launch(
    release: Release, share: Share, version: Version, staging_seconds: Mapping[Digest, float], now: datetime
) -> Launch | None:
    window, opens = release.window, windows.opening(release.window)
    replicas = math.ceil(window.prewarm_replicas * share.percent / 100)
    retired = windows.phase(window, now) is windows.Phase.RETIRED
    if replicas <= 0 or opens is None or retired or now.timestamp() > opens.timestamp() + HOLD_SECONDS:
        return None
    seconds = staging_seconds.get(version.digest, ASSUMED_STAGING_SECONDS)
    stage_at = windows.prewarm_deadline(window, now, seconds) or opens
    return Launch(
        slug=release.variant,
        version=version.digest,
        replicas=replicas,
        stage_at=stage_at.timestamp(),
        opens_at=opens.timestamp(),
    )


def staging_seconds(fleet: Fleet, version: Digest) -> float:
    """How long before an opening staging should begin."""
    bundle = fleet.residency.bundles.get(version)
    usable = [host.index for host in fleet.hosts.values()]
    if bundle is None or not usable:
        return ASSUMED_STAGING_SECONDS
    return STAGING_MARGIN * float(fleet.residency.seconds(bundle)[usable].max())


def readiness(fleet: Fleet, launches: Iterable[Launch]) -> tuple[Readiness, ...]:
    found = []
    for launch in launches:
        bundle = fleet.residency.bundles.get(launch.version)
        having = [] if bundle is None else [h for h in fleet.hosts.values() if _has(fleet, bundle, h)]
        loading = sum(_arrives(fleet, bundle, host) for host in having) if bundle is not None else 0
        found.append(Readiness(launch=launch, warm=len(having) - loading, loading=loading))
    return tuple(found)


def plan(
    state: State,
    memory: Memory,
    launches: Iterable[Launch],
    now: float,
    expected: Mapping[Digest, float] = NOTHING_EXPECTED,
) -> tuple[Order, ...]:
    """Orders to give now; fold each `Stage` before asking again. Versions must be described to the fleet.

    `expected`: GPU seconds a second that the ledger's forecast gives a version today, whatever it had lately.
    """
    state.valuation.refresh(state.fleet, state.demand, now)
    due = [launch for launch in launches if launch.stage_at <= now]
    state.valuation.kept = _kept(state.fleet, due)
    busy: set[int] = set()
    orders: list[Order] = []
    for launch in due:
        until = launch.opens_at + HOLD_SECONDS
        wanted = (launch.version, launch.replicas, until, f"launch of {launch.slug}")
        orders += _stage(state, memory, busy, wanted, math.inf, now)
    for version, copies, reason in _popular(state, now, expected):
        limit = state.knobs.prefetch_regret_seconds
        orders += _stage(state, memory, busy, (version, copies, None, reason), limit, now)
    return (*orders, *_drops(state, memory, now))


def _kept(fleet: Fleet, due: Iterable[Launch]) -> frozenset[int]:
    """Parts that other loads push out last, at a hundred times their price."""
    bundles = [fleet.residency.bundles.get(launch.version) for launch in due]
    return frozenset(
        part for bundle in bundles if bundle is not None for part in fleet.residency.bundle_parts[bundle]
    )


def _popular(state: State, now: float, expected: Mapping[Digest, float]) -> list[tuple[Digest, int, str]]:
    """Versions whose demand fills a share of a GPU that is worth a copy, with the copies it asks for, and which demand."""
    demand, residency = state.demand, state.fleet.residency
    found: dict[Digest, tuple[float, str]] = {name: (rate, "forecast") for name, rate in expected.items()}
    if len(demand.names):
        rates = np.maximum(demand.busy_rates(now, FAST), demand.busy_rates(now, SLOW))
        for name, rate in zip(demand.names.keys, rates.tolist(), strict=True):
            if rate >= found.get(name, (0.0, ""))[0]:
                found[name] = (rate, "demand")
    popular = sorted(
        ((name, rate / TARGET_LOAD, reason) for name, (rate, reason) in found.items()),
        key=lambda one: -one[1],
    )
    return [
        (name, math.ceil(load), reason)
        for name, load, reason in popular
        if load >= POPULAR_LOAD
        and (bundle := residency.bundles.get(name)) is not None
        and residency.described[bundle].kind == "version"
    ]


def _stage(
    state: State,
    memory: Memory,
    busy: set[int],
    wanted: tuple[Digest, int, float | None, str],
    regret_limit: float,
    now: float,
) -> list[Order]:
    """What is missing of some copies, each on the host where it costs the fewest seconds."""
    version, copies, until, reason = wanted
    fleet, bundle = state.fleet, state.fleet.residency.bundles.get(version)
    if bundle is None:
        return []
    occupied: set[int] = set() if until else _occupied(fleet, now)
    having = _holders(fleet, bundle) - occupied
    if len(having) >= copies:
        return []
    saved = state.valuation.of_another(fleet, bundle)
    zones = {fleet.zone[index] for index in having}
    priced = []
    apart, count = busy | having | occupied, SPARE_LOOKS + 2 * (copies - len(having))
    for host in _roomiest(state, memory, apart, (version, bundle, count), now):
        needs = fleet.residency.missing_bytes_at(bundle, host.index)
        keep = set(fleet.residency.bundle_parts[bundle])
        victims, lost = state.valuation.evictions(fleet, host.index, needs, keep)
        again = state.knobs.spread_seconds * (fleet.zone[host.index] in zones)
        seconds = fleet.residency.seconds_at(bundle, host.index)
        if lost <= (regret_limit if until else min(regret_limit, saved * seconds)):
            priced.append((seconds + lost + again, host.hello.host_id, host.index, victims))
    orders: list[Order] = []
    for _, host_id, index, victims in sorted(priced)[: copies - len(having)]:
        evicts = tuple(fleet.residency.parts.keys[part] for part in victims)
        busy.add(index)
        memory.staged[host_id, version] = now
        staging = Staging(host_id=host_id, bundles=(version,), evicts=evicts)
        orders.append(Stage(staging=staging, pin_until=until, reason=reason))
    return orders


def _holders(fleet: Fleet, bundle: int) -> set[int]:
    """Hosts that have it, or have it on its way, and will be there."""
    found = (fleet.residency.missing_bytes(bundle) == 0).nonzero()[0].tolist()
    return {index for index in found if (host := fleet.by_index[index]) is not None and not host.draining}


def _occupied(fleet: Fleet, now: float) -> set[int]:
    """Hosts whose device is not free for long, so that a copy there helps nobody: a long video runs."""
    return set((fleet.free_at(now) > now + OCCUPIED_SECONDS).nonzero()[0].tolist())


def _roomiest(
    state: State, memory: Memory, apart: set[int], wanted: tuple[Digest, int, int], now: float
) -> list[Host]:
    """So many hosts whose mover idles and that could take a version: those that have to let go least."""
    fleet, (version, bundle, count) = state.fleet, wanted
    numbers = fleet.arrays
    short = numbers.used_bytes + fleet.residency.missing_bytes(bundle) - numbers.budget_bytes
    idle = (numbers.mover_free_at <= now).nonzero()[0]
    found: list[Host] = []
    for index in idle[np.argsort(np.maximum(short[idle], 0.0), kind="stable")].tolist():
        host = fleet.by_index[index]
        if host is None or host.draining or index in apart or not _fits(state, bundle, host):
            continue
        if now - memory.staged.get((host.hello.host_id, version), -math.inf) >= CHURN_SECONDS:
            found.append(host)
        if len(found) == count:
            break
    return found


def _has(fleet: Fleet, bundle: int, host: Host) -> bool:
    """There, or on its way."""
    return host.on_device.issuperset(fleet.residency.bundle_parts[bundle])


def _arrives(fleet: Fleet, bundle: int, host: Host) -> bool:
    return any(part in host.arriving for part in fleet.residency.bundle_parts[bundle])


def _fits(state: State, bundle: int, host: Host) -> bool:
    """Beside what attempts use and launches keep, which never goes."""
    residency = state.fleet.residency
    kept = host.pinned | (state.valuation.kept & host.on_device)
    together = kept.union(residency.bundle_parts[bundle])
    size = sum(residency.part_bytes[part] for part in together)
    return size <= float(state.fleet.budget_bytes[host.index])


def _drops(state: State, memory: Memory, now: float) -> list[Order]:
    """Scale to zero: what stayed unused, nobody is expected to want and no launch keeps, may go first."""
    orders: list[Order] = []
    keys = state.fleet.residency.parts.keys
    for host_id, host in state.fleet.hosts.items():
        idle = []
        for part in sorted(host.on_device):
            if part in host.pinned or part in state.valuation.kept or part in host.arriving:
                continue
            since = host.used_at.setdefault(part, now)  # held from before we knew the host
            tail = now - since >= IDLE_SECONDS and state.valuation.wanted(part) < TAIL_WANTED
            if tail and memory.offered.get((host_id, part)) != since:
                memory.offered[host_id, part] = since
                idle.append(keys[part])
        if idle:
            orders.append(Drop(host_id=host_id, digests=tuple(idle)))
    return orders
