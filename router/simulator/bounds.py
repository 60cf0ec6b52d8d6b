"""What is left when weights cost nothing, or when the cache has a crystal ball. Pure.

`FreeLoads` is one queue before all hosts where weights cost nothing: waiting alone. It serves in order of arrival, so
that a router which serves short work first may have a smaller mean where queues are long. `Belady` is a cache that
lets go what is wanted again last, under an ordinary router: with sizes that differ near the best, not the best.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from random import Random

from registry.catalog import Digest
from router.residency import Bundle
from router.simulator.engine import Send, StageOrder
from router.simulator.machine import Machine
from router.simulator.observed import Peer
from router.simulator.workload import Job


class FreeLoads(Peer):
    """First come, first served by the fastest free host; to be played with `free_loads`."""

    name, source = "free loads", "bound: M/G/n, first come first served"

    def __init__(self, bundles: Mapping[Digest, Bundle], rng: Random) -> None:
        super().__init__(bundles, rng)
        self.queue: deque[Job] = deque()

    def arrive(self, job: Job, now: float) -> None:
        self.queue.append(job)

    def act(self, now: float) -> Sequence[Send | StageOrder]:
        while self.queue and (free := [host for host in self.hosts.values() if not host.jobs]):
            host = max(free, key=lambda h: (h.hello.speed, -h.index))
            self.send(self.queue.popleft(), host, now)
        return super().act(now)


class Belady:
    """Evicts, of what nothing pins, the parts whose next use lies furthest ahead; bytes decide how many go."""

    def __init__(self, jobs: Sequence[Job], bundles: Mapping[Digest, Bundle]) -> None:
        self.uses: dict[Digest, list[float]] = {}
        for job in jobs:
            for name in (job.version, *job.adapters):
                for part in bundles[name].parts:
                    self.uses.setdefault(part.digest, []).append(job.arrives_at)

    def __call__(self, machine: Machine, needs_bytes: int, now: float) -> tuple[Digest, ...]:
        cache = machine.device
        missing = cache.used_bytes + needs_bytes - cache.budget_bytes
        # What its own queue wants is wanted soonest, though it arrived before now.
        queue = reversed(list(enumerate(machine.queue)))
        queued = {p.digest: place for place, a in queue for b in a.bundles for p in b.parts}
        chosen: list[Digest] = []
        for digest in sorted(
            (d for d in cache if not cache.is_pinned(d)),
            key=lambda d: (d in queued, -(queued[d] if d in queued else self.next_use(d, now))),
        ):
            if missing <= 0:
                break
            chosen.append(digest)
            missing -= cache.size_of(digest)
        return tuple(chosen)

    def next_use(self, digest: Digest, now: float) -> float:
        times = self.uses.get(digest, [])
        position = bisect_right(times, now)
        return times[position] if position < len(times) else float("inf")
