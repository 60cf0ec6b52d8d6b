"""Other routers' rules, re-implemented from their sources as policies. Pure.

Each class says where its rule is documented and what was simplified in its favour. None sees the future; `Ect` and
`ServerlessLLM` see the exact run times of what is queued, which is more than Marquee sees.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import inf
from random import Random

from loaders.protocol import Done, FromHost
from registry.catalog import Digest
from router.residency import Bundle
from router.simulator.engine import Send, StageOrder
from router.simulator.observed import Peer, Seen
from router.simulator.workload import Job


class RandomChoice(Peer):
    """Any host. The floor of every comparison."""

    name, source = "random", "-"

    def pick(self, job: Job, now: float) -> Seen:
        return self.rng.choice(list(self.hosts.values()))


class LeastLoaded(Peer):
    """Fewest requests in flight, as load balancers do (nginx `least_conn`)."""

    name, source = "least-loaded", "nginx least_conn"

    def pick(self, job: Job, now: float) -> Seen:
        return self.fewest(list(self.hosts.values()))


class TwoChoices(Peer):
    """Two hosts at random, the one with fewer requests in flight."""

    name, source = "two choices", "Mitzenmacher 2001; Ray Serve pow_2_router.py"

    def pick(self, job: Job, now: float) -> Seen:
        return two_choices(self, list(self.hosts.values()))


def two_choices(peer: Peer, hosts: Sequence[Seen]) -> Seen:
    return min(peer.rng.sample(list(hosts), min(2, len(hosts))), key=lambda host: host.count)


class RayMultiplex(Peer):
    """Ray Serve 2.60 `@serve.multiplexed`.

    For up to U(1, 2) x 1 s: two choices by queue length among replicas that list the model id; none listed: among
    those with the fewest models; afterwards among all. A replica takes `LIMIT` requests at once, the rest wait at the
    router with back-off .025 x 2^n <= .5 s. In its favour: the host's cache counts bytes, not models.
    """

    name, source = "ray multiplex", "ray 2.60 serve/multiplex.py, request_router.py"
    LIMIT = 5  # max_ongoing_requests
    BACKOFF_SECONDS = (0.025, 0.5)

    def __init__(self, bundles: Mapping[Digest, Bundle], rng: Random) -> None:
        super().__init__(bundles, rng)
        self.pending: deque[Job] = deque()
        self.routed: list[Routing] = []  # Ray runs so many tasks, first in first out: two for each replica
        self.due_at = inf

    def arrive(self, job: Job, now: float) -> None:
        self.pending.append(job)

    def act(self, now: float) -> Sequence[Send | StageOrder]:
        while self.take(now) or now >= self.due_at:
            self.routed = [task for task in self.routed if task.again_at > now or not self.route(task, now)]
            self.due_at = min((task.again_at for task in self.routed), default=inf)
        return super().act(now)

    def take(self, now: float) -> bool:
        """Begin with those that have a task from now on; False for none."""
        room = min(len(self.pending), 2 * len(self.hosts) - len(self.routed))
        for job in [self.pending.popleft() for _ in range(room)]:
            self.routed.append(Routing(job, now + self.rng.uniform(1.0, 2.0), now))
        return room > 0

    def route(self, task: "Routing", now: float) -> bool:
        host = self.candidate(task.job, now < task.gives_up_at)
        if host is None:
            task.again_at = now + min(self.BACKOFF_SECONDS[1], self.BACKOFF_SECONDS[0] * 2**task.tries)
            task.tries += 1
            return False
        self.send(task.job, host, now)
        return True

    def candidate(self, job: Job, matching: bool) -> Seen | None:  # noqa: FBT001 - the rule's own two phases
        hosts = list(self.hosts.values())
        if not hosts:
            return None
        if matching:
            warm = [host for host in hosts if job.version in host.warm]
            fewest = min(len(host.warm) for host in hosts)
            hosts = warm or [host for host in hosts if len(host.warm) == fewest]
        host = two_choices(self, hosts)
        return host if host.count < self.LIMIT else None

    def wake_at(self, now: float) -> float | None:
        return None if self.due_at == inf else self.due_at


@dataclass(slots=True)
class Routing:
    """One of Ray's routing tasks, which tries again and again."""

    job: Job
    gives_up_at: float  # looking for who has the model
    again_at: float
    tries: int = 0


class FalHint(Peer):
    """fal's runner hint: a free runner whose hint matches exactly, else any free runner; else the queue.

    The hint is the base with its LoRAs, as `provide_hints()` examples do. In its favour: a free runner that holds
    only the base is preferred to any.
    """

    name, source = "fal hint", "docs.fal.ai optimize-routing-behavior"

    def __init__(self, bundles: Mapping[Digest, Bundle], rng: Random) -> None:
        super().__init__(bundles, rng)
        self.queue: deque[Job] = deque()

    def arrive(self, job: Job, now: float) -> None:
        self.queue.append(job)

    def act(self, now: float) -> Sequence[Send | StageOrder]:
        while self.queue and (free := [host for host in self.hosts.values() if not host.jobs]):
            job = self.queue.popleft()
            exact = [h for h in free if all(d in h.warm for d in (job.version, *job.adapters))]
            base = [h for h in free if job.version in h.warm]
            self.send(job, self.rng.choice(exact or base or free), now)
        return super().act(now)


