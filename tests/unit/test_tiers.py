"""The plan of moves: only what is missing moves, room is made first, nothing wanted is evicted for something wanted."""

import pytest

from loaders.cache import WeightCache
from loaders.errors import NoRoomError
from loaders.protocol import Tier
from loaders.tiers import Move, Want, plan
from registry.catalog import Digest

A, B, C = (Digest(name) for name in "abc")


def tiers_of(budgets: dict[Tier, int], held: dict[Tier, list[Digest]]) -> dict[Tier, WeightCache]:
    made = {tier: WeightCache(budget, tier=tier) for tier, budget in budgets.items()}
    for tier, digests in held.items():
        for digest in digests:
            made[tier].add(digest, 10)
    return made


def want(digest: Digest) -> Want:
    return Want(digest=digest, disk_bytes=10, device_bytes=10)


def test_on_a_cpu_a_missing_component_is_fetched_and_loaded() -> None:
    assert plan([want(A)], tiers_of({"disk": 100, "device": 100}, {})) == (
        Move(kind="fetch", digest=A, tier="disk", size_bytes=10),
        Move(kind="load", digest=A, tier="device", size_bytes=10),
    )


def test_on_a_gpu_it_passes_through_memory() -> None:
    moves = plan([want(A)], tiers_of({"disk": 100, "memory": 100, "device": 100}, {"disk": [A]}))
    assert [(move.kind, move.tier) for move in moves] == [("load", "memory"), ("copy", "device")]


def test_what_is_already_near_does_not_move() -> None:
    assert plan([want(A)], tiers_of({"disk": 100, "device": 100}, {"device": [A]})) == ()


def test_room_is_made_before_arrivals_but_never_out_of_what_is_wanted() -> None:
    tiers = tiers_of({"disk": 100, "device": 20}, {"disk": [A, B, C], "device": [A, B]})
    assert plan([want(A), want(C)], tiers) == (
        Move(kind="evict", digest=B, tier="device", size_bytes=10),
        Move(kind="load", digest=C, tier="device", size_bytes=10),
    )


def test_a_target_further_away_stops_there() -> None:
    assert [m.kind for m in plan([want(A)], tiers_of({"disk": 100, "device": 5}, {}), target="disk")] == [
        "fetch"
    ]


def test_more_than_fits_is_refused_by_tier() -> None:
    with pytest.raises(NoRoomError) as caught:
        plan([want(A), want(B), want(C)], tiers_of({"disk": 100, "device": 20}, {}))
    assert caught.value.tier == "device"
