"""Marquee's own router in the simulation: the production placement code behind the policy seam. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from loaders.protocol import AttemptKey, Done, FromHost, Hello
from registry.catalog import Digest, OrganizationName
from router import placement, prewarm
from router.demand import Demand, RunTimes
from router.fairness import Fairness
from router.fleet import Fleet
from router.hosts import Assigned, Joined, Left, Reported, Staging
from router.knobs import Knobs
from router.pricing import State
from router.requests import RequestId
from router.residency import Bundle
from router.simulator.engine import Send, StageOrder
from router.simulator.workload import Job
from router.waiting import Waiting, Work

LOOK_SECONDS = 3.0


class Marquee:
    """Folds what hosts say, asks `placement.choose`, learns from what finished."""

    name = "marquee"
    source = "router/placement.py"
    overlaps = True

    def __init__(
        self,
        bundles: Iterable[Bundle],
        priors: Mapping[Digest, float],
        knobs: Knobs | None = None,
        launches: Sequence[prewarm.Launch] = (),
    ) -> None:
        self.state = State(
            fleet=Fleet(),
            waiting=Waiting(Fairness()),
            demand=Demand(0.0),
            run_times=RunTimes(priors),
            knobs=knobs or Knobs(),
        )
        for bundle in bundles:
            self.state.fleet.describe(bundle)
        self._jobs: dict[str, Job] = {}
        self._placed: dict[str, placement.Decision] = {}
        self._memory, self._launches = prewarm.Memory(), launches
        self._look_at = LOOK_SECONDS
        self.decisions = 0

    def joined(self, hello: Hello, now: float) -> None:
        placement.fold(self.state, Joined(host_id=hello.host_id, hello=hello), now)

    def left(self, host: str, now: float) -> None:
        placement.fold(self.state, Left(host_id=host), now)

    def arrive(self, job: Job, now: float) -> None:
        work = Work(
            id=RequestId(str(job.number)),
            organization=OrganizationName(job.customer),
            version=job.version,
            adapters=job.adapters,
            units=job.units,
            arrived_at=job.arrives_at,
        )
        self._jobs[work.id] = job
        placement.submit(self.state, work, now)

    def report(self, host: str, message: FromHost, now: float) -> None:
        placement.fold(self.state, Reported(host_id=host, message=message), now)
        if isinstance(message, Done):
            decision = self._placed.pop(message.attempt.request_id)
            booked, ran = decision.booked_seconds, message.timings.run
            placement.finished(self.state, decision.work, host, booked, ran)

    def act(self, now: float) -> Sequence[Send | StageOrder]:
        orders: list[Send | StageOrder] = list(self._look(now)) if now >= self._look_at else []
        while decision := placement.choose(self.state, now):
            self.decisions += 1
            assigned = Assigned(
                host_id=decision.host_id,
                attempt=AttemptKey(decision.request_id, self.decisions),
                bundles=(decision.work.version, *decision.work.adapters),
                run_seconds=decision.run_seconds,
                evicts=decision.evicts,
            )
            placement.commit(self.state, decision, assigned, now)
            self._placed[decision.request_id] = decision
            orders.append(Send(self._jobs.pop(decision.request_id), decision.host_id, decision.evicts))
        while staging := placement.prefetch(self.state, now):
            orders.append(self._stage(staging, now))
        return orders

    def _look(self, now: float) -> Iterator[StageOrder]:
        """What the dispatcher's `foresight` does every few seconds; offers of the cold tail are left out."""
        self._look_at = now + LOOK_SECONDS
        self.state.fleet.give_up_overdue(now)
        for order in prewarm.plan(self.state, self._memory, self._launches, now):
            if isinstance(order, prewarm.Stage):
                yield self._stage(order.staging, now)

    def _stage(self, staging: Staging, now: float) -> StageOrder:
        placement.fold(self.state, staging, now)
        return StageOrder(staging.bundles, staging.host_id, staging.evicts)

    def wake_at(self, now: float) -> float | None:
        return self._look_at
