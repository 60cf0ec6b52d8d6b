"""The simulator against small worlds whose answers are known, and the promises of every policy."""

import importlib.util
import itertools
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from loaders.protocol import Done, Residency
from registry.catalog import Digest
from router import cli
from router.residency import Bundle, Part
from router.simulator import experiment, measure, report, scenario, synthetic
from router.simulator.bounds import Belady, FreeLoads
from router.simulator.cli import simulate
from router.simulator.engine import HostPlan, Outage, Send, Simulation, StageOrder
from router.simulator.errors import ScenarioError, TraceMissingError
from router.simulator.hardware import HostType
from router.simulator.marquee import Marquee
from router.simulator.peers import PEERS, Ect, RayMultiplex
from router.simulator.workload import GB, Job, Workload, last_that_fit

KIND = HostType(device_gb=10, disk_gb_per_second=1.0, device_gb_per_second=1e9)
SMALL = """
name: small
requests: 300
seeds: 1
load: 0.6
market: {variants: 40, customers: 50, loras: 20, families: [small-image, large-image]}
types: {h100: {device_gb: 40}}
hosts: [{type: h100, count: 6, data_centre: a}, {type: h100, count: 2, data_centre: b}]
launches: [{at_seconds: 50, share: 0.2}]
outages: [{host: a-h100-00, at_seconds: 30, for_seconds: 20}]
"""


def bundle(name: str, gb: float = 4.0) -> Bundle:
    return Bundle(digest=Digest(name), parts=(Part(Digest(f"{name}/w"), int(gb * GB)),), fixed_seconds=1.0)


def world(*arrivals: tuple[float, str, float]) -> Workload:
    jobs = [
        Job(i, at, "c", Digest(version), (), seconds, 1.0)
        for i, (at, version, seconds) in enumerate(arrivals)
    ]
    bundles = [bundle(name) for name in ("a", "b", "c")]
    return Workload("by hand", bundles, jobs, {b.digest: 2.0 for b in bundles})


def test_a_cold_request_loads_then_runs_and_a_warm_one_only_runs():
    made = world((0.0, "a", 2.0), (20.0, "a", 2.0))
    run = Simulation(Ect({b.digest: b for b in made.bundles}, Random(1)), made, [HostPlan("h", KIND)]).play()
    assert run.finished_at == {0: pytest.approx(7.0), 1: pytest.approx(22.0)}, (
        "1 s fixed, 4 s of bytes, 2 s of run"
    )


@pytest.mark.parametrize(("overlaps", "finish"), [(True, 9.0 + 5.0), (False, 9.0 + 5.0 + 5.0)])
def test_a_load_hides_behind_a_run_only_where_hosts_overlap(overlaps, finish):
    made = world((0.0, "a", 9.0), (0.0, "b", 5.0))
    policy = Ect({b.digest: b for b in made.bundles}, Random(1))
    run = Simulation(policy, made, [HostPlan("h", KIND)], overlaps=overlaps).play()
    assert run.finished_at[1] == pytest.approx(5.0 + finish)


ELSEWHERE = msgspec.structs.replace(KIND, on_disk=False, network_gb_per_second=1.0)


@pytest.mark.parametrize(
    ("overlaps", "ends"), [(True, [11.0, 44.0, 33.0]), (False, [11.0, 44.0, 46.0])], ids=["ours", "others'"]
)
def test_who_waits_for_the_network_lets_others_by_on_our_hosts(overlaps, ends):
    """4 s of network, 4 s of disk, 1 s fixed; what is warm comes a second after what is not."""
    made = world((0.0, "a", 2.0), (30.0, "b", 5.0), (31.0, "a", 2.0))
    policy = Ect({b.digest: b for b in made.bundles}, Random(1))
    simulation = Simulation(policy, made, [HostPlan("h", ELSEWHERE)], overlaps=overlaps)
    assert list(simulation.play().finished_at.items()) == sorted(enumerate(ends), key=lambda each: each[1])


