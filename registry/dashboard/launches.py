"""Launches: the calendar of windows, how ready the fleet is for them, and first hours against earlier launches."""

from collections.abc import Sequence

from registry.dashboard.figures import Figures, Row
from registry.dashboard.live import FleetState
from registry.dashboard.model import windows_panel
from registry.dashboard.panels import Chart, Column, Page, Panel

COMPARED = 6
HOURS = 72


async def page(figures: Figures, fleet: FleetState | None) -> Page:
    releases = await figures.rows("releases", slug=None)
    firsts = await figures.rows("first_days")
    shown = _largest_newcomers(firsts)
    curves = {row["slug"]: await figures.rows("first_hours", slug=row["slug"]) for row in shown}
    planned = [row for row in releases if row["window"].get("prewarm_replicas") and not row["withdrawn_at"]]
    return Page(
        title="Launches",
        panels=(
            windows_panel(releases, with_model=True),
            _first_hours(curves),
            _readiness(planned, fleet),
            _begun(firsts),
        ),
    )


def _largest_newcomers(firsts: Sequence[Row]) -> list[Row]:
    """What was there on the first day of all is no newcomer."""
    began = min((row["day"] for row in firsts), default=None)
    found = [row for row in firsts if row["day"] != began]
    return sorted(found, key=lambda row: (-row["requests"], row["slug"]))[:COMPARED]


def _readiness(planned: Sequence[Row], fleet: FleetState | None) -> Panel:
    """How many hosts hold the variant's weights on their device, against how many were asked for."""
    warm = fleet.warm if fleet else {}
    said = {launch.slug: launch.said(fleet.at) for launch in fleet.launches} if fleet else {}
    rows = [
        (
            row["variant"],
            row["window"].get("prewarm_replicas", 0),
            warm.get(row["variant"], 0),
            said.get(row["variant"], ""),
        )
        for row in planned
    ]
    columns = (
        Column(name="model", kind="model"),
        Column(name="replicas wanted"),
        Column(name="hosts warm now"),
        Column(name="readiness", kind="text"),
    )
    return Panel(
        id="readiness", title="Prewarming", columns=columns, rows=rows, empty="No launch asks for prewarming."
    )


def _first_hours(curves: dict[str, list[Row]]) -> Panel:
    total = {slug: _running(rows) for slug, rows in curves.items()}
    rows = [(hour, *(total[slug][hour] for slug in total)) for hour in range(HOURS)] if total else []
    return Panel(
        id="hours",
        title="First hours of the newcomers side by side",
        note=f"The {COMPARED} most called of those that began in these days: requests so far, by hours since the first.",
        columns=(Column(name="hour"), *(Column(name=slug) for slug in total)),
        rows=rows,
        chart=Chart(kind="survival"),
        wide=True,
    )


def _running(rows: Sequence[Row]) -> list[int]:
    by_hour = {row["age_hours"]: row["requests"] for row in rows}
    reached, curve = 0, []
    for hour in range(HOURS):
        reached += by_hour.get(hour, 0)
        curve.append(reached)
    return curve


def _begun(firsts: Sequence[Row]) -> Panel:
    columns = (
        Column(name="model", kind="model"),
        Column(name="first request", kind="day"),
        Column(name="requests since"),
    )
    rows = [(row["slug"], row["day"], row["requests"]) for row in firsts[:50]]
    return Panel(id="begun", title="Latest to begin in these days", columns=columns, rows=rows)
