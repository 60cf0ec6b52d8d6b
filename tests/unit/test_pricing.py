"""The quick prices against a plain reading of the rule, host by host, on random fleets full of ties."""

import random

import pytest

from loaders.protocol import AttemptKey, Held, Hello, Residency, Speeds, Started
from registry.catalog import Digest, OrganizationName
from router import placement
from router.demand import Demand, RunTimes
from router.fairness import Fairness
from router.fleet import Fleet
from router.hosts import Assigned, Joined, Left, Reported
from router.numbers import NEVER
from router.pricing import Prices, State
from router.requests import RequestId
from router.residency import DEVICE, Bundle, Part
from router.waiting import Entry, Waiting, Work

GB = 1 << 30
VERSIONS = {f"v{i}": {f"v{i}/own": 4 + 4 * (i % 3), f"shared{i % 3}": 4} for i in range(9)}
ADAPTERS = {f"lora{i}": {f"lora{i}": 1} for i in range(5)}


def hello(rng: random.Random, number: int, *, alike: bool) -> Hello:
    """Round numbers everywhere, so that many prices are equal. `alike` hosts are equally fast and hold much."""
    sizes = {part: size for parts in (VERSIONS | ADAPTERS).values() for part, size in parts.items()}
    budget = 90 if alike else rng.choice([8, 24, 24, 40])
    held, room = [], budget
    for part in rng.sample(sorted(sizes), len(sizes)):
        if sizes[part] <= room and rng.random() < (0.9 if alike else 0.3):
            room -= sizes[part]
            held.append(Held(digest=Digest(part), tier="device", size_bytes=sizes[part] * GB))
        if rng.random() < 0.8:
            tier = rng.choice(["disk", "memory"])
            held.append(Held(digest=Digest(part), tier=tier, size_bytes=sizes[part] * GB))
    return Hello(
        protocol=1,
        host_id=f"h{number}",
        name=f"h{number}",
        device="cpu",
        pool="local",
        zone=rng.choice(["a", "b"]),
        speed=1.0 if alike else rng.choice([1.0, 1.0, 0.5]),
        budgets={"device": budget * GB},
        speeds=Speeds(disk_to_memory=1 * GB, memory_to_device=4 * GB, network_to_disk=0.5 * GB),
        held=tuple(held),
        running=(),
        finished=(),
        slots=rng.choice([1, 2, 2, 2]),
    )