def test_who_is_ready_runs_though_another_came_first_and_finds_no_room_beside_it():
    made = world((0.0, "a", 2.0), (30.0, "big", 5.0), (31.0, "a", 20.0), (32.0, "a", 2.0))
    made.bundles.append(bundle("big", 8.0))
    policy = Ect({b.digest: b for b in made.bundles}, Random(1))
    run = Simulation(policy, made, [HostPlan("h", ELSEWHERE)], overlaps=True).play()
    assert run.finished_at == {0: 11.0, 2: 51.0, 3: 53.0, 1: 53.0 + 8.0 + 1.0 + 5.0}


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_comes_from_elsewhere_all_runs_and_nothing_stays_pinned(seed, tmp_path):
    """Small disks, so that nearly everything does; prewarms among it."""
    text = SMALL.replace("device_gb: 40", "device_gb: 40, memory_gb: 60, disk_gb: 120, on_disk: false")
    plan = scenario.parse(text, requests=600)
    made = scenario.workload(plan, seed, tmp_path)
    policy = Marquee(made.bundles, made.prior_seconds)
    simulation = Simulation(policy, made, scenario.fleet(plan), outages=plan.outages)
    run = simulation.play()
    assert len(run.finished_at) == 600
    for machine in simulation.machines.values():
        if not machine.queue and machine.running is None and machine.loading is None and not machine.prewarms:
            assert {tier: cache.pinned for tier, cache in machine.caches.items()} == dict.fromkeys(
                machine.caches, frozenset()
            )


def test_an_outage_while_weights_come_from_elsewhere_leaves_nothing_pinned():
    made = world((0.0, "a", 2.0), (0.5, "b", 2.0), (1.0, "c", 2.0), (1.5, "a", 2.0))
    policy = Marquee(made.bundles, made.prior_seconds)
    outage = Outage(host="h", at_seconds=6.0, for_seconds=3.0)
    simulation = Simulation(policy, made, [HostPlan("h", ELSEWHERE)], outages=[outage])
    run = simulation.play()
    disk = simulation.machines["h"].caches["disk"]
    disk.check_integrity()
    assert (sorted(run.finished_at), disk.pinned) == ([0, 1, 2, 3], frozenset())


def test_weights_in_use_are_never_evicted_and_the_budget_never_passed():
    made = world(*((i * 0.5, "abc"[i % 3], 3.0) for i in range(60)))
    for policy in [
        Marquee(made.bundles, made.prior_seconds),
        Ect({b.digest: b for b in made.bundles}, Random(1)),
    ]:
        simulation = Simulation(policy, made, [HostPlan("h", KIND), HostPlan("i", KIND)])
        run = simulation.play()
        assert len(run.finished_at) == 60
        for machine in run.machines:
            machine.device.check_integrity()
    assert simulation.now >= 60 * 3.0 / 2


def test_belady_lets_go_what_is_wanted_last():
    made = world((0.0, "a", 1.0), (1.0, "b", 1.0), (30.0, "b", 1.0), (90.0, "a", 1.0))
    by_digest = {b.digest: b for b in made.bundles}
    belady = Belady(made.jobs, by_digest)
    assert belady.next_use(Digest("a/w"), 5.0) == 90.0
    assert belady.next_use(Digest("c/w"), 5.0) == float("inf")


def test_free_loads_is_a_queue_without_loading():
    made = world((0.0, "a", 4.0), (0.0, "b", 4.0), (0.0, "c", 4.0))
    policy = FreeLoads({b.digest: b for b in made.bundles}, Random(1))
    run = Simulation(policy, made, [HostPlan("h", KIND), HostPlan("i", KIND)], free_loads=True).play()
    assert sorted(run.finished_at.values()) == [4.0, 4.0, 8.0]


def test_an_outage_loses_nothing():
    made = world(*((i * 1.0, "ab"[i % 2], 3.0) for i in range(20)))
    outage = Outage("h", 5.0, 10.0)
    for kind in (*PEERS, None):
        by_digest = {b.digest: b for b in made.bundles}
        policy = kind(by_digest, Random(1)) if kind else Marquee(made.bundles, made.prior_seconds)
        run = Simulation(policy, made, [HostPlan("h", KIND), HostPlan("i", KIND)], outages=[outage]).play()
        assert len(run.finished_at) == 20, policy.name


class Hesitant(FreeLoads):
    """Sends nothing before it is woken, and asks to have been woken a second ago."""

    def wake_at(self, now: float) -> float | None:
        return now - 1.0 if self.queue else None

    def act(self, now: float) -> Sequence[Send | StageOrder]:
        self.acts = getattr(self, "acts", 0) + 1
        return super().act(now) if self.acts > 1 else ()


