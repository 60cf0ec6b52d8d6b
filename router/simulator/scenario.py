"""Scenarios: a few lines of YAML say fleet, workload, outages and launches; a seed makes them concrete. Pure but for
the traces it has read.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from registry import strict_yaml
from registry.catalog import Digest, Slug
from registry.errors import CatalogFileError
from router import prewarm
from router.residency import Bundle, Part
from router.simulator import synthetic, traces
from router.simulator.engine import HostPlan, Outage
from router.simulator.errors import ScenarioError
from router.simulator.hardware import HostType
from router.simulator.ranges import Natural, NotNegative, Positive, Share
from router.simulator.synthetic import FAMILIES, Market
from router.simulator.workload import GB, Job, Workload, arrival_rate

SHOWN = 12  # of the names that there are
STAGING_SECONDS = 60.0  # before a launch opens
VIDEO = Digest("long-video")
VIDEO_SECONDS = 900.0
VIDEO_SIGMA, VIDEO_NOISE = (
    0.49,
    0.1,
)  # of log seconds: by frames, steps and size, which the input says; the rest


class Hosts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many machines of a type in one data centre."""

    type: str
    count: Natural
    data_centre: str = "a"


class Launch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new model that takes a share of all requests from a moment on."""

    at_seconds: NotNegative
    share: Share
    size_gb: Positive = 12.0
    prewarm_replicas: Annotated[int, msgspec.Meta(ge=0)] = (
        0  # that its window asks for; the peers know no such thing
    )


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `marquee simulate` plays."""

    name: str
    hosts: Annotated[tuple[Hosts, ...], msgspec.Meta(min_length=1)]
    types: dict[str, HostType] = msgspec.field(default_factory=lambda: {"h100": HostType()})
    workload: Literal["trace-loras", "trace-customers", "synthetic"] = "synthetic"
    requests: Natural = 10_000
    load: Positive = 0.7  # of all hosts' run seconds, loads not counted
    seeds: Natural = 3
    policies: tuple[str, ...] = ()  # empty: all
    market: Market = Market()
    long_video_share: Share = 0.0
    outages: tuple[Outage, ...] = ()
    launches: tuple[Launch, ...] = ()


def parse(text: str, **overrides: Any) -> Scenario:
    """Raises `ScenarioError`, which names the place."""
    try:
        values = strict_yaml.load(text)
        if not isinstance(values, dict):
            raise ScenarioError("not a scenario: a file of `name: value` lines, at least name and hosts")
        scenario = msgspec.convert({**values, **overrides}, Scenario)
    except CatalogFileError as error:
        place = "" if error.line is None else f"line {error.line}: "
        raise ScenarioError(f"{place}{error.reason}") from error
    except msgspec.ValidationError as error:
        raise ScenarioError(f"not a scenario: {error}") from error
    _check_names(scenario)
    _check_outages(scenario)
    if scenario.workload == "synthetic" and scenario.market.variants < len(scenario.market.families):
        raise ScenarioError(
            f"market has {scenario.market.variants} variants, fewer than its {len(scenario.market.families)} families"
        )
    return scenario


def _check_outages(scenario: Scenario) -> None:
    """Who is down cannot go down. Raises `ScenarioError`."""
    back_at: dict[str, float] = {}
    for outage in sorted(scenario.outages, key=lambda each: each.at_seconds):
        if outage.at_seconds <= back_at.get(outage.host, -1.0):
            raise ScenarioError(f"outages overlap: {outage.host} is down already at {outage.at_seconds:g} s")
        back_at[outage.host] = outage.at_seconds + outage.for_seconds


def _check_names(scenario: Scenario) -> None:
    """Whatever is named must be there. Raises `ScenarioError`."""
    for what, used, there in _names(scenario):
        if unknown := sorted(used.difference(there)):
            shown = ", ".join(there[:SHOWN]) + (", …" if there[SHOWN:] else "")
            raise ScenarioError(f"{what} that are not described: {', '.join(unknown)}; there are {shown}")


def _names(scenario: Scenario) -> Iterator[tuple[str, set[str], list[str]]]:
    """What names what, the names, and those that there are; each may count on the ones before."""
    yield "hosts name types", {group.type for group in scenario.hosts}, list(scenario.types)
    yield "outages name hosts", {o.host for o in scenario.outages}, [plan.name for plan in fleet(scenario)]
    yield "market names families", set(scenario.market.families), [family.name for family in FAMILIES]


