"""The byte-budgeted cache: who goes first, who may not go, and that the books balance whatever happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders.cache import Order, WeightCache
from loaders.errors import NoRoomError
from registry.catalog import Digest

A, B, C, D = (Digest(name) for name in "abcd")


def test_the_longest_untouched_goes_first() -> None:
    cache = WeightCache(30)
    for digest in (A, B, C):
        assert cache.add(digest, 10) == ()
    cache.touch(A)
    assert cache.add(D, 15) == (B, C)
    assert list(cache) == [A, D]


def test_what_is_pinned_stays_until_every_pin_is_released() -> None:
    cache = WeightCache(20)
    cache.add(A, 10)
    cache.add(B, 10)
    cache.pin(A)
    cache.pin(A)
    assert cache.victims(10) == (B,)
    cache.release(A)
    with pytest.raises(NoRoomError) as caught:
        cache.victims(15)
    assert (caught.value.wanted_bytes, caught.value.pinned_bytes, caught.value.budget_bytes) == (15, 10, 20)
    cache.release(A)
    assert cache.victims(15) == (A, B)


@pytest.mark.parametrize("order", ["lru", "cost"])
def test_what_is_kept_for_a_launch_goes_last_until_its_time_is_over(order: Order) -> None:
    cache = WeightCache(30, order=order)
    for digest in (A, B, C):
        cache.add(digest, 10, reload_seconds=1.0)
    cache.keep(A, 100.0)
    cache.keep(B, 50.0)
    cache.keep(B, 20.0)  # a second, shorter wish takes nothing back
    assert cache.victims(20) == (C, A)
    cache.lapse(50.0)
    assert cache.victims(20) == (B, C)
    cache.keep(B, 100.0)
    cache.demote(A)
    assert cache.victims(20) == (A, C)
    cache.evict(B)
    cache.check_integrity()


def test_what_takes_no_room_is_not_sent_away_for_some() -> None:
    cache = WeightCache(20)
    cache.add(A, 0)
    cache.add(B, 20)
    assert cache.add(C, 10) == (B,)
    assert list(cache) == [A, C]


def test_victims_changes_nothing_and_keeps_whom_it_is_told() -> None:
    cache = WeightCache(20)
    cache.add(A, 10)
    cache.add(B, 10)
    assert cache.victims(5, keep=frozenset({A})) == (B,)
    assert list(cache) == [A, B]


def test_a_demoted_entry_goes_before_older_ones() -> None:
    cache = WeightCache(20)
    cache.add(A, 10)
    cache.add(B, 10)
    cache.demote(B)
    assert cache.add(C, 10) == (B,)


def test_by_cost_the_cheap_to_reload_goes_before_the_dear() -> None:
    cache = WeightCache(20, order="cost")
    cache.add(A, 10, reload_seconds=60.0)
    cache.add(B, 10, reload_seconds=1.0)
    cache.touch(B)
    assert cache.add(C, 10, reload_seconds=5.0) == (B,)


def test_by_cost_an_entry_out_of_use_ages() -> None:
    cache = WeightCache(20, order="cost")
    cache.add(A, 10, reload_seconds=3.0)
    cache.add(B, 10, reload_seconds=1.0)
    for round_number in range(4):
        newcomer = Digest(f"new{round_number}")
        cache.add(newcomer, 10, reload_seconds=2.0)
    assert A not in cache


def test_what_a_move_took_is_what_it_would_cost_again() -> None:
    cache = WeightCache(20, order="cost")
    for digest, seconds in ((A, 2.0), (B, 1.0)):
        cache.add(digest, 10)
        cache.price(digest, seconds)
    assert cache.victims(10) == (B,)
    cache.price(A, 0.5)
    assert cache.victims(10) == (A,)


def test_evicting_ages_who_stays() -> None:
    cache = WeightCache(20, order="cost")
    cache.add(A, 10, reload_seconds=3.0)
    for number in range(4):
        cache.add(Digest(f"new{number}"), 10, reload_seconds=2.0)
        for victim in cache.victims(10):
            cache.evict(victim)
    assert A not in cache


def test_the_largest_reserve_is_kept_free_as_far_as_pins_allow() -> None:
    cache = WeightCache(30)
    for digest in (A, B, C):
        cache.add(digest, 10)
    cache.reserve("first", 5)
    cache.reserve("second", 15)
    assert cache.victims(0) == (A, B)
    cache.pin(B)
    cache.reserve("second", 25)
    assert (cache.reserved_bytes, cache.victims(0)) == (20, (A, C))
    cache.reserve("second", 0)
    assert (cache.reserved_bytes, cache.victims(0)) == (5, (A,))
    with pytest.raises(NoRoomError):
        cache.victims(20)
    cache.give_up_reserves()
    assert cache.victims(20) == (A, C)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "touch", "pin", "release", "discard", "demote"]),
            st.sampled_from([A, B, C, D]),
            st.integers(0, 40),
        ),
        max_size=60,
    ),
    st.sampled_from(["lru", "cost"]),
)
def test_the_books_balance_after_any_sequence(steps: list[tuple[str, Digest, int]], order: str) -> None:
    cache = WeightCache(50, order="lru" if order == "lru" else "cost")
    for step, digest, size_bytes in steps:
        if step == "add":
            try:
                evicted = cache.add(digest, size_bytes, reload_seconds=float(size_bytes % 7))
                assert not any(victim in cache for victim in evicted)
            except NoRoomError:
                assert digest not in cache
        elif digest not in cache:
            continue
        elif step == "touch":
            cache.touch(digest)
        elif step == "pin":
            cache.pin(digest)
        elif step == "release" and cache.is_pinned(digest):
            cache.release(digest)
        elif step == "discard" and not cache.is_pinned(digest):
            cache.discard(digest)
        elif step == "demote":
            cache.demote(digest)
        cache.check_integrity()
