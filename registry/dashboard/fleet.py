"""The fleet now: hosts against warm components, occupancy; and what loading has cost. Live by server-sent events."""

import datetime as dt
from collections.abc import Sequence

from registry import partitions
from registry.dashboard.figures import Figures, Row
from registry.dashboard.live import FleetState, HostState
from registry.dashboard.panels import Column, Page, Panel, Tile

COLUMNS_SHOWN = 24
WARMTH = {"device": 3, "memory": 2, "disk": 1}
GIB = 1 << 30


LONGEST_LIFE = dt.timedelta(days=31)  # of a request that ended in the last day


async def page(figures: Figures, fleet: FleetState) -> Page:
    oldest, _ = partitions.bounds(figures.period.until - LONGEST_LIFE)
    loading = await figures.rows("loading", oldest=oldest)
    return Page(
        title="Fleet",
        lead=f"Pool “{fleet.pool}”, as its dispatcher sees it; the page keeps itself current.",
        tiles=tiles(fleet),
        panels=(warmth(fleet), occupancy(fleet), _wasted(loading, fleet)),
    )


def tiles(fleet: FleetState) -> tuple[Tile, ...]:
    slots = sum(host.slots for host in fleet.hosts)
    return (
        Tile(name="Hosts", value=len(fleet.hosts)),
        Tile(name="Waiting", value=fleet.waiting),
        Tile(name="On hosts", value=fleet.running),
        Tile(name="Slots taken", value=fleet.running / slots if slots else None, kind="percent"),
    )


def warmth(fleet: FleetState) -> Panel:
    """Rows are hosts, columns the parts that most hosts hold; a cell says in which tier."""
    held: dict[str, tuple[str, int]] = {}
    for host in fleet.hosts:
        for part in host.parts:
            name, score = held.get(part.digest, (part.name, 0))
            held[part.digest] = (name, score + WARMTH[part.tier])
    shown = sorted(held, key=lambda digest: (-held[digest][1], digest))[:COLUMNS_SHOWN]
    tiers = [{part.digest: part.tier for part in host.parts} for host in fleet.hosts]
    return Panel(
        id="warmth",
        title="What is warm where",
        columns=(
            Column(name="host", kind="text"),
            *(Column(name=held[one][0], kind="text") for one in shown),
        ),
        rows=[
            (host.name, *(found.get(one, "") for one in shown))
            for host, found in zip(fleet.hosts, tiers, strict=True)
            if shown
        ],
        heat=True,
        wide=True,
        note="The parts that most hosts hold, in their fastest tier: device, memory, disk." if shown else "",
        empty="No host holds weights yet." if fleet.hosts else "No host is linked.",
    )


def occupancy(fleet: FleetState) -> Panel:
    columns = (
        Column(name="host", kind="text"),
        Column(name="device", kind="text"),
        Column(name="state", kind="text"),
        Column(name="running"),
        Column(name="staged"),
        Column(name="weights, GiB", kind="number"),
        Column(name="budget, GiB", kind="number"),
    )
    return Panel(
        id="occupancy",
        title="Occupancy",
        columns=columns,
        rows=[_occupied(host) for host in fleet.hosts],
        empty="No host is linked.",
        wide=True,
    )


def _occupied(host: HostState) -> tuple[object, ...]:
    state = "draining" if host.draining else "busy" if host.running else "free"
    return (
        host.name,
        host.device,
        state,
        host.running,
        host.staged,
        host.used_bytes / GIB,
        host.budget_bytes / GIB,
    )


def _wasted(rows: Sequence[Row], fleet: FleetState) -> Panel:
    """Hosts by their names where they are linked; the ledger knows ids."""
    names = {host.id: host.name for host in fleet.hosts}
    columns = (
        Column(name="host", kind="text"),
        Column(name="requests"),
        Column(name="cold starts"),
        Column(name="loading", kind="seconds"),
        Column(name="running", kind="seconds"),
        Column(name="share spent loading", kind="share"),
    )
    found = [
        (
            names.get(row["host_id"], row["host_id"]),
            row["requests"],
            row["cold"],
            row["load_seconds"],
            row["run_seconds"],
            row["load_seconds"] / max(row["load_seconds"] + row["run_seconds"], 1e-9),
        )
        for row in rows
    ]
    return Panel(
        id="loading",
        title="Seconds spent loading, last 24 hours",
        columns=columns,
        rows=found,
        empty="Nothing had to be loaded.",
        wide=True,
    )
