"""Which months are counted whole in a period of days, and which days put that right."""

import datetime as dt

import pytest

from registry.dashboard.figures import Period


@pytest.mark.parametrize(
    ("since", "until", "months", "added", "beyond"),
    [
        ("2026-01-01", "2026-01-31", ["2026-01-01"], 0, 0),  # exactly one
        ("2026-01-02", "2026-03-30", ["2026-01-01", "2026-02-01", "2026-03-01"], 0, 2),
        ("2026-01-20", "2026-03-05", ["2026-02-01"], 17, 0),  # little of those at the ends
        ("2024-02-01", "2024-02-28", ["2024-02-01"], 0, 1),  # one day is missing of a leap year's
        ("2026-11-05", "2026-12-10", ["2026-11-01"], 10, 4),
        ("2026-11-16", "2026-11-30", [], 15, 0),  # half of one
        ("2026-12-01", "2026-12-10", [], 10, 0),
        ("2026-11-10", "2026-11-27", ["2026-11-01"], 0, 12),  # both ends in one month
    ],
)
def test_months_and_days_make_the_period(
    since: str, until: str, months: list[str], added: int, beyond: int
) -> None:
    end = dt.date.fromisoformat(until)
    period = Period(until=end, days=(end - dt.date.fromisoformat(since)).days + 1)
    assert period.since == dt.date.fromisoformat(since)
    assert [month.isoformat() for month in period.months] == months
    assert (len(period.edges) - len(period.beyond), len(period.beyond)) == (added, beyond)
    assert set(period.beyond) <= set(period.edges)
    assert not set(period.beyond) & set(period.dates)
    counted = {
        month + dt.timedelta(days=n)
        for month in period.months
        for n in range(31)
        if (month + dt.timedelta(days=n)).month == month.month
    }
    assert sorted(counted - set(period.beyond) | set(period.edges) - set(period.beyond)) == period.dates


def test_a_year_reads_few_days_one_by_one() -> None:
    period = Period(until=dt.date(2026, 11, 26), days=365)
    assert (len(period.months), len(period.edges)) == (12, 8)
