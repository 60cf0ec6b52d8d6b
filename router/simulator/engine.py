"""The discrete-event loop: jobs arrive, a policy sends them to machines, machines report. Pure and deterministic.

The policy seam is four calls: `joined`/`left` for hosts, `arrive` for jobs, `report` for messages, and `act`, which
answers with what to send. A policy sees neither a job's real run time (unless it says so) nor the future.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import msgspec

from loaders.cache import Order
from loaders.protocol import AttemptKey, Done, FromHost, Hello
from registry.catalog import Digest
from router.residency import Bundle
from router.simulator.hardware import Attempt, HostType
from router.simulator.machine import Evictor, Machine
from router.simulator.ranges import NotNegative
from router.simulator.workload import Job, Workload

STANDSTILL_SECONDS = 3600.0  # in which a policy only looked


@dataclass(frozen=True, slots=True)
class Send:
    """A policy's decision. `evicts` go first on that host."""

    job: Job
    host: str
    evicts: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class StageOrder:
    """Bring bundles onto a host's device without a run, if its mover is idle."""

    bundles: tuple[Digest, ...]
    host: str
    evicts: tuple[Digest, ...] = ()


class Policy(Protocol):
    """A router. `overlaps` says whether hosts under it load for the next request during a run."""

    name: str
    source: str  # where its rules are documented
    overlaps: bool

    def joined(self, hello: Hello, now: float) -> None: ...
    def left(self, host: str, now: float) -> None: ...
    def arrive(self, job: Job, now: float) -> None: ...
    def report(self, host: str, message: FromHost, now: float) -> None: ...
    def act(self, now: float) -> Sequence[Send | StageOrder]: ...
    def wake_at(self, now: float) -> float | None:
        """When it wants `act` to be called though nothing happens."""


@dataclass(frozen=True)
class HostPlan:
    """One simulated host."""

    name: str
    kind: HostType
    zone: str = "a"


class Outage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A host dies at `at_seconds` and comes back with an empty device."""

    host: str
    at_seconds: NotNegative
    for_seconds: NotNegative


@dataclass
class Run:
    """What one simulation recorded."""

    policy: str
    jobs: Sequence[Job]
    finished_at: dict[int, float] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    machines: Sequence[Machine] = ()
    ended_at: float = 0.0
    attempts: int = 0


class Simulation:
    """One policy, one workload, one fleet."""

    def __init__(
        self,
        policy: Policy,
        workload: Workload,
        fleet: Sequence[HostPlan],
        *,
        outages: Sequence[Outage] = (),
        overlaps: bool | None = None,
        free_loads: bool = False,
        evictor: Evictor | None = None,
        order: Order = "lru",
    ) -> None:
        self.policy, self.workload, self.outages = policy, workload, outages
        self.bundles: Mapping[Digest, Bundle] = {bundle.digest: bundle for bundle in workload.bundles}
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self._attempts = count(1)
        self._wakes: set[float] = set()  # when `act` will be called though nothing happens
        self.run = Run(policy.name, workload.jobs)
        self._jobs = {job.number: job for job in workload.jobs}
        overlap = policy.overlaps if overlaps is None else overlaps
        self.machines = {
            plan.name: Machine(
                plan.name,
                plan.kind,
                zone=plan.zone,
                overlaps=overlap,
                later=self._later,
                say=self._hear,
                evictor=evictor,
                free_loads=free_loads,
                order=order,
            )
            for plan in fleet
        }

    def play(self) -> Run:
        """Until every job has finished, or nothing has happened and nothing will: weights that no host holds."""
        for machine in self.machines.values():
            self.policy.joined(machine.hello(self.bundles), 0.0)
        for outage in self.outages:
            self._later(outage.at_seconds, self._outage(outage))
        arrivals = iter(self.workload.jobs)
        self._next_arrival(arrivals)
        total = len(self.workload.jobs)
        happened_at = 0.0
        while self._events and len(self.run.finished_at) < total:
            if len(self._events) > len(self._wakes):
                happened_at = self.now
            elif self.now - happened_at > STANDSTILL_SECONDS:
                break
            self.now, _, callback = heapq.heappop(self._events)
            callback(self.now)
            self._act()
        self.run.machines, self.run.ended_at = tuple(self.machines.values()), self.now
        self.run.attempts = next(self._attempts) - 1
        return self.run

    def _later(self, when: float, callback: Callable[[float], None]) -> None:
        """At once what should have been before: the clock never goes back."""
        heapq.heappush(self._events, (max(when, self.now), next(self._order), callback))

    def _next_arrival(self, arrivals: "Callable[[], Job] | object") -> None:
        job = next(arrivals, None)  # type: ignore[call-overload]
        if job is not None:
            self._later(job.arrives_at, lambda now: self._arrive(job, arrivals, now))

    def _arrive(self, job: Job, arrivals: object, now: float) -> None:
        self.policy.arrive(job, now)
        self._next_arrival(arrivals)

    def _act(self) -> None:
        for order in self.policy.act(self.now):
            machine = self.machines[order.host]
            machine.drop(order.evicts)
            if isinstance(order, StageOrder):
                machine.stage(tuple(self.bundles[name] for name in order.bundles), self.now)
                continue
            job = order.job
            names = (job.version, *job.adapters)
            key = AttemptKey(str(job.number), next(self._attempts))
            machine.assign(Attempt(key, job, tuple(self.bundles[n] for n in names), self.now), self.now)
        wake_at = self.policy.wake_at(self.now)
        if wake_at is not None and (at := max(wake_at, self.now)) not in self._wakes:
            self._wakes.add(at)
            self._later(at, self._woken)

    def _woken(self, now: float) -> None:
        self._wakes.discard(now)

    def _hear(self, host: str, message: FromHost) -> None:
        if isinstance(message, Done):
            number = int(message.attempt.request_id)
            self.run.finished_at[number] = self.now
            self.run.hosts[str(number)] = host
        self.policy.report(host, message, self.now)

    def _outage(self, outage: Outage) -> Callable[[float], None]:
        machine = self.machines[outage.host]

        def die(now: float) -> None:
            lost = machine.die(now)
            self.policy.left(machine.name, now)
            for job in lost:
                self.policy.arrive(job, now)
            self._later(now + outage.for_seconds, back)

        def back(now: float) -> None:
            machine.alive = True
            self.policy.joined(machine.hello(self.bundles), now)

        return die