def test_who_asks_to_be_woken_in_the_past_is_woken_now():
    made = world((5.0, "a", 2.0))
    policy = Hesitant({b.digest: b for b in made.bundles}, Random(1))
    run = Simulation(policy, made, [HostPlan("h", KIND)], free_loads=True).play()
    assert run.finished_at == {0: 7.0}


def test_rays_requests_wait_at_the_router_once_every_replica_has_its_five():
    made = world(*((0.0, "a", 10.0) for _ in range(8)))
    policy = RayMultiplex({b.digest: b for b in made.bundles}, Random(1))
    run = Simulation(policy, made, [HostPlan("h", KIND)]).play()
    ends = [15.0 + 10.0 * turn for turn in range(8)]
    assert sorted(run.finished_at.values()) == pytest.approx(ends), "the host has work at any time"
    assert (policy.pending, policy.routed, policy.due_at) == (deque(), [], float("inf"))


def test_the_same_seed_plays_the_same(tmp_path):
    plan = scenario.parse(SMALL, policies=["marquee", "ray multiplex"])
    once, twice = (experiment.play(plan, tmp_path, lambda _: None) for _ in range(2))
    assert [r.figures for r in once] == [r.figures for r in twice]


def test_every_contender_finishes_and_the_table_names_it(tmp_path):
    plan = scenario.parse(SMALL, requests=120)
    results = experiment.play(plan, tmp_path, lambda _: None)
    assert [r.contender.name for r in results if r.figures[0].unfinished] == []
    text = report.table(plan, results)
    assert all(f"| {name} |" in text for name in experiment.contenders())
    assert "under the best peer" in text
    free = next(r for r in results if r.contender.name == "free loads")
    assert free.figures[0].base_loads == 0


@pytest.mark.parametrize(
    ("ours", "said"),
    [(9.0, "10 % under"), (10.04, "0 % under"), (11.0, "10 % over")],
    ids=["ahead", "level", "behind"],
)
def test_the_verdict_says_how_far_we_are_from_the_best_peer(ours, said):
    figures = dict.fromkeys(measure.Figures.__struct_fields__, 10.0) | {"unfinished": 0}
    known = experiment.contenders()
    results = [
        experiment.Result(known[name], (measure.Figures(**figures | {"mean": mean}),), last_run=None)
        for name, mean in (("random", 10.0), ("marquee", ours))
    ]
    assert report.verdict(results)[0] == f"- mean: {ours:.1f} s, {said} the best peer (random)"


def test_marquee_never_books_what_does_not_happen(tmp_path):
    plan = scenario.parse(SMALL)
    made = scenario.workload(plan, 1, tmp_path)
    policy = Marquee(made.bundles, made.prior_seconds)
    original, seen = policy.report, []

    def report_and_check(host, message, now):
        original(host, message, now)
        if isinstance(message, Done | Residency) and len(seen) < 150:
            seen.append(message)
            policy.state.fleet.check_integrity()
            policy.state.waiting.check_integrity()

    policy.report = report_and_check
    Simulation(policy, made, scenario.fleet(plan), outages=plan.outages).play()
    assert len(policy.state.waiting) == 0
    for name, host in policy.state.fleet.hosts.items():
        assert host.attempts == {}, name


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("name: x", "hosts"),
        ("name: x\nhosts: [{type: none, count: 1}]", "none"),
        ("name: x\nhosts: [{type: h100, count: 1}]\nlaod: 1", "laod"),
        ("[", "line 2: not YAML"),
        ("", "a file of `name: value` lines"),
        ("name: x\nhosts: []", "hosts"),
        ("name: x\nhosts: [{type: h100, count: 0}]", r"hosts\[0\]\.count"),
        (f"{SMALL}load: 0", "line 11: 'load' stands twice"),
        (SMALL.replace("load: 0.6", "load: 0"), "load"),
        (SMALL.replace("load: 0.6", "load: .inf"), "load"),
        (SMALL.replace("load: 0.6", "load: .nan"), "load"),
        (SMALL.replace("requests: 300", "requests: -1"), "requests"),
        (SMALL.replace("device_gb: 40", "device_gb: 40, memry_gb: 9"), "memry_gb"),
        (SMALL.replace("variants: 40", "varants: 40"), "varants"),
        (SMALL.replace("for_seconds: 20", "for_secs: 20"), "for_secs"),
        (SMALL.replace("variants: 40", "variants: 1"), "1 variants, fewer than its 2 families"),
        (
            SMALL.replace("outages: [", "outages: [{host: a-h100-00, at_seconds: 20, for_seconds: 15}, "),
            "a-h100-00 is down already at 30 s",
        ),
        (f"{SMALL}long_video_share: 2", "long_video_share"),
        (SMALL.replace("device_gb: 40", "speed: 0"), r"types\[\.\.\.\]\.speed"),
        (SMALL.replace("variants: 40", "half_life_days: 0"), r"market\.half_life_days"),
        (SMALL.replace("large-image", "huge-image"), "huge-image; there are small-image, large-image"),
        (SMALL.replace("for_seconds: 20", "for_seconds: -20"), r"outages\[0\]\.for_seconds"),
        (SMALL.replace("a-h100-00", "a-h100-99"), "a-h100-99; there are a-h100-00, a-h100-01"),
    ],
)
def test_a_wrong_scenario_is_refused_with_its_place(text, place):
    with pytest.raises(ScenarioError, match=place):
        scenario.parse(text)


