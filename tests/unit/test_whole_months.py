"""Which months lie whole in a period of days."""

import datetime as dt

import pytest

from registry.dashboard.customers import whole_months
from registry.dashboard.figures import Period


@pytest.mark.parametrize(
    ("since", "until", "first", "after"),
    [
        ("2026-01-01", "2026-01-31", "2026-01-01", "2026-02-01"),  # exactly one
        ("2026-01-02", "2026-03-30", "2026-02-01", "2026-03-01"),  # days at both ends
        ("2025-11-27", "2026-11-26", "2025-12-01", "2026-11-01"),  # a year back from today
        ("2026-11-05", "2026-12-10", "2026-12-11", "2026-12-11"),  # none, over a month's end
        ("2026-12-01", "2026-12-10", "2026-12-11", "2026-12-11"),  # none, from a month's first day
        ("2026-11-20", "2026-11-30", "2026-12-01", "2026-12-01"),  # none, to a month's last day
    ],
)
def test_whole_months_are_told_from_days_at_the_ends(since: str, until: str, first: str, after: str) -> None:
    end = dt.date.fromisoformat(until)
    period = Period(until=end, days=(end - dt.date.fromisoformat(since)).days + 1)
    assert period.since == dt.date.fromisoformat(since)
    assert whole_months(period) == {
        "first_month": dt.date.fromisoformat(first),
        "after_months": dt.date.fromisoformat(after),
    }
