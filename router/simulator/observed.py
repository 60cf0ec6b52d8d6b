"""What peers' policies know of each host: jobs in flight, residency, work left. Fresh and exact, which is generous.

Exact are run times, which parts lie in which tier (parts that versions share among them), and how far the first
job's load has come; what loads in between will evict, nobody knows. Pure. Real peers see counts and residency late (ModelMesh >= 2 s, Ray Serve up to 10 s); here every peer sees the
present, so that rules are compared, not telemetry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from loaders.protocol import Done, FromHost, Hello, Residency, Started, Tier
from registry.catalog import Digest
from router.residency import Bundle, Part
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
    first_since: float = 0.0  # when the first job became that
    held: dict[Digest, set[Tier]] = field(default_factory=dict)  # parts, where they are
    coming: set[Digest] = field(default_factory=set)  # parts of jobs in flight that were not on the device

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
            elif first:
                left += max(0.0, load_seconds - (now - self.first_since)) + run
            else:
                left += load_seconds + run
            first = False
        return left

    def lacks(self, part: Part) -> bool:
        """Neither on the device nor on its way there."""
        return part.digest not in self.coming and "device" not in self.held.get(part.digest, ())

    def part_seconds(self, part: Part) -> float:
        """From the nearest tier that has it, as hosts move: over the disk and, where there is one, over memory."""
        speeds, held, size = self.hello.speeds, self.held.get(part.digest, set()), part.size_bytes
        over_memory = "memory" in self.hello.budgets
        seconds = size / speeds.memory_to_device if over_memory else 0.0
        if over_memory and "memory" in held:
            return seconds
        seconds += size / speeds.disk_to_memory
        return seconds if "disk" in held else seconds + size / speeds.network_to_disk


class Peer:
    """Base of the peers: keeps `hosts` and a queue of orders; a rule overrides `pick` or `arrive`."""

    name = "peer"
    source = ""
    overlaps = False

    def __init__(self, bundles: Mapping[Digest, Bundle], rng: Random) -> None:
        self.bundles, self.rng = bundles, rng
        self.hosts: dict[str, Seen] = {}
        self.orders: list[Send | StageOrder] = []
        self.waiting: list[Job] = []
        self._bundles_of: dict[Digest, list[Digest]] = {}
        for bundle in bundles.values():
            for part in bundle.parts:
                self._bundles_of.setdefault(part.digest, []).append(bundle.digest)
        self._sizes = {part.digest: part.size_bytes for b in bundles.values() for part in b.parts}
        self._joined = 0

    def joined(self, hello: Hello, now: float) -> None:
        seen = self.hosts[hello.host_id] = Seen(hello.host_id, hello, self._joined)
        self._move(seen, Residency(added=hello.held))
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
            seen.started_at, seen.first_since = None, now
        elif isinstance(message, Residency):
            self._move(seen, message)

    def _move(self, seen: Seen, message: Residency) -> None:
        for held in message.removed:
            seen.held.get(held.digest, set()).discard(held.tier)
            if held.tier == "device":
                seen.coming.discard(held.digest)
                for bundle in self._bundles_of[held.digest]:
                    seen.warm.pop(bundle, None)
        for held in message.added:
            seen.held.setdefault(held.digest, set()).add(held.tier)
            if held.tier == "device":
                seen.coming.discard(held.digest)

    def send(self, job: Job, host: Seen, now: float) -> None:
        load = self.load_seconds(job, host)
        if not host.jobs:
            host.started_at, host.first_since = None, now
        host.jobs[job.number] = (job, load)
        for digest in (job.version, *job.adapters):
            host.warm[digest] = now
            host.coming.update(part.digest for part in self.bundles[digest].parts if host.lacks(part))
        self.orders.append(Send(job, host.name))

    def load_seconds(self, job: Job, host: Seen) -> float:
        """Of the parts that are neither there nor on their way, and of building their bundles."""
        bundles = [self.bundles[digest] for digest in (job.version, *job.adapters)]
        fixed = sum(b.fixed_seconds for b in bundles if any(host.lacks(part) for part in b.parts))
        return fixed + self.transfer_seconds(job, host)

    def transfer_seconds(self, job: Job, host: Seen) -> float:
        parts = {p.digest: p for d in (job.version, *job.adapters) for p in self.bundles[d].parts}
        return sum(host.part_seconds(part) for part in parts.values() if host.lacks(part))

    def device_bytes(self, host: Seen) -> int:
        """What its device holds or is about to; what versions share counts once."""
        there = {part for part, tiers in host.held.items() if "device" in tiers}
        return sum(self._sizes[part] for part in there | host.coming)

    def act(self, now: float) -> Sequence[Send | StageOrder]:
        orders, self.orders = self.orders, []
        return orders

    def wake_at(self, now: float) -> float | None:
        return None

    def fewest(self, hosts: Sequence[Seen]) -> Seen:
        """The fewest jobs in flight, ties at random."""
        least = min(host.count for host in hosts)
        return self.rng.choice([host for host in hosts if host.count == least])
