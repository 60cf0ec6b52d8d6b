"""Plays a scenario: every policy on every seed's workload. Pure; `report` prints what comes of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from loaders.cache import Order
from router.simulator import measure, scenario
from router.simulator.bounds import Belady, FreeLoads
from router.simulator.engine import Policy, Run, Simulation
from router.simulator.errors import ScenarioError
from router.simulator.marquee import Marquee
from router.simulator.measure import Figures
from router.simulator.peers import PEERS, Ect
from router.simulator.scenario import Scenario
from router.simulator.workload import Workload


@dataclass(frozen=True)
class Contender:
    """A policy with the hosts it is played on."""

    name: str
    source: str
    make: Callable[[Workload, int], Policy]
    overlaps: bool | None = None  # None: as its documents have it
    free_loads: bool = False
    clairvoyant: bool = False
    is_peer: bool = True  # not we, not a bound
    order: Order = "lru"  # of the hosts' caches


def _marquee(workload: Workload, seed: int) -> Policy:
    return Marquee(workload.bundles, workload.prior_seconds, launches=workload.launches)


def _peer(kind: type) -> Callable[[Workload, int], Policy]:
    def make(workload: Workload, seed: int) -> Policy:
        peer: Policy = kind({bundle.digest: bundle for bundle in workload.bundles}, Random(seed))  # noqa: S311  a simulation's
        return peer

    return make


def contenders() -> dict[str, Contender]:
    """All of them by name, in the order of the table."""
    found = [Contender(kind.name, kind.source, _peer(kind)) for kind in PEERS]
    ours = "peer's rule on hosts that load during runs, as ours do"
    found += [Contender(f"{Ect.name}, overlapped", ours, _peer(Ect), overlaps=True, is_peer=False)]
    found += [Contender(Marquee.name, Marquee.source, _marquee, is_peer=False)]
    cost = "the rule above on hosts that evict by cost (GreedyDual-Size-Frequency in seconds)"
    found += [Contender(f"{Ect.name}, overlapped, GDSF", cost, _peer(Ect), True, is_peer=False, order="cost")]
    found += [Contender("marquee, GDSF", cost, _marquee, is_peer=False, order="cost")]
    belady = "bound: ECT over Belady's cache, overlapped"
    found += [Contender("clairvoyant cache", belady, _peer(Ect), True, clairvoyant=True, is_peer=False)]
    found += [Contender(FreeLoads.name, FreeLoads.source, _peer(FreeLoads), free_loads=True, is_peer=False)]
    return {each.name: each for each in found}


@dataclass(frozen=True)
class Result:
    """One contender's runs, by seed."""

    contender: Contender
    figures: tuple[Figures, ...]
    last_run: Run


def play(plan: Scenario, folder: Path, tell: Callable[[str], None]) -> list[Result]:
    """`tell` hears of each run as it ends. Raises `ScenarioError` for a policy that is not known."""
    known = contenders()
    unknown = set(plan.policies) - known.keys()
    if unknown:
        raise ScenarioError(f"unknown policies {sorted(unknown)}; known are {list(known)}")
    chosen = [known[name] for name in plan.policies or known]
    runs: dict[str, list[Run]] = {each.name: [] for each in chosen}
    figures: dict[str, list[Figures]] = {each.name: [] for each in chosen}
    for seed in range(1, plan.seeds + 1):
        made = scenario.workload(plan, seed, folder)
        for each in chosen:
            run = play_one(each, plan, made, seed)
            runs[each.name] = [run]
            figures[each.name].append(measure.measure(run))
            tell(f"seed {seed}: {each.name} mean {figures[each.name][-1].mean:.2f} s")
    return [Result(each, tuple(figures[each.name]), runs[each.name][0]) for each in chosen]


def play_one(each: Contender, plan: Scenario, made: Workload, seed: int) -> Run:
    bundles = {bundle.digest: bundle for bundle in made.bundles}
    return Simulation(
        each.make(made, seed),
        made,
        scenario.fleet(plan),
        outages=plan.outages,
        overlaps=each.overlaps,
        free_loads=each.free_loads,
        evictor=Belady(made.jobs, bundles) if each.clairvoyant else None,
        order=each.order,
    ).play()


def best_peer(results: Iterable[Result], figure: str) -> Result | None:
    """The peer with the smallest mean of a figure."""
    peers = [r for r in results if r.contender.is_peer and not any(each.unfinished for each in r.figures)]
    return min(peers, key=lambda r: measure.summarise(r.figures)[figure].mean, default=None)
