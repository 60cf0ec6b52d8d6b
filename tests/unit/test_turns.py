"""Turns of one key: no more than its share at once, in order, and never lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.requests import RequestId
from router.turns import Turns


def test_without_a_limit_nobody_waits() -> None:
    turns = Turns(None)
    assert all(turns.enter(RequestId(str(n)), "key") for n in range(100))


def test_the_next_comes_when_one_leaves() -> None:
    turns = Turns(1)
    assert [turns.enter(RequestId(name), "key") for name in "abc"] == [True, False, False]
    assert turns.enter(RequestId("other"), "other key")
    assert [turns.leave(RequestId(name)) for name in "abc"] == ["b", "c", None]


def test_who_gives_up_waiting_is_skipped() -> None:
    turns = Turns(1)
    for name in "abc":
        turns.enter(RequestId(name), "key")
    assert turns.leave(RequestId("b")) is None
    assert turns.leave(RequestId("a")) == "c"


@pytest.mark.parametrize("limit", [1, 2, 3])
@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["enter", "leave", "claim"]), st.integers(0, 9), st.sampled_from("xy"))
    )
)
def test_books_stay_right(limit: int, moves: list[tuple[str, int, str]]) -> None:
    turns = Turns(limit)
    key_of: dict[RequestId, str] = {}
    for move, number, key in moves:
        request_id = RequestId(str(number))
        if move == "leave":
            turns.leave(request_id)
            key_of.pop(request_id, None)
        elif request_id not in key_of:
            key_of[request_id] = key
            (turns.enter if move == "enter" else turns.claim)(request_id, key)
        turns.check_integrity()
