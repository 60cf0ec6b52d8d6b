"""The dashboard's view of what this process dispatches: the fleet now, one request's life. Reads memory and the queue's tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from loaders.protocol import Tier
from registry.catalog import Adapter, Digest, Version
from registry.dashboard.live import FleetState, HostState, LaunchState, Life, Part, Step
from router import ids, prewarm
from router.catalogue import Catalogue
from router.dispatcher import Dispatcher
from router.fleet import Fleet
from router.hosts import Host
from router.pricing import Candidate
from router.queue import Queue
from router.requests import Status
from router.residency import DEVICE, DISK, MEMORY
from router.rows import AttemptRow
from router.snapshot import Snapshot

TIERS: dict[int, Tier] = {DEVICE: "device", MEMORY: "memory", DISK: "disk"}


class Observatory:
    """Implements `registry.dashboard.live.Observatory`."""

    def __init__(self, dispatcher: Dispatcher, catalogue: Catalogue, queue: Queue) -> None:
        self._dispatcher = dispatcher
        self._catalogue = catalogue
        self._queue = queue
        self._named: tuple[Snapshot | None, Mapping[Digest, str]] = (None, {})

    def fleet(self) -> FleetState:
        """Empty where another process dispatches this pool."""
        at, term = datetime.now(UTC), self._dispatcher.term
        if term is None:
            return FleetState(at=at, pool=self._dispatcher.pool)
        fleet, partners = term.placement.fleet, term.desk.partners
        return FleetState(
            at=at,
            pool=self._dispatcher.pool,
            hosts=tuple(_host(fleet, host, self._names()) for host in fleet.hosts.values()),
            waiting=len(term.waiting) - sum(partner.waiting for partner in partners),
            running=len(term.attempts) - sum(partner.running for partner in partners),
            partners=partners,
            warm=_warm(fleet, self._catalogue.now),
            launches=self._launches(),
        )

    def _launches(self) -> tuple[LaunchState, ...]:
        foresight = self._dispatcher.foresight
        found = () if foresight is None else prewarm.readiness(foresight.fleet, foresight.launches)
        return tuple(
            LaunchState(
                slug=one.launch.slug,
                replicas=one.launch.replicas,
                warm=one.warm,
                loading=one.loading,
                stage_at=datetime.fromtimestamp(one.launch.stage_at, UTC),
                opens_at=datetime.fromtimestamp(one.launch.opens_at, UTC),
            )
            for one in found
        )

    async def life(self, request_id: str, organization: str | None) -> Life | None:
        known = ids.parse(request_id)
        status = None if known is None else await self._queue.status(known)
        if status is None or organization not in {None, status.request.organization}:
            return None
        term = self._dispatcher.term
        hosts = {} if term is None else term.placement.fleet.hosts
        names = {host_id: host.hello.name for host_id, host in hosts.items()}
        return life(status, await self._queue.attempts(status.request.id), names)

    def _names(self) -> Mapping[Digest, str]:
        """Component and LoRA digests in words; made anew with each snapshot."""
        snapshot = self._catalogue.now
        if self._named[0] is not snapshot:
            self._named = (snapshot, dict(named(snapshot.versions.values(), snapshot.adapters.values())))
        return self._named[1]


def named(versions: Iterable[Version], adapters: Iterable[Adapter]) -> Iterator[tuple[Digest, str]]:
    """Components and LoRAs in words; of several names the last one holds."""
    for version in reversed(list(versions)):
        for component in version.manifest.components:
            yield component.digest, f"{version.variant} {component.name}"
    for adapter in adapters:
        yield adapter.manifest.digest, adapter.slug


def _host(fleet: Fleet, host: Host, names: Mapping[Digest, str]) -> HostState:
    digests = list(fleet.residency.parts)
    parts = [
        Part(
            digest=digests[part],
            name=names.get(digests[part], digests[part][7:19]),
            tier=TIERS[tier],
            size_bytes=fleet.residency.part_bytes[part],
        )
        for part in host.held
        if (tier := fleet.residency.tier(part, host.index)) in TIERS
    ]
    busy = sum(attempt.started_at is not None for attempt in host.attempts.values())
    return HostState(
        id=host.hello.host_id,
        name=host.hello.name,
        device=host.hello.device,
        zone=host.hello.zone or "",
        draining=host.draining,
        running=busy,
        staged=len(host.attempts) - busy,
        slots=host.hello.slots,
        budget_bytes=int(fleet.budget_bytes[host.index]),
        used_bytes=int(fleet.used_bytes[host.index]),
        parts=tuple(parts),
    )


def _warm(fleet: Fleet, snapshot: Snapshot) -> dict[str, int]:
    """Per variant, on how many linked hosts nothing of its version is missing."""
    linked = [host.index for host in fleet.hosts.values()]
    found: dict[str, int] = {}
    for version in snapshot.versions.values():
        bundle = fleet.residency.bundles.get(version.digest)
        if bundle is not None and linked:
            missing = fleet.residency.missing_bytes(bundle)
            found[version.variant] = int(sum(missing[index] == 0 for index in linked))
    return found


def life(status: Status, attempts: Sequence[AttemptRow], names: Mapping[str, str]) -> Life:
    """A request's seconds in order; hosts by their names, as far as they are linked. Pure."""
    return Life(
        id=status.request.id,
        slug=status.request.slug,
        organization=status.request.organization,
        state=status.state,
        created_at=status.request.created_at,
        steps=tuple(_steps(status, attempts)),
        reasons=tuple(
            (row.number, names.get(row.host_id, row.host_id), row.decision.reason if row.decision else "")
            for row in attempts
        ),
        candidates=tuple(
            (row.number, names.get(one.host_id, one.host_id), one.total, _terms(one))
            for row in attempts
            if row.decision
            for one in row.decision.candidates
        ),
    )