class World:
    """A random fleet in the middle of its work."""

    def __init__(self, seed: int, *, alike: bool = False) -> None:
        self.rng, self.now, self.count, self.alike = random.Random(seed), 100.0, 0, alike
        fleet = Fleet()
        for kind, all_of in (("version", VERSIONS), ("adapter", ADAPTERS)):
            for name, parts in all_of.items():
                known = tuple(Part(Digest(part), size * GB) for part, size in parts.items())
                fleet.describe(Bundle(digest=Digest(name), parts=known, kind=kind))
        times = RunTimes({Digest(name): 4.0 for name in VERSIONS})
        self.state = State(fleet=fleet, waiting=Waiting(Fairness()), demand=Demand(0.0), run_times=times)
        for number in range(30 if alike else self.rng.randint(3, 14)):
            self.join(number)
        for _ in range(self.rng.randint(5, 40)):
            self.step()

    def join(self, number: int) -> None:
        said = hello(self.rng, number, alike=self.alike)
        placement.fold(self.state, Joined(host_id=said.host_id, hello=said), self.now)

    def step(self) -> None:
        self.now += self.rng.choice([0.0, 0.0, 1.0, 3.0])
        placement.submit(self.state, self.work(), self.now)
        if self.rng.random() < 0.05:
            placement.fold(self.state, Left(host_id=f"h{self.rng.randrange(14)}"), self.now)
        while decision := placement.choose(self.state, self.now):
            self.book(decision)
        if self.rng.random() < 0.3:
            self.arrive()
        if self.rng.random() < 0.3:
            self.begin()

    def work(self) -> Work:
        self.count += 1
        rng = self.rng
        faulty = [f"h{number}" for number in range(30)] if self.alike else ["h0", "h1", "h99"]
        return Work(
            id=RequestId(f"r{self.count}"),
            organization=OrganizationName(rng.choice("xyz")),
            version=Digest(rng.choice(sorted(VERSIONS))),
            adapters=tuple(map(Digest, rng.sample(sorted(ADAPTERS), rng.choice([0, 0, 0, 1, 2, 3])))),
            units=rng.choice([1.0, 1.0, 2.0]),
            arrived_at=self.now,
            excluded_hosts=frozenset(rng.sample(faulty, rng.choice([0, 0, 1, len(faulty) // 2]))),
        )

    def book(self, decision: placement.Decision) -> None:
        assigned = Assigned(
            host_id=decision.host_id,
            attempt=AttemptKey(decision.request_id, 1),
            bundles=(decision.work.version, *decision.work.adapters),
            run_seconds=decision.run_seconds,
            evicts=decision.evicts,
        )
        placement.commit(self.state, decision, assigned, self.now)

    def begin(self) -> None:
        """Some host runs its first attempt; it may take longer than anybody expects."""
        for name, host in self.state.fleet.hosts.items():
            first = next(iter(host.attempts.values()), None)
            if first is not None and first.started_at is None and self.rng.random() < 0.5:
                message = Started(attempt=first.key, phase="running")
                placement.fold(self.state, Reported(host_id=name, message=message), self.now)

    def arrive(self) -> None:
        """Some host reports what it loaded and dropped."""
        fleet = self.state.fleet
        if not fleet.hosts:
            return
        host = self.rng.choice(list(fleet.hosts.values()))
        keys, sizes = fleet.residency.parts.keys, fleet.residency.part_bytes
        added = tuple(Held(digest=keys[p], tier="device", size_bytes=sizes[p]) for p in host.arriving)
        removed = tuple(Held(digest=keys[p], tier="device", size_bytes=sizes[p]) for p in host.leaving)
        message = Residency(added=added, removed=removed)
        placement.fold(self.state, Reported(host_id=host.hello.host_id, message=message), self.now)


def plain(state: State, entry: Entry, tag: float, now: float, first_on: int | None) -> list[tuple]:
    """Every host by the rule as the documents have it: (price, index, terms, victims), cheapest first."""
    found = []
    for name, host in state.fleet.hosts.items():
        base, terms = _base(state, entry, tag, now, host, first=host.index == first_on)
        if name not in entry.work.excluded_hosts and base < NEVER / 2:
            found.append((base, host.index, terms))
    found.sort(key=lambda each: each[:2])
    near = found[: state.knobs.shortlist]
    near += [each for each in found if each[1] == first_on and each not in near]
    return sorted(_with_regret(state, entry, now, *each) for each in near)


def _base(state, entry, tag, now, host, *, first):
    fleet, residency, waiting = state.fleet, state.fleet.residency, state.waiting
    free_at = max(float(fleet.device_free_at[host.index]), now)
    running = next((a for a in host.attempts.values() if a.started_at is not None), None)
    if running and running.ends_at < now:
        others = [a for a in host.attempts.values() if a.started_at is None]
        awaited = [a for a in others if any(p in host.arriving and not host.held.get(p) for p in a.parts)]
        behind = sum(a.run_seconds for a in others if a not in awaited)
        free_at = max(free_at, now + 0.25 * (now - running.started_at) + behind)
    if not first:
        ahead = [
            float(waiting.plan_seconds[row])
            for row in range(len(waiting.rows))
            if waiting.plan_host[row] == host.index and waiting.tag[row] < tag
        ]
        if ahead:
            free_at += sum(ahead)
    loads = []
    for bundle in entry.bundles:
        parts = residency.bundle_parts[bundle]
        absent = [p for p in parts if residency.tier(p, host.index) < DEVICE]
        seconds = sum(residency.fetch_seconds(p, host.index, residency.tier(p, host.index)) for p in absent)
        loads.append(seconds + residency.described[bundle].fixed_seconds if absent else 0.0)
    needs = sum(
        residency.part_bytes[p]
        for bundle in entry.bundles
        for p in residency.bundle_parts[bundle]
        if residency.tier(p, host.index) < DEVICE
    )
    fetch, budget = sum(loads), float(fleet.budget_bytes[host.index])
    beside = float(fleet.pinned_bytes[host.index]) + needs <= budget and fleet.overlaps[host.index]
    begins = max(float(fleet.mover_free_at[host.index]), now) if beside else free_at
    coming = [host.arriving.get(p, 0.0) for b in entry.bundles for p in residency.bundle_parts[b]]
    start_at = max(free_at, begins + fetch if fetch else 0.0, *coming)
    run = entry.run_seconds / float(fleet.speed[host.index])
    total = sum(residency.size_bytes(bundle) for bundle in entry.bundles)
    base = start_at + state.knobs.mover * state.scarcity * fetch + run if total <= budget else NEVER
    return base, (free_at, start_at, loads, needs, run)


def _with_regret(state, entry, now, base, index, terms):
    free_at, start_at, loads, needs, run = terms
    residency, fetch = state.fleet.residency, sum(loads)
    victims, regret, spread = (), 0.0, 0.0
    if needs:
        keep = {p for bundle in entry.bundles for p in residency.bundle_parts[bundle]}
        victims, lost = state.valuation.evictions(
            state.fleet, index, needs, keep | state.waiting.planned_parts(index, residency.bundle_parts)
        )
        regret = state.knobs.regret * max(state.scarcity, state.knobs.least_scarcity) * lost
        zones = {
            float(state.fleet.zone[host.index])
            for host in state.fleet.hosts.values()
            if host.on_device >= set(residency.bundle_parts[entry.bundles[0]])
        }
        alone = state.fleet.has_several_zones and zones == {float(state.fleet.zone[index])}
        spread = state.knobs.spread_seconds * alone
    stall = start_at - free_at
    own = loads[0] / fetch if fetch else 1.0
    parts = (
        free_at - now,
        stall * own,
        stall * (1 - own),
        run,
        regret,
        spread,
        state.knobs.mover * state.scarcity * fetch,
    )
    return (base - now + regret + spread, index, parts, victims)


def compare(world: World) -> int:
    """Holds a few requests' prices against the plain ones; how many of them were priced on idle hosts alone."""
    state, now, ready = world.state, world.now, 0
    for _ in range(6):
        work = world.work()
        bundles = tuple(state.fleet.residency.bundles[d] for d in (work.version, *work.adapters))
        entry, tag = Entry(work, bundles, 4.0 * work.units), world.rng.uniform(0, 60)
        hosts = [host.index for host in state.fleet.hosts.values()]
        first_on = world.rng.choice([None, None, hosts[-1]] if world.alike else [None, *hosts])
        expected = plain(state, entry, tag, now, first_on)
        prices = Prices(state, entry, tag, now, first_on=first_on)
        ready += first_on is None and prices._ready() is not None
        best, candidates = prices.cheapest(), prices.candidates()
        names = state.fleet.names.keys
        assert [names[index] for _, index, _, _ in expected] == [c.host_id for c in candidates]
        for (_, _, terms, _), c in zip(expected, candidates, strict=True):
            found = (c.wait, c.load, c.adapters, c.run, c.regret, c.spread, c.mover)
            assert found == pytest.approx(terms, abs=1e-6)
        cheapest = None if best is None else (best.host, best.victims)
        assert cheapest == next(((index, victims) for _, index, _, victims in expected), None)
    return ready


@pytest.mark.parametrize("seed", range(40))
def test_quick_prices_are_the_plain_ones(seed):
    compare(World(seed))


def test_prices_on_idle_hosts_alone_are_the_plain_ones():
    """Hosts that are free, late, overdue without having begun, planned on, excluded: all among equally fast ones."""
    assert sum(compare(World(seed, alike=True)) for seed in range(80)) > 40
