"""Placement by its prices: each case says what the fleet looks like and where the cheapest seconds are."""

from collections.abc import Mapping

import msgspec
import pytest

from loaders.protocol import AttemptKey, Done, Held, Hello, Residency, Speeds, Started, Timings
from registry.catalog import Digest, OrganizationName
from router import placement
from router.demand import Demand, RunTimes
from router.fairness import Fairness
from router.fleet import Fleet
from router.hosts import Assigned, Joined, Left, Reported
from router.placement import Decision, State
from router.requests import RequestId
from router.residency import Bundle, Part
from router.waiting import Waiting, Work

GB = 1 << 30
SPEEDS = Speeds(disk_to_memory=1 * GB, memory_to_device=10 * GB, network_to_disk=0.1 * GB)
MODELS = {
    "flux": {"flux-transformer": 12, "t5": 5},
    "flux-tuned": {"tuned-transformer": 12, "t5": 5},
    "sdxl": {"sdxl-unet": 5},
    "huge": {"huge-transformer": 60},
}
RUN_SECONDS = 4.0


def hello(
    name: str,
    held: Mapping[str, int] | None = None,
    *,
    zone: str | None = None,
    slots: int = 2,
    speed: float = 1.0,
    tier: str = "device",
) -> Hello:
    on_disk = [
        Held(digest=Digest(d), tier="disk", size_bytes=size * GB)
        for parts in MODELS.values()
        for d, size in parts.items()
    ]
    warm = [Held(digest=Digest(d), tier=tier, size_bytes=size * GB) for d, size in (held or {}).items()]
    return Hello(
        protocol=1,
        host_id=name,
        name=name,
        device="cpu",
        pool="local",
        zone=zone,
        speed=speed,
        budgets={"device": 24 * GB},
        speeds=SPEEDS,
        held=(*on_disk, *warm),
        running=(),
        finished=(),
        slots=slots,
    )


class Site:
    """A state with its clock, and the dispatcher's three moves."""

    def __init__(self) -> None:
        times = RunTimes({Digest(name): RUN_SECONDS for name in MODELS})
        self.state = State(fleet=Fleet(), waiting=Waiting(Fairness()), demand=Demand(0.0), run_times=times)
        for name, parts in MODELS.items():
            known = tuple(Part(Digest(d), size * GB) for d, size in parts.items())
            self.state.fleet.describe(Bundle(digest=Digest(name), parts=known, fixed_seconds=0.0))
        lora = Bundle(
            digest=Digest("lora"), parts=(Part(Digest("lora"), GB),), kind="adapter", fixed_seconds=0.0
        )
        self.state.fleet.describe(lora)
        self.now = 100.0
        self.count = 0

    def join(self, *hellos: Hello) -> None:
        for each in hellos:
            placement.fold(self.state, Joined(host_id=each.host_id, hello=each), self.now)

    def submit(self, version: str = "flux", *, organization: str = "acme", **fields: object) -> RequestId:
        self.count += 1
        request_id = RequestId(f"r{self.count}")
        work = Work(
            id=request_id,
            organization=OrganizationName(organization),
            version=Digest(version),
            arrived_at=self.now,
            **fields,
        )  # type: ignore[arg-type]
        placement.submit(self.state, work, self.now)
        return request_id

    def step(self) -> Decision | None:
        decision = placement.choose(self.state, self.now)
        if decision is not None:
            assigned = Assigned(
                host_id=decision.host_id,
                attempt=AttemptKey(decision.request_id, 1),
                bundles=(decision.work.version, *decision.work.adapters),
                run_seconds=decision.run_seconds,
                evicts=decision.evicts,
            )
            placement.commit(self.state, decision, assigned, self.now)
        self.state.fleet.check_integrity()
        self.state.waiting.check_integrity()
        return decision

    def drain(self) -> dict[str, str]:
        placed = {}
        while decision := self.step():
            placed[str(decision.request_id)] = decision.host_id
        return placed

    def report(self, host: str, *messages: object) -> None:
        for message in messages:
            placement.fold(self.state, Reported(host_id=host, message=message), self.now)  # type: ignore[arg-type]

    def done(self, host: str, request: str) -> None:
        self.report(host, Done(attempt=AttemptKey(request, 1), outputs=(), result={}, timings=Timings()))


@pytest.fixture
def site() -> Site:
    return Site()


def test_a_warm_host_is_cheaper_than_a_cold_one(site: Site) -> None:
    site.join(hello("cold"), hello("warm", MODELS["flux"]))
    site.submit("flux")
    decision = site.step()
    assert decision is not None
    assert (decision.host_id, decision.chosen.load, decision.chosen.run) == ("warm", 0.0, RUN_SECONDS)
    assert [c.host_id for c in decision.candidates] == ["warm", "cold"]
    assert decision.candidates[1].load == pytest.approx(17 * 1.1)


def test_a_shared_component_is_not_loaded_twice(site: Site) -> None:
    site.join(hello("a-nothing"), hello("has-t5", {"t5": 5}))
    site.submit("flux-tuned")
    decision = site.step()
    assert decision is not None
    assert decision.host_id == "has-t5"
    assert decision.chosen.load == pytest.approx(12 * 1.1)


