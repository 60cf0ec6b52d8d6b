"""Decisions per second at 1,000 hosts x 1,000 variants, seven hosts of ten busy; the bar is 10,000 and p99 < 1 ms.

All weights lie on the hosts' disks; a second pair of figures is of hosts that have to download whatever their device
lacks (and say nothing of what has come, so that much is on its way at any time). Two figures each: deciding alone (`choose`, from a request that waits to the answer, and the question after it that finds
nothing more), and a request's whole way through the dispatcher's memory (submitted, decided, booked on its host,
reported done, learned from). CPU time, so that neighbours do not count.
"""

import statistics
import time
from collections import deque
from collections.abc import Iterable

import numpy as np

from loaders.protocol import AttemptKey, Done, Held, Hello, Speeds, Tier, Timings
from registry.catalog import Digest, OrganizationName
from router import placement
from router.demand import Demand, RunTimes
from router.fairness import Fairness
from router.fleet import Fleet
from router.hosts import Assigned, Joined, Reported
from router.placement import State
from router.requests import RequestId
from router.residency import Bundle, Part
from router.waiting import Waiting, Work

HOSTS, VARIANTS, DECISIONS, ROUNDS = 1000, 1000, 4000, 3
BAR_PER_SECOND, BAR_P99_MS = 10_000, 1.0
GB = 1_000_000_000


def held_by(parts: Iterable[str], tier: Tier) -> tuple[Held, ...]:
    sizes = {part: (5 if part.startswith("t5") else 12) * GB for part in parts}
    return tuple(Held(digest=Digest(d), tier=tier, size_bytes=size) for d, size in sizes.items())


def build(rng: np.random.Generator, *, on_disk: bool) -> tuple[State, np.ndarray]:
    everything = [f"v{v}/own" for v in range(VARIANTS)] + [f"t5-{v}" for v in range(20)]
    disk = held_by(everything, "disk") if on_disk else ()
    state = State(fleet=Fleet(), waiting=Waiting(Fairness()), demand=Demand(0.0), run_times=RunTimes())
    for v in range(VARIANTS):
        parts = (Part(Digest(f"v{v}/own"), 12 * GB), Part(Digest(f"t5-{v % 20}"), 5 * GB))
        state.fleet.describe(Bundle(digest=Digest(f"v{v}"), parts=parts))
    weights = np.arange(1, VARIANTS + 1) ** -1.2
    weights /= weights.sum()
    for h in range(HOSTS):
        held = {f"v{v}/own": v for v in rng.choice(VARIANTS, 3, replace=False, p=weights)}
        parts = [*held, *{f"t5-{v % 20}" for v in held.values()}]
        hello = Hello(
            protocol=1,
            host_id=f"h{h}",
            name=f"h{h}",
            device="none",
            pool="p",
            zone=f"z{h % 4}",
            speed=1.0,
            budgets={"device": 80 * GB},
            speeds=Speeds(disk_to_memory=3 * GB, memory_to_device=20 * GB, network_to_disk=GB),
            held=(*held_by(parts, "device"), *disk),
            running=(),
            finished=(),
        )
        placement.fold(state, Joined(host_id=hello.host_id, hello=hello), 0.0)
    return state, weights


def one_round(seed: int, *, on_disk: bool = True) -> dict[str, np.ndarray]:
    """CPU seconds of each request: shape (DECISIONS,), float64, of `deciding` alone and on the `whole way`."""
    rng = np.random.default_rng(seed)
    state, weights = build(rng, on_disk=on_disk)
    picks = rng.choice(VARIANTS, DECISIONS + HOSTS, p=weights).tolist()
    running: deque[tuple[str, AttemptKey, placement.Decision]] = deque()
    deciding, whole = [], []
    now = 1.0
    for number, pick in enumerate(picks):
        now += 5.0 / (0.7 * HOSTS)
        begun, decided = time.thread_time(), 0.0
        if len(running) > 0.7 * HOSTS:
            host, key, ended = running.popleft()
            done = Done(attempt=key, outputs=(), result={}, timings=Timings(run=5.0))
            placement.fold(state, Reported(host_id=host, message=done), now)
            placement.finished(state, ended.work, host, ended.booked_seconds, 5.0)
        work = Work(
            id=RequestId(str(number)),
            organization=OrganizationName(f"c{number % 50}"),
            version=Digest(f"v{pick}"),
            arrived_at=now,
        )
        placement.submit(state, work, now)
        while True:
            asked = time.thread_time()
            decision = placement.choose(state, now)
            decided += time.thread_time() - asked
            if decision is None:
                break
            key = AttemptKey(decision.request_id, 1)
            assigned = Assigned(
                host_id=decision.host_id,
                attempt=key,
                bundles=(decision.work.version,),
                run_seconds=decision.run_seconds,
                evicts=decision.evicts,
            )
            placement.commit(state, decision, assigned, now)
            running.append((decision.host_id, key, decision))
        if number >= HOSTS:
            deciding.append(decided)
            whole.append(time.thread_time() - begun)
    return {"deciding": np.array(deciding), "whole way": np.array(whole)}


def main() -> None:
    for on_disk in (True, False):
        rounds = [one_round(seed, on_disk=on_disk) for seed in range(ROUNDS)]
        where = "weights on the disks" if on_disk else "every load a download"
        for name in rounds[0]:
            rate = statistics.median(len(found[name]) / found[name].sum() for found in rounds)
            p99 = statistics.median(float(np.percentile(found[name], 99)) for found in rounds) * 1000
            print(
                f"{HOSTS} hosts x {VARIANTS} variants, {where}, {name}: {rate:,.0f} decisions a second, p99 {p99:.2f} ms;"
                f" ratios to the bars {rate / BAR_PER_SECOND:.2f} and {p99 / BAR_P99_MS:.2f}"
            )


if __name__ == "__main__":
    main()
