"""Which months lie whole in a period of days, and which days remain."""

import datetime as dt

import pytest

from registry.dashboard.figures import Period


@pytest.mark.parametrize(
    ("since", "until", "months", "first", "last", "edges"),
    [
        ("2026-01-01", "2026-01-31", 1, "2026-01-01", "2026-01-01", 0),  # exactly one
        ("2026-01-02", "2026-03-30", 1, "2026-02-01", "2026-02-01", 60),  # days at both ends
        ("2025-11-27", "2026-11-26", 11, "2025-12-01", "2026-10-01", 30),  # a year back from today
        ("2024-02-01", "2024-02-28", 0, None, None, 28),  # one day is missing of a leap year's
        ("2026-11-05", "2026-12-10", 0, None, None, 36),  # none, over a month's end
        ("2026-12-01", "2026-12-10", 0, None, None, 10),  # none, from a month's first day
        ("2026-11-20", "2026-11-30", 0, None, None, 11),  # none, to a month's last day
    ],
)
def test_whole_months_are_told_from_days_at_the_ends(
    since: str, until: str, months: int, first: str | None, last: str | None, edges: int
) -> None:
    end = dt.date.fromisoformat(until)
    period = Period(until=end, days=(end - dt.date.fromisoformat(since)).days + 1)
    assert period.since == dt.date.fromisoformat(since)
    found = [month.isoformat() for month in period.months]
    assert (len(found), found[:1], found[-1:]) == (months, [first] * bool(first), [last] * bool(last))
    assert len(period.edges) == edges
    in_months = [day for day in period.dates if day.replace(day=1) in period.months]
    assert sorted(in_months + period.edges) == period.dates