def test_memory_is_nearer_than_disk(site: Site) -> None:
    site.join(hello("a-disk"), hello("memory", MODELS["flux"], tier="memory"))
    site.submit("flux")
    decision = site.step()
    assert decision is not None
    assert (decision.host_id, decision.chosen.load) == ("memory", pytest.approx(1.7))


def test_a_faster_host_wins_when_both_are_warm(site: Site) -> None:
    site.join(hello("a-slow", MODELS["flux"], speed=0.5), hello("fast", MODELS["flux"]))
    site.submit("flux")
    assert site.drain() == {"r1": "fast"}


def test_waiting_for_a_warm_host_costs_less_than_loading(site: Site) -> None:
    site.join(hello("cold"), hello("warm", MODELS["flux"], slots=1))
    site.submit("flux")
    site.submit("flux")
    assert site.drain() == {"r1": "warm"}, "4 s of waiting are less than 18.7 s of loading"
    site.now += RUN_SECONDS
    site.done("warm", "r1")
    assert site.drain() == {"r2": "warm"}


def test_a_long_queue_pays_for_a_second_copy(site: Site) -> None:
    site.join(hello("cold"), hello("warm", MODELS["flux"], slots=1))
    for _ in range(10):
        site.submit("flux")
    placed = site.drain()
    assert placed["r1"] == "warm"
    assert "cold" in placed.values(), "the tenth would wait for 36 s"


def test_several_requests_join_one_load(site: Site) -> None:
    site.join(hello("a"), hello("slow", speed=0.25))
    site.submit("flux")
    site.submit("flux")
    first, second = site.step(), site.step()
    assert first is not None
    assert second is not None
    assert second.host_id == first.host_id
    assert second.chosen.load == 0.0
    assert second.chosen.wait == pytest.approx(17 * 1.1 + RUN_SECONDS)


def test_a_load_hides_behind_the_run_before_it(site: Site) -> None:
    site.join(hello("only", {"sdxl-unet": 5}))
    site.submit("sdxl", units=10.0)
    site.submit("flux")
    site.step()
    second = site.step()
    assert second is not None
    assert second.chosen.load == 0.0, "18.7 s of loading within 40 s of running"


def elsewhere(name: str, *held: str, **fields: object) -> Hello:
    """A host that has only these parts on its disk; others come over the network."""
    said = hello(name, **fields)  # type: ignore[arg-type]
    return msgspec.structs.replace(said, held=tuple(part for part in said.held if part.digest in held))


def test_a_download_holds_up_nobody_whose_weights_are_there(site: Site) -> None:
    site.join(elsewhere("only", "sdxl-unet"))
    site.submit("flux")
    assert site.drain() == {"r1": "only"}
    site.submit("sdxl")
    decision = site.step()
    assert decision is not None
    movers = (17 + 5) * (1 + 0.1)  # seconds, and none of the network's 170
    assert (decision.chosen.wait, decision.chosen.load) == (0.0, pytest.approx(movers))


def test_who_joins_a_download_waits_for_what_is_left_of_it(site: Site) -> None:
    site.join(elsewhere("only", slots=3))
    for version in ("flux", "flux"):
        site.submit(version)
    first, joining = site.step(), site.step()
    assert first is not None
    assert joining is not None
    assert first.chosen.load == pytest.approx(17 * (10 + 1 + 0.1))
    assert joining.chosen.wait + joining.chosen.load == pytest.approx(first.chosen.load)


def test_downloads_come_one_after_the_other(site: Site) -> None:
    site.join(elsewhere("only", slots=3))
    for version in ("flux", "sdxl"):
        site.submit(version)
    site.drain()
    arriving = site.state.fleet.hosts["only"].arriving
    sdxl = site.state.fleet.residency.parts[Digest("sdxl-unet")]
    assert arriving[sdxl] - site.now == pytest.approx((17 + 5) * 10 + 5 * (1 + 0.1))


def test_what_does_not_fit_the_device_is_never_chosen(site: Site) -> None:
    site.join(hello("small"))
    site.submit("huge")
    assert site.step() is None


def test_an_excluded_host_is_never_chosen(site: Site) -> None:
    site.join(hello("bad", MODELS["flux"]), hello("other"))
    site.submit("flux", excluded_hosts=frozenset({"bad"}))
    assert site.drain() == {"r1": "other"}


def test_the_less_wanted_weights_go(site: Site) -> None:
    site.join(hello("a", {"sdxl-unet": 5, "t5": 5, "flux-transformer": 12}))
    for _ in range(20):
        site.submit("flux", organization="popular")
    for request in list(site.state.waiting.row_of):
        placement.cancel(site.state, request)
    site.submit("flux-tuned")
    decision = site.step()
    assert decision is not None
    assert "sdxl-unet" in decision.evicts
    assert "t5" not in decision.evicts