class BoundedHash(Peer):
    """Consistent hashing with bounded loads (Mirrokni 2017; Vimeo, HAProxy): <= 1.25 x the mean in flight."""

    name, source = "CH-BL 1.25", "Mirrokni et al. 2017"
    BOUND = 1.25
    POINTS = 100

    def topology_changed(self) -> None:
        self.ring = sorted(
            (int.from_bytes(blake2b(f"{name} {i}".encode(), digest_size=8).digest()), name)
            for name in self.hosts
            for i in range(self.POINTS)
        )

    def pick(self, job: Job, now: float) -> Seen:
        total = sum(host.count for host in self.hosts.values()) + 1
        bound = -(-total * self.BOUND // len(self.hosts))
        key = int.from_bytes(blake2b(job.version.encode(), digest_size=8).digest())
        start = bisect_left(self.ring, (key, ""))
        for step in range(len(self.ring)):
            host = self.hosts[self.ring[(start + step) % len(self.ring)][1]]
            if host.count + 1 <= bound:
                return host
        return self.fewest(list(self.hosts.values()))


class ServerlessLLM(Peer):
    """Storage-aware scheduling: waiting + size / bandwidth of the tier that holds the checkpoint; the minimum wins.

    In its favour: waiting is the exact work left, its loop is immediate instead of once a second, and adapters count
    as part of the checkpoint.
    """

    name, source = "ServerlessLLM", "sllm/schedulers/storage_aware_scheduler.py"

    def pick(self, job: Job, now: float) -> Seen:
        hosts = self.hosts.values()
        return min(hosts, key=lambda h: (h.work_left(now) + self.transfer_seconds(job, h), h.index))


class Ect(Peer):
    """Expected completion time over an LRU cache: exact work left + exact load + exact run, pushed at once."""

    name, source = "ECT + LRU", "anchors: the best rule of a first simulation"

    def pick(self, job: Job, now: float) -> Seen:
        return min(self.hosts.values(), key=lambda h: (self.finish(job, h, now), h.index))

    def finish(self, job: Job, host: Seen, now: float) -> float:
        return host.work_left(now) + self.load_seconds(job, host) + job.run_seconds / host.hello.speed


class ModelMesh(Peer):
    """ModelMesh's two balancers and its scale-up rule, in the declared-concurrency mode (the default never fires).

    Hit: the copy with the fewest requests in flight, ties to the least recently used. Miss: hosts in order of free
    room, else of oldest last use; shortlist of those within 45 s or 10 % of the oldest; uniform random. Every 10 s a
    model whose rate passes 90 % of its copies' capacity gets more of them, at most max(2, a third of the hosts). In its
    favour: `rpm` limits use the model's exact mean run time.
    """

    name, source = "ModelMesh", "kserve/modelmesh ModelMesh.java"
    CHECK_SECONDS = 10.0

    def __init__(self, bundles: Mapping[Digest, Bundle], rng: Random) -> None:
        super().__init__(bundles, rng)
        self.recent: dict[Digest, deque[tuple[float, float]]] = {}  # arrivals in the last minute, run seconds
        self.wanted: dict[Digest, int] = {}
        self.next_check = self.CHECK_SECONDS

    def pick(self, job: Job, now: float) -> Seen:
        self.recent.setdefault(job.version, deque()).append((now, job.run_seconds))
        copies = [host for host in self.hosts.values() if job.version in host.warm]
        if not copies or len(copies) < self.wanted.get(job.version, 1):
            return self.place(job, copies)
        return min(copies, key=lambda host: (host.count, host.warm[job.version], host.index))

    def place(self, job: Job, copies: Sequence[Seen]) -> Seen:
        others = [host for host in self.hosts.values() if host not in copies] or list(self.hosts.values())
        size = self.bundles[job.version].size_bytes
        roomy = [host for host in others if self.free_bytes(host) >= size]
        if roomy:
            most = max(self.free_bytes(host) for host in roomy)
            near = [h for h in roomy if self.free_bytes(h) >= most / 4]
        else:
            oldest = min(min(host.warm.values(), default=0.0) for host in others)
            near = [h for h in others if min(h.warm.values(), default=0.0) <= oldest + 45.0]
        busy = min(host.count for host in near)
        return self.rng.choice([host for host in near if host.count <= 1.1 * busy])

    def free_bytes(self, host: Seen) -> float:
        return host.hello.budgets["device"] - self.device_bytes(host)

    def act(self, now: float) -> Sequence[Send | StageOrder]:
        if now >= self.next_check:
            self.next_check = now + self.CHECK_SECONDS
            for version, arrivals in self.recent.items():
                self.scale(version, arrivals, now)
        return super().act(now)

    def scale(self, version: Digest, arrivals: deque[tuple[float, float]], now: float) -> None:
        while arrivals and arrivals[0][0] < now - 60.0:
            arrivals.popleft()
        if not arrivals:
            self.wanted.pop(version, None)
            return
        mean = sum(seconds for _, seconds in arrivals) / len(arrivals)
        per_copy = 60.0 * 0.9 / mean
        copies = max(1, sum(version in host.warm for host in self.hosts.values()))
        if len(arrivals) > per_copy * copies:
            more = min(len(arrivals) / per_copy, max(2, len(self.hosts) // 3))
            self.wanted[version] = max(copies + 1, int(more))

    def report(self, host: str, message: FromHost, now: float) -> None:
        if isinstance(message, Done) and (seen := self.hosts.get(host)) is not None:
            job = seen.jobs.get(int(message.attempt.request_id))
            if job is not None:
                seen.warm[job[0].version] = now
        super().report(host, message, now)


PEERS: tuple[type[Peer], ...] = (
    RandomChoice,
    LeastLoaded,
    TwoChoices,
    RayMultiplex,
    ModelMesh,
    FalHint,
    BoundedHash,
    ServerlessLLM,
    Ect,
)