def fleet(scenario: Scenario) -> list[HostPlan]:
    """Hosts are named by data centre, type and number: `a-h100-03`."""
    plans: list[HostPlan] = []
    for group in scenario.hosts:
        stem, kind = f"{group.data_centre}-{group.type}", scenario.types[group.type]
        begun = sum(plan.name.startswith(stem) for plan in plans)
        plans += [HostPlan(f"{stem}-{begun + i:02}", kind, group.data_centre) for i in range(group.count)]
    return plans


def workload(scenario: Scenario, seed: int, folder: Path) -> Workload:
    """The same seed gives the same jobs. Raises `TraceMissingError` through `traces`."""
    capacity = sum(plan.kind.speed for plan in fleet(scenario))
    if scenario.workload == "synthetic":
        rate = arrival_rate(synthetic.mean_run_seconds(scenario.market), scenario.load, capacity)
        made = synthetic.marketplace(scenario.market, seed=seed, requests=scenario.requests, rate=rate)
    else:
        read = traces.with_loras if scenario.workload == "trace-loras" else traces.with_customers
        made = read(folder, seed=seed, load=scenario.load, capacity=capacity, limit=scenario.requests)
    rng = np.random.default_rng(seed + 1_000_003)
    for index, launch in enumerate(scenario.launches):
        made = _with_launch(made, launch, Digest(f"launch-{index}"), rng)
    if scenario.long_video_share:
        made = _with_videos(made, scenario.long_video_share, rng)
    _check_rooms(scenario, made)
    return made


def _check_rooms(scenario: Scenario, made: Workload) -> None:
    """Some host must hold what each job needs, in every tier it passes. Raises `ScenarioError`."""
    bundles = {bundle.digest: bundle for bundle in made.bundles}
    sets = {(job.version, *job.adapters) for job in made.jobs}
    parts = ({part.digest: part.size_bytes for name in each for part in bundles[name].parts} for each in sets)
    needs, largest = max((sum(sizes.values()), each[0]) for sizes, each in zip(parts, sets, strict=True))
    kinds = {group.type: scenario.types[group.type] for group in scenario.hosts}
    if needs > (room := max(int(kind.device_gb * GB) for kind in kinds.values())):
        raise ScenarioError(
            f"{largest} needs {needs / GB:.1f} GB, and the largest host's device_gb is {room / GB:g}"
        )
    for name, kind in kinds.items():
        tiers = {"memory_gb": kind.memory_gb or kind.device_gb, "disk_gb": kind.disk_gb}
        for field, size_gb in tiers.items():
            if size_gb * GB < min(needs, kind.device_gb * GB):
                raise ScenarioError(
                    f"types.{name}.{field} is {size_gb:g}: less than its device and than {largest}, "
                    f"which needs {needs / GB:.1f} GB and passes there"
                )


def _with_launch(made: Workload, launch: Launch, name: Digest, rng: np.random.Generator) -> Workload:
    chosen = rng.random(len(made.jobs)) < launch.share
    jobs = [
        replace(job, version=name, adapters=()) if job.arrives_at >= launch.at_seconds and taken else job
        for job, taken in zip(made.jobs, chosen.tolist(), strict=True)
    ]
    bundle = _bundle(name, launch.size_gb)
    prior = {**made.prior_seconds, name: made.mean_run_seconds}
    planned = prewarm.Launch(
        slug=Slug(name),
        version=name,
        replicas=launch.prewarm_replicas,
        stage_at=launch.at_seconds - STAGING_SECONDS,
        opens_at=launch.at_seconds,
    )
    return Workload(made.name, [*made.bundles, bundle], jobs, prior, [*made.launches, planned])


def _with_videos(made: Workload, share: float, rng: np.random.Generator) -> Workload:
    """Some requests become long videos; arrivals are stretched, so that the load stays what it was."""
    before = made.mean_run_seconds
    jobs: list[Job] = []
    for job in made.jobs:
        if rng.random() < share:
            units = math.exp(rng.normal(0.0, VIDEO_SIGMA))
            seconds = VIDEO_SECONDS * units * math.exp(rng.normal(0.0, VIDEO_NOISE))
            jobs.append(
                replace(job, version=VIDEO, adapters=(), run_seconds=seconds, units=units, kind="video")
            )
        else:
            jobs.append(job)
    stretch = float(np.mean([job.run_seconds for job in jobs])) / before
    for job in jobs:
        job.arrives_at *= stretch
    prior = {**made.prior_seconds, VIDEO: VIDEO_SECONDS}
    bundles = [*made.bundles, _bundle(VIDEO, 28.6)]
    return Workload(f"{made.name}, long videos", bundles, jobs, prior, made.launches)


def _bundle(name: Digest, size_gb: float) -> Bundle:
    part = Part(Digest(f"{name}/weights"), int(size_gb * GB))
    return Bundle(digest=name, parts=(part,), fixed_seconds=2.0)