def test_a_batch_does_not_delay_another_customer(site: Site) -> None:
    site.join(hello("only", MODELS["flux"]))
    for _ in range(1000):
        site.submit("flux", organization="batch")
    site.drain()
    single = site.submit("flux", organization="single")
    site.now += RUN_SECONDS
    site.done("only", "r1")
    assert site.drain() == {single: "only"}


def test_low_priority_uses_only_what_is_left(site: Site) -> None:
    site.join(hello("only", MODELS["flux"]))
    low = site.submit("flux", priority="low")
    normal = site.submit("flux")
    site.submit("flux")
    assert set(site.drain().values()) == {"only"}
    assert low not in site.state.waiting or normal not in site.state.waiting


def test_what_one_leaves_for_idle_devices_holds_up_nothing_else_of_ones_own(site: Site) -> None:
    site.join(hello("only", MODELS["flux"]))
    for _ in range(300):
        site.submit("flux", organization="acme", priority="low")
    for _ in range(300):
        site.submit("flux", organization="batch")
    site.drain()
    normal = site.submit("flux", organization="acme")
    site.now += RUN_SECONDS
    site.done("only", next(iter(site.state.fleet.hosts["only"].attempts)).request_id)
    assert site.drain() == {normal: "only"}


def test_a_second_of_a_slow_host_counts_for_what_it_is_worth(site: Site) -> None:
    site.join(hello("slow", MODELS["flux"], speed=0.5))
    site.submit("flux")
    decision = site.step()
    assert decision is not None
    assert (decision.run_seconds, decision.booked_seconds) == (2 * RUN_SECONDS, RUN_SECONDS)
    placement.finished(site.state, decision.work, "slow", decision.booked_seconds, 3 * RUN_SECONDS)
    assert site.state.fairness.peek("acme") == 1.5 * RUN_SECONDS


def test_a_lost_host_is_forgotten_and_its_plans_made_again(site: Site) -> None:
    site.join(hello("cold"), hello("warm", MODELS["flux"], slots=1))
    site.submit("flux")
    site.submit("flux")
    site.drain()
    placement.fold(site.state, Left(host_id="warm"), site.now)
    assert site.drain() == {"r2": "cold"}


def test_all_that_waited_for_a_lost_host_runs_when_it_is_back(site: Site) -> None:
    """Their old plans' finish times must not make the returned host look too late."""
    site.join(hello("only", MODELS["flux"], slots=1))
    waiting = [site.submit() for _ in range(5)]
    assert len(site.drain()) == 1
    placement.fold(site.state, Left(host_id="only"), site.now)
    assert site.drain() == {}
    site.now += 60
    placed = []
    for _ in waiting[1:]:
        site.join(hello("only", MODELS["flux"], slots=1))  # free again
        placed += site.drain()
        placement.fold(site.state, Left(host_id="only"), site.now)
        site.now += 1
    assert sorted(placed) == waiting[1:]


def test_reports_correct_what_was_expected(site: Site) -> None:
    site.join(hello("a"))
    request = site.submit("sdxl")
    site.drain()
    part = Held(digest=Digest("sdxl-unet"), tier="device", size_bytes=5 * GB)
    site.now += 6
    site.report("a", Residency(added=(part,)), Started(attempt=AttemptKey(request, 1), phase="running"))
    assert site.state.fleet.device_free_at[0] == site.now + RUN_SECONDS
    site.done("a", request)
    site.report("a", Residency(removed=(part,)))
    site.state.fleet.check_integrity()
    assert site.state.fleet.residency.seconds(site.state.fleet.residency.bundles[Digest("sdxl")])[
        0
    ] == pytest.approx(5.5)


def test_what_was_planned_behind_another_goes_when_the_other_does(site: Site) -> None:
    """Nothing happens on the idle host: without the other's plan it has to be looked at again."""
    site.join(hello("only", MODELS["flux"]))
    first, second = site.submit(units=2.0), site.submit()
    site.state.waiting.unplanned.clear()
    site.state.fleet.opened.clear()
    for request in (first, second):
        site.state.waiting.plan(site.state.waiting.row_of[request], 0, 4.0, site.now + 8.0)
    placement.cancel(site.state, first)
    assert site.drain() == {second: "only"}


def test_the_first_of_a_new_version_are_not_the_last_because_nobody_knew_how_quick_it_is(site: Site) -> None:
    """Their runs were thought to take a minute; who comes later is booked with the seconds that they do take."""
    state, waiting = site.state, site.state.waiting
    state.run_times.priors[Digest("flux")] = 60.0
    waiting.limit = 3
    first, *others = [site.submit() for _ in range(5)]
    assert site.step() is None
    done = waiting.entry(waiting.row_of[first]).work
    placement.cancel(state, first)
    for _ in range(20):
        placement.finished(state, done, "gone", 60.0, 2.0)
    late = site.submit()
    entries = {entry.work.id: entry for entry in (*filter(None, waiting.rows), *waiting._behind.values())}
    booked = [entries[request_id].run_seconds for request_id in (*others, late)]
    assert booked == pytest.approx([2.0] * 5, rel=0.5)
    site.join(hello("a", {"flux-transformer": 12, "t5": 5}, slots=9))
    assert list(site.drain()) == [*others, late]
