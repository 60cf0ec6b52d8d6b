"""What is staged and dropped ahead of any request: launches, what is popular, the cold tail; each order given once."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from loaders.protocol import AttemptKey, Held, Hello, Residency, Speeds
from registry.catalog import Digest, Release, Share, Slug, Version, Window
from router import placement, prewarm
from router.demand import Demand, RunTimes
from router.fairness import Fairness
from router.fleet import Fleet
from router.hosts import Assigned, Joined, Reported
from router.placement import State
from router.prewarm import Drop, Launch, Memory, Stage
from router.residency import Bundle, Part
from router.valuation import HORIZON_SECONDS, MOST_BUSY
from router.waiting import Waiting
from tests.live import manifest

GB = 1 << 30
NOW = 1_000_000.0
SPEEDS = Speeds(disk_to_memory=1 * GB, memory_to_device=10 * GB, network_to_disk=0.1 * GB)
SIZES = {"new": 10, "old": 10, "rare": 10}
OPENS = NOW + 600


def state_with(hosts: Mapping[str, tuple[str, ...]], *, zones: Mapping[str, str] | None = None) -> State:
    """Hosts with room for two models each, and the models that they hold."""
    state = State(fleet=Fleet(), waiting=Waiting(Fairness()), demand=Demand(NOW - 3600), run_times=RunTimes())
    for name, size in SIZES.items():
        state.fleet.describe(Bundle(digest=Digest(name), parts=(Part(Digest(name), size * GB),)))
    for name, models in hosts.items():
        held = tuple(Held(digest=Digest(m), tier="device", size_bytes=SIZES[m] * GB) for m in models)
        hello = Hello(
            protocol=1, host_id=name, name=name, device="cpu", pool="local", zone=(zones or {}).get(name),
            speed=1.0, budgets={"device": 24 * GB}, speeds=SPEEDS, held=held, running=(), finished=(), slots=2,
        )  # fmt: skip
        placement.fold(state, Joined(host_id=name, hello=hello), NOW)
    return state


def launch(replicas: int, *, version: str = "new", stage_at: float = NOW - 1) -> Launch:
    return Launch(
        slug=Slug("acme/new"),
        version=Digest(version),
        replicas=replicas,
        stage_at=stage_at,
        opens_at=OPENS,
    )


def carry_out(state: State, memory: Memory, launches: tuple[Launch, ...], now: float = NOW) -> list[str]:
    """Fold what is staged; returns the hosts."""
    hosts = []
    for order in prewarm.plan(state, memory, launches, now):
        if isinstance(order, Stage):
            placement.fold(state, order.staging, now)
            hosts.append(order.staging.host_id)
    state.fleet.check_integrity()
    return hosts


def want(state: State, model: str, times: int, seconds: float = 30.0) -> None:
    for _ in range(times):
        state.demand.note(Digest(model), seconds, NOW)


def test_a_launch_gets_its_replicas_once_and_in_distinct_failure_domains() -> None:
    state = state_with({"a": ("new",), "b": (), "c": ()}, zones={"a": "north", "b": "north", "c": "south"})
    memory = Memory()
    assert carry_out(state, memory, (launch(2),)) == ["c"]
    assert carry_out(state, memory, (launch(2),), NOW + 3) == []
    (ready,) = prewarm.readiness(state.fleet, (launch(2),))
    assert (ready.warm, ready.loading) == (1, 1)
    arrived = Residency(added=(Held(digest=Digest("new"), tier="device", size_bytes=10 * GB),))
    placement.fold(state, Reported(host_id="c", message=arrived), NOW + 5)
    (ready,) = prewarm.readiness(state.fleet, (launch(2),))
    assert (ready.warm, ready.loading) == (2, 0)


def test_a_launch_waits_for_its_staging_time() -> None:
    state = state_with({"a": ()})
    assert carry_out(state, Memory(), (launch(1, stage_at=NOW + 1),)) == []
    assert prewarm.readiness(state.fleet, (launch(1),))[0].warm == 0


def test_what_did_not_arrive_is_believed_no_more_and_staged_again() -> None:
    state, memory = state_with({"a": ()}), Memory()
    assert carry_out(state, memory, (launch(1),)) == ["a"]
    later = NOW + 1000
    state.fleet.give_up_overdue(later)
    assert prewarm.readiness(state.fleet, (launch(1),))[0].loading == 0
    assert carry_out(state, memory, (launch(1),), later) == ["a"]


def test_launches_do_not_push_each_other_out() -> None:
    state = state_with({"a": ("new", "old")})
    both = (launch(1), launch(1, version="old"), launch(1, version="rare"))
    assert carry_out(state, Memory(), both) == []
    assert carry_out(state, Memory(), (launch(1), launch(1, version="rare"))) == ["a"]
    assert state.fleet.residency.copies[state.fleet.residency.parts[Digest("old")]] == 0


def test_what_a_launch_wants_is_pushed_out_last() -> None:
    state = state_with({"a": ("new", "old")})
    want(state, "old", 50)
    prewarm.plan(state, Memory(), (launch(1),), NOW)
    victims, _ = state.valuation.evictions(state.fleet, 0, 10 * GB, set())
    assert victims == (state.fleet.residency.parts[Digest("old")],)


def test_popular_models_get_the_copies_that_their_demand_fills() -> None:
    state = state_with({"a": ("old",), "b": (), "c": ()})
    want(state, "old", 10, 45.0)  # 450 busy seconds in five minutes: two copies and a half
    assert sorted(carry_out(state, Memory(), ())) == ["b", "c"]


def test_a_host_that_runs_a_long_video_neither_counts_as_a_copy_nor_gets_one() -> None:
    state = state_with({"a": ("old",), "b": (), "c": ()})
    want(state, "old", 5, 60.0)  # one copy and a half: two
    for host in ("a", "b"):
        assigned = Assigned(
            host_id=host, attempt=AttemptKey(host, 1), bundles=(Digest("rare"),), run_seconds=900.0
        )
        placement.fold(state, assigned, NOW)
    assert carry_out(state, Memory(), ()) == ["c"]
    assert carry_out(state, Memory(), (launch(2, version="old"),)) == [], "for a launch a's copy counts"


def test_a_copy_is_worth_less_the_more_hosts_could_stand_in_for_it() -> None:
    worths = {}
    for holders in (1, 2, 3):
        models = {name: ("old",) if number < holders else () for number, name in enumerate("abcd")}
        state = state_with(models)
        want(state, "old", 4, 300.0)  # 4 busy hosts' worth of four: as busy as it is counted
        state.valuation.refresh(state.fleet, state.demand, NOW)
        part = state.fleet.residency.parts[Digest("old")]
        worths[holders] = state.valuation.worth(state.fleet, state.fleet.hosts["a"], part)
    rate = float(state.demand.request_rates(NOW, 0)[0] + state.demand.request_rates(NOW, 1)[0]) / 2
    seconds = state.fleet.residency.seconds_at(state.fleet.residency.bundles[Digest("old")], 3)
    wanted = [1 - math.exp(-rate * MOST_BUSY**others * HORIZON_SECONDS) for others in (0, 1, 2)]
    assert worths == {n + 1: pytest.approx(share * seconds) for n, share in enumerate(wanted)}
    assert worths[1] > worths[2] > worths[3]


def test_little_demand_waits_for_its_caller() -> None:
    state = state_with({"a": ()})
    want(state, "old", 1, 2.0)
    assert carry_out(state, Memory(), ()) == []


def test_the_tail_is_offered_for_eviction_once() -> None:
    state, memory = state_with({"a": ("old", "rare")}), Memory()
    want(state, "old", 50)
    assert prewarm.plan(state, memory, (), NOW) == ()
    later = NOW + prewarm.IDLE_SECONDS + 1
    want(state, "old", 50)
    assert prewarm.plan(state, memory, (), later) == (Drop(host_id="a", digests=(Digest("rare"),)),)
    assert prewarm.plan(state, memory, (), later + 3) == ()


@pytest.mark.parametrize(
    ("window", "replicas"),
    [
        ({"public_from": 60}, [3, 1]),  # 75 % and 25 % of four
        ({"public_from": 60, "prewarm_replicas": 0}, []),
        ({"public_from": -10}, [3, 1]),  # open, but held for a while
        ({"public_from": -60}, []),  # demand decides by now
        ({"public_from": -20, "retired_from": -10}, []),
        ({}, []),  # an embargo without end
    ],
)
def test_launches_of_a_release(window: dict[str, int], replicas: list[int]) -> None:
    at = datetime.fromtimestamp(NOW, UTC)
    times = {name: at + timedelta(minutes=m) for name, m in window.items() if name.endswith("_from")}
    asked = window.get("prewarm_replicas", 4)
    release = Release(
        id=1,
        variant=Slug("acme/new"),
        shares=(Share(version=1, percent=75), Share(version=2, percent=25), Share(version=3, percent=0)),
        window=Window(prewarm_replicas=asked, **times),  # type: ignore[arg-type]
    )
    versions = {
        (Slug("acme/new"), number): Version(
            variant=Slug("acme/new"), number=number, manifest=manifest(str(number))
        )
        for number in (1, 2, 3)
    }
    found = prewarm.launches((release,), versions, {}, at)
    assert sorted((one.replicas for one in found), reverse=True) == replicas
    if found and found[0].opens_at > NOW:
        assert found[0].opens_at - found[0].stage_at == prewarm.ASSUMED_STAGING_SECONDS


def test_a_forecast_stands_in_for_demand_that_nobody_remembers() -> None:
    """After a quiet night, or a first start: the ledger knows what the day will want."""
    state = state_with({"a": ()})
    assert prewarm.plan(state, Memory(), (), NOW) == ()
    expected = {Digest("new"): 0.4, Digest("rare"): 0.001, Digest("unknown"): 3.0}
    (order,) = prewarm.plan(state, Memory(), (), NOW, expected)
    assert isinstance(order, Stage)
    assert (order.staging.bundles, order.reason) == ((Digest("new"),), "forecast")


def test_the_larger_of_demand_and_forecast_holds() -> None:
    state = state_with({"a": (), "b": (), "c": ()})
    want(state, "new", 100)
    orders = prewarm.plan(state, Memory(), (), NOW, {Digest("new"): 0.1})
    assert {order.reason for order in orders if isinstance(order, Stage)} == {"demand"}
