"""The pool and the backlog behind it."""

from registry.catalog import Digest, OrganizationName
from router import placement
from router.demand import Demand, RunTimes
from router.fairness import Fairness
from router.fleet import Fleet
from router.requests import RequestId
from router.waiting import LOW_TAG, Waiting, Work


def work(name: str, organization: str = "acme", priority: str = "normal") -> Work:
    return Work(
        id=RequestId(name),
        organization=OrganizationName(organization),
        version=Digest("v"),
        arrived_at=0.0,
        priority=priority,
    )


def filled(count: int, limit: int = 4) -> Waiting:
    waiting = Waiting(Fairness(), limit)
    for number in range(count):
        waiting.add(work(f"r{number}"), (1,), 4.0)
    return waiting


def test_a_batch_fills_the_pool_and_no_more():
    waiting = filled(1000)
    assert (len(waiting.row_of), len(waiting)) == (4, 1000)
    waiting.check_integrity()


def test_the_backlog_moves_up_in_order():
    waiting = filled(10)
    for number in range(10):
        assert waiting.remove(RequestId(f"r{number}")).work.id == f"r{number}"
        waiting.check_integrity()
    assert len(waiting) == 0


def test_everybody_who_waits_has_one_in_the_pool():
    waiting = filled(1000)
    waiting.add(work("single", "other"), (1,), 4.0)
    assert "single" in waiting.row_of
    waiting.check_integrity()


def test_low_priority_comes_after_all_others():
    waiting = filled(2)
    waiting.add(work("low", priority="low"), (1,), 4.0)
    waiting.add(work("normal", "late"), (1,), 4.0)
    tags = waiting.tag
    assert tags[waiting.row_of["low"]] > tags[waiting.row_of["normal"]]


def test_cancelled_in_the_backlog_is_skipped():
    waiting = filled(10)
    waiting.remove(RequestId("r4"))
    waiting.remove(RequestId("r0"))
    assert "r5" in waiting.row_of
    assert waiting.remove(RequestId("r4")) is None
    waiting.check_integrity()


def test_plans_count_for_those_behind_them_only():
    waiting = filled(2)
    first, second = waiting.row_of["r0"], waiting.row_of["r1"]
    waiting.plan(first, 1, 5.0, 100.0)
    assert waiting.planned_ahead(float(waiting.tag[second]), 3).tolist() == [0.0, 5.0, 0.0]
    assert waiting.planned_ahead(float(waiting.tag[first]), 3) is None
    waiting.replan_host(1)
    assert waiting.plan_host[first] < 0
    assert first in waiting.unplanned
    waiting.check_integrity()


def test_what_was_never_booked_gives_nothing_back():
    """Else whoever submits and cancels ten thousand gets ahead of everybody."""
    state = placement.State(fleet=Fleet(), waiting=filled(10), demand=Demand(0.0), run_times=RunTimes())
    assert state.fairness.peek(OrganizationName("acme")) == 16.0
    for number in range(4, 10):
        placement.cancel(state, RequestId(f"r{number}"))
    assert state.fairness.peek(OrganizationName("acme")) == 16.0
    placement.cancel(state, RequestId("r3"))
    assert state.fairness.peek(OrganizationName("acme")) == 12.0


def test_who_came_later_gets_before_nobody_of_its_own_however_wrong_the_estimates_were():
    """Estimates of a new version may be minutes for what takes seconds; tags were given by them."""
    waiting = filled(3, limit=8)
    other = work("other", "beta")
    waiting.add(other, (1,), 4.0)
    done = waiting.remove(RequestId("r0"))
    waiting.fairness.start(0.0)
    waiting.correct(done.work, 4.0, 0.5)
    waiting.add(work("late"), (1,), 0.5)
    tags = {name: waiting.tag[row] for name, row in waiting.row_of.items()}
    assert tags == {"other": 0.0, "r1": 0.5, "r2": 4.5, "late": 8.5}
    cancelled = waiting.remove(RequestId("r1"))
    waiting.correct(cancelled.work, 4.0, 0.0, tag=0.5)
    tags = {name: waiting.tag[row] for name, row in waiting.row_of.items()}
    assert tags == {"other": 0.0, "r2": 0.5, "late": 4.5}, "nearer, and still in their order"
    waiting.correct(cancelled.work, 4.0, 0.0)
    assert waiting.tag[waiting.row_of["r2"]] == 0.0, "not before the clock"
    assert waiting.tag[waiting.row_of["late"]] == 4.0
    assert waiting.fairness.peek("acme") == 4.5, "and what comes next is behind them"
    waiting.check_integrity()


def test_what_ran_longer_than_booked_puts_its_own_back_and_keeps_their_order():
    waiting = filled(2)
    waiting.add(work("low", priority="low"), (1,), 4.0)
    done = waiting.remove(RequestId("r0"))
    waiting.correct(done.work, 4.0, 10.0)
    assert (waiting.tag[waiting.row_of["r1"]], waiting.fairness.peek("acme")) == (10.0, 14.0)
    assert waiting.tag[waiting.row_of["low"]] == LOW_TAG