@pytest.mark.parametrize("name", ["nowhere", ".", "noise.yaml"])
def test_what_is_no_file_of_a_scenario_is_one_line(capsys, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "noise.yaml").write_bytes(b"\xff\xfe")
    assert cli.main(["simulate", name]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {name}: ")
    assert "give a YAML file, or one of customers, marketplace, mixed" in said


def test_a_missing_trace_says_what_to_do(tmp_path):
    plan = scenario.parse("name: x\nworkload: trace-loras\nhosts: [{type: h100, count: 1}]")
    with pytest.raises(TraceMissingError, match="--trace"):
        scenario.workload(plan, 1, tmp_path)


def test_an_interval_is_students():
    figures = [measure.Figures(**dict.fromkeys(measure.Figures.__struct_fields__, v)) for v in (1.0, 3.0)]
    found = measure.summarise(figures)["mean"]
    assert (found.mean, found.half) == (2.0, pytest.approx(12.71))
    assert measure._student(10) == pytest.approx(2.228, abs=0.01), "beyond the table it is no normal yet"


def test_plots_that_cannot_be_drawn_are_refused_before_anything_is_simulated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(simulate, ["mixed", "--plots", str(tmp_path / "plots")])
    assert (result.exit_code, result.output) == (
        1,
        "Error: plots need matplotlib: pip install 'marquee[sim]', or leave --plots away\n",
    )


def test_a_disk_begins_with_the_newest_weights_that_fit_and_keeps_what_they_share():
    shared = Part(Digest("text"), 2)
    bundles = [Bundle(digest=Digest(n), parts=(Part(Digest(n), 3), shared)) for n in ("old", "mid", "new")]
    assert [part.digest for part in last_that_fit(bundles, 8)] == ["mid", "new", "text"]
    assert [part.digest for part in last_that_fit(bundles, 7)] == ["new", "text"]


def test_every_figure_gets_its_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plan = scenario.parse(SMALL, requests=40, policies=["marquee", "random", "free loads"])
    drawn = report.plots(plan, experiment.play(plan, tmp_path, lambda line: None), tmp_path / "plots")
    assert [path.name for path in drawn] == [
        f"small-{name}.png"
        for name in ("latency", "base-loads", "lora-loads", "stalled", "worst", "fairness")
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


@pytest.mark.parametrize("speeds", [(1.0,), (1.0, 1.0, 1.0)])
def test_free_loads_waits_as_queueing_theory_says(speeds):
    """Job by job what a first-come-first-served queue before n servers is: each is served by who is free first."""
    rng = Random(5)
    arrivals, at = [], 0.0
    for _ in range(500):
        at += rng.expovariate(0.8 * len(speeds) / 2.0)
        arrivals.append((at, rng.choice("abc"), rng.expovariate(1 / 2.0) + 0.01))
    made = world(*arrivals)
    policy = FreeLoads({b.digest: b for b in made.bundles}, Random(1))
    fleet = [HostPlan(f"h{n}", KIND) for n in range(len(speeds))]
    run = Simulation(policy, made, fleet, free_loads=True).play()
    free_at, expected = [0.0] * len(speeds), {}
    for number, (came, _, seconds) in enumerate(arrivals):
        first = min(range(len(speeds)), key=lambda n: free_at[n])
        free_at[first] = max(free_at[first], came) + seconds
        expected[number] = free_at[first]
    assert run.finished_at == pytest.approx(expected)


def test_weights_that_no_host_holds_are_named(tmp_path):
    """They were waited for, for ever."""
    plan = scenario.parse(SMALL.replace("share: 0.2", "share: 0.2, size_gb: 100"))
    with pytest.raises(
        ScenarioError, match=r"launch-0 needs 100\.0 GB, and the largest host's device_gb is 40"
    ):
        scenario.workload(plan, 1, tmp_path)
    plan = scenario.parse(SMALL.replace("device_gb: 40", "device_gb: 40, memory_gb: 3"))
    with pytest.raises(
        ScenarioError, match=r"types\.h100\.memory_gb is 3: less than its device and than v\d+"
    ):
        scenario.workload(plan, 1, tmp_path)


def test_what_lies_on_a_host_that_is_too_small_is_told(tmp_path):
    """Latencies are of what finished alone; and who never sends there has nothing to tell."""
    text = SMALL.replace("hosts: [", "hosts: [{type: small, count: 1}, ").replace(
        "types: {", "types: {small: {device_gb: 9}, "
    )
    plan = scenario.parse(text, requests=60, policies=["marquee", "random"])
    results = experiment.play(plan, tmp_path, lambda _: None)
    ours, others = (result.figures[0].unfinished for result in results)
    assert (ours, others > 0) == (0, True)
    assert f"- random: {others} requests never ran" in report.table(plan, results)
    assert experiment.best_peer(results, "mean") is None


def test_peers_know_what_versions_share_and_where_it_lies():
    """As exactly as the hosts move it: what ECT expects of a job is what it then takes."""
    shared = Part(Digest("text"), int(4 * GB))
    bundles = [
        Bundle(digest=Digest(n), parts=(Part(Digest(f"{n}/w"), int(2 * GB)), shared), fixed_seconds=1.0)
        for n in ("a", "b")
    ]
    jobs = [
        Job(n, at, "c", Digest(v), (), 2.0, 1.0) for n, (at, v) in enumerate([(0, "a"), (20, "b"), (40, "b")])
    ]
    kind = HostType(device_gb=20, memory_gb=30, disk_gb_per_second=1.0, device_gb_per_second=10.0)
    policy = Ect({b.digest: b for b in bundles}, Random(1))
    expected, original = {}, policy.pick

    def pick(job, now):
        expected[job.number] = now + policy.finish(job, policy.hosts["h"], now)
        return original(job, now)

    policy.pick = pick
    made = Workload("by hand", bundles, jobs, {})
    run = Simulation(policy, made, [HostPlan("h", kind)]).play()
    assert expected == pytest.approx({0: 9.6, 1: 25.2, 2: 42.0}), "6 GB read and copied, then 2 GB, then none"
    assert run.finished_at == pytest.approx(expected)


def test_belady_keeps_what_its_own_queue_waits_for():
    """It came before now, so it is in no list of what will come."""
    made = world((0.0, "a", 1.0), (0.1, "b", 1.0), (0.2, "c", 1.0), (0.3, "a", 1.0), (90.0, "b", 1.0))
    by_digest = {b.digest: b for b in made.bundles}
    policy, belady = Ect(by_digest, Random(1)), Belady(made.jobs, by_digest)
    run = Simulation(policy, made, [HostPlan("h", KIND)], evictor=belady).play()
    assert run.finished_at[3] == run.finished_at[2] + 1.0, "c came in b's place, not in a's"


def test_every_family_has_a_variant_and_bursts_make_their_share():
    market = synthetic.Market(
        variants=5, burst_share=0.5, burst_size=10, families=("small-image",), customers=4000
    )
    made = synthetic.marketplace(market, seed=3, requests=8000, rate=1.0)
    runs = [
        len(list(group)) for _, group in itertools.groupby((job.customer, job.version) for job in made.jobs)
    ]
    assert 0.4 < sum(run for run in runs if run >= 10) / 8000 < 0.6
    owner = synthetic._family_of_variants(np.random.default_rng(1), list(synthetic.FAMILIES), 5)
    assert sorted(owner) == [0, 1, 2, 3, 4]
