"""Whose turn it is, said in tags: lower goes first."""

from registry.catalog import OrganizationName
from router.fairness import Fairness

BATCH, SINGLE = OrganizationName("batch"), OrganizationName("single")


def test_a_batch_queues_behind_itself_and_not_before_others():
    fairness = Fairness()
    tags = [fairness.book(BATCH, 4.0) for _ in range(10_000)]
    fairness.start(tags[0])
    assert fairness.book(SINGLE, 4.0) <= tags[1]


def test_a_weight_is_a_share():
    fairness = Fairness({BATCH: 2.0})
    assert [fairness.book(BATCH, 4.0) for _ in range(3)] == [0.0, 2.0, 4.0]
    assert [fairness.book(SINGLE, 4.0) for _ in range(3)] == [0.0, 4.0, 8.0]


def test_idling_saves_up_no_credit():
    fairness = Fairness()
    for _ in range(5):
        fairness.start(fairness.book(BATCH, 10.0))
    assert fairness.peek(SINGLE) == 40.0


def test_books_are_put_right():
    fairness = Fairness()
    fairness.book(BATCH, 10.0)
    fairness.correct(BATCH, 10.0, 3.0)
    assert fairness.peek(BATCH) == 3.0
    fairness.correct(BATCH, 3.0, 0.0)
    fairness.start(1.0)
    assert fairness.peek(BATCH) == 1.0
