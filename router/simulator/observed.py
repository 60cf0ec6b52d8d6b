"""What peers' policies know of each host: jobs in flight, residency, work left. Fresh and exact, which is generous.

Pure. Real peers see counts and residency late (ModelMesh >= 2 s, Ray Serve up to 10 s); here every peer sees the
present, so that rules are compared, not telemetry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from loaders.protocol import Done, FromHost, Hello, Residency, Started
from registry.catalog import Digest
from router.residency import Bundle
from router.simulator.engine import Send, StageOrder
from router.simulator.workload import Job


@dataclass(slots=True)
class Seen:
    """One host, as a peer's router sees it."""

    name: str
    hello: Hello
    index: int
    warm: dict[Digest, float] = field(default_factory=dict)  # bundle on the device or on its way -> last use
    jobs: dict[int, tuple[Job, float]] = field(default_factory=dict)  # in flight -> expected load seconds
    started_at: float | None = None  # of the first job

    @property
    def count(self) -> int:
        return len(self.jobs)

    def work_left(self, now: float) -> float:
        """Exact seconds until the device is free: real run times, expected loads."""
        left, first = 0.0, True
        for job, load_seconds in self.jobs.values():
            run = job.run_seconds / self.hello.speed
            if first and self.started_at is not None:
                left += max(0.0, self.started_at + run - now)
            else:
                left += load_seconds + run
            first = False
        return left


class Peer:
    """Base of the peers: keeps `hosts` and a queue of orders; a rule overrides `pick` or `arrive`."""

    name = "peer"
    source = ""
    overlaps = False

    def __init__(self, bundles: Mapping[Digest, Bundle], rng: Random) -> None:
        self.bundles, self.rng = bundles, rng
        self.hosts: dict[str, Seen] = {}
        self.parts_on: dict[str, set[Digest]] = {}
        self.orders: list[Send | StageOrder] = []
        self.waiting: list[Job] = []
        self._bundle_of = {part.digest: bundle for bundle in bundles.values() for part in bundle.parts}
        self._joined = 0

    def joined(self, hello: Hello, now: float) -> None:
        self.hosts[hello.host_id] = Seen(hello.host_id, hello, self._joined)
        self.parts_on[hello.host_id] = set()
        self._joined += 1
        self.topology_changed()
        again, self.waiting = self.waiting, []
        for job in again:
            self.arrive(job, now)

    def left(self, host: str, now: float) -> None:
        del self.hosts[host]
        self.topology_changed()

    def topology_changed(self) -> None:
        """A host came or went."""

    def arrive(self, job: Job, now: float) -> None:
        """Push at once; what finds no host waits for one to join."""
        if not self.hosts:
            self.waiting.append(job)
            return
        self.send(job, self.pick(job, now), now)

    def pick(self, job: Job, now: float) -> Seen:
        raise LookupError(f"{self.name} pushes nothing")

    def report(self, host: str, message: FromHost, now: float) -> None:
        seen = self.hosts.get(host)
        if seen is None:
            return
        if isinstance(message, Started):
            seen.started_at = now
        elif isinstance(message, Done):
            seen.jobs.pop(int(message.attempt.request_id), None)
            seen.started_at = None
        elif isinstance(message, Residency):
            self._move(seen, message)

    def _move(self, seen: Seen, message: Residency) -> None:
        parts = self.parts_on[seen.name]
        for held in message.removed:
            if held.tier == "device":
                parts.discard(held.digest)
                seen.warm.pop(self._bundle_of[held.digest].digest, None)
        parts.update(held.digest for held in message.added if held.tier == "device")

    def send(self, job: Job, host: Seen, now: float) -> None:
        load = self.load_seconds(job, host)
        if not host.jobs:
            host.started_at = None
        host.jobs[job.number] = (job, load)
        for digest in (job.version, *job.adapters):
            host.warm[digest] = now
        self.orders.append(Send(job, host.name))

    def load_seconds(self, job: Job, host: Seen) -> float:
        """Of the bundles that are neither there nor on their way."""
        return sum(self.bundle_seconds(d, host) for d in (job.version, *job.adapters) if d not in host.warm)

    def bundle_seconds(self, digest: Digest, host: Seen) -> float:
        bundle, speeds = self.bundles[digest], host.hello.speeds
        return bundle.fixed_seconds + bundle.size_bytes / speeds.disk_to_memory

    def act(self, now: float) -> Sequence[Send | StageOrder]:
        orders, self.orders = self.orders, []
        return orders

    def wake_at(self, now: float) -> float | None:
        return None

    def fewest(self, hosts: Sequence[Seen]) -> Seen:
        """The fewest jobs in flight, ties at random."""
        least = min(host.count for host in hosts)
        return self.rng.choice([host for host in hosts if host.count == least])