def _steps(status: Status, attempts: Sequence[AttemptRow]) -> Iterator[Step]:
    created = status.request.created_at

    def since(at: datetime) -> float:
        return max(0.0, (at - created).total_seconds())

    if not attempts:
        end = status.finished_at or datetime.now(UTC)
        yield Step(name="queued", began_seconds=0.0, seconds=since(end))
        return
    yield Step(name="queued", began_seconds=0.0, seconds=since(attempts[0].assigned_at))
    for row in attempts[:-1]:
        ended = since(row.ended_at) if row.ended_at else since(row.assigned_at)
        began = since(row.assigned_at)
        yield Step(
            name=f"attempt {row.number}", began_seconds=began, seconds=ended - began, note=row.ended or ""
        )
    yield from _last(status, since(attempts[-1].assigned_at), since(status.finished_at or datetime.now(UTC)))


def _last(status: Status, assigned: float, end: float) -> Iterator[Step]:
    """The attempt that counts: on the host until loading, loading, running, and what storing took."""
    outcome = status.outcome
    if outcome is None:
        yield Step(name="on its host", began_seconds=assigned, seconds=max(0.0, end - assigned))
        return
    waited = max(0.0, outcome.wait_seconds - assigned)
    at = assigned
    for name, seconds in (
        ("staged", waited),
        ("loading", outcome.load_seconds),
        ("running", outcome.run_seconds),
    ):
        yield Step(name=name, began_seconds=at, seconds=seconds)
        at += seconds
    yield Step(name="stored", began_seconds=at, seconds=max(0.0, end - at))


def _terms(one: Candidate) -> str:
    named = {
        "wait": one.wait,
        "load": one.load,
        "adapters": one.adapters,
        "run": one.run,
        "regret": one.regret,
    }
    named["spread"] = one.spread
    return ", ".join(f"{name} {seconds:.2f}" for name, seconds in named.items() if seconds)
