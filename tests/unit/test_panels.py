"""Which panels say that there is nothing, in place of axes without a line."""

import datetime as dt
from typing import Any

import pytest

from registry.dashboard.panels import Chart, Column, Kind, Panel

DAYS = [dt.date(2026, 11, 26), dt.date(2026, 11, 27)]


@pytest.mark.parametrize(
    ("kind", "values", "empty"),
    [
        ("count", (0, 0), True),
        ("count", (0, 1), False),
        ("seconds", (None, float("nan")), True),
        ("share", (None, None), True),
        ("share", (None, 0.0), False),
    ],
    ids=["no requests", "one", "no times", "no requests to fail", "none of them failed"],
)
def test_a_chart_of_nothing_is_empty(kind: Kind, values: tuple[Any, Any], *, empty: bool) -> None:
    panel = Panel(
        id="one",
        title="One",
        columns=(Column(name="day", kind="day"), Column(name="what", kind=kind)),
        rows=list(zip(DAYS, values, strict=True)),
        chart=Chart(kind="lines"),
    )
    assert panel.is_empty is empty


def test_a_table_is_empty_without_rows_only() -> None:
    columns = (Column(name="host", kind="text"), Column(name="running"))
    panels = [Panel(id="one", title="One", columns=columns, rows=rows) for rows in ([], [("a", 0)])]
    assert [panel.is_empty for panel in panels] == [True, False]
