"""One request's life as a waterfall, with the reasons of every placement. Pure."""

from registry.dashboard.live import Life
from registry.dashboard.panels import Chart, Column, Page, Panel, Tile


def page(life: Life) -> Page:
    total = max((step.began_seconds + step.seconds for step in life.steps), default=0.0)
    return Page(
        title=f"Request {life.id}",
        lead=f"{life.slug} for {life.organization}, accepted {life.created_at:%Y-%m-%d %H:%M:%S} UTC.",
        tiles=(
            Tile(name="State", value=life.state, kind="text"),
            Tile(name="In all", value=total, kind="seconds"),
        ),
        panels=(_waterfall(life), _reasons(life), _candidates(life)),
    )


def _waterfall(life: Life) -> Panel:
    columns = (
        Column(name="step", kind="text"),
        Column(name="began after", kind="seconds"),
        Column(name="took", kind="seconds"),
        Column(name="note", kind="text"),
    )
    rows = [(step.name, step.began_seconds, step.seconds, step.note) for step in life.steps]
    return Panel(id="life", title="Its life", columns=columns, rows=rows, chart=Chart(kind="bars"), wide=True)


def _reasons(life: Life) -> Panel:
    columns = (
        Column(name="attempt", kind="text"),
        Column(name="host", kind="text"),
        Column(name="why there", kind="text"),
    )
    return Panel(
        id="reasons",
        title="Why it ran there",
        columns=columns,
        rows=life.reasons,
        wide=True,
        empty="Not placed yet.",
    )


def _candidates(life: Life) -> Panel:
    columns = (
        Column(name="attempt", kind="text"),
        Column(name="host", kind="text"),
        Column(name="priced at", kind="seconds"),
        Column(name="made up of", kind="text"),
    )
    return Panel(
        id="candidates",
        title="Which hosts were considered",
        columns=columns,
        rows=life.candidates,
        wide=True,
        empty="No prices were kept.",
    )
