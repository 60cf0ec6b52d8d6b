"""The bandwidth cap, without a clock."""

from loaders.pace import Pace


def test_without_a_cap_nobody_waits() -> None:
    assert Pace().reserve(1 << 40, now=5.0) == 0.0


def test_bytes_are_granted_in_the_order_they_are_asked_for() -> None:
    pace = Pace(100.0)
    assert [pace.reserve(50, now=10.0) for _ in range(3)] == [0.5, 1.0, 1.5]
    assert pace.reserve(100, now=20.0) == 1.0, "time that nobody used is not saved up"
