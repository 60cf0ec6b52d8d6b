"""A launch is staged on hosts ahead of its opening and its readiness told; demand outlives the dispatcher."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry import releases, rollups
from registry.catalog import Caller, OrganizationName, Share, Window
from registry.database import Database
from registry.releases import ReleaseBody
from router import foresight
from router.observatory import Observatory
from tests.live import CONTENTS, Live, furnish, serving

PROMPT = {"prompt": "a red circle on white", "seed": 7}
TOYS = CONTENTS["acme/toys"].digest
LATE = CONTENTS["acme/toys/late"]


async def schedule(dsn: str, opens_at: datetime) -> None:
    lab = Caller(
        organization=OrganizationName("acme"), key_id="k", scopes=frozenset({"models:publish", "operate"})
    )
    window = Window(public_from=opens_at, prewarm_replicas=2)
    body = ReleaseBody(shares=(Share(version=1, percent=100),), window=window)
    async with Database.open(dsn, connections=2) as db, db.sessions.begin() as session:
        await releases.create(session, lab, "acme/toys/late", body)


def said(live: Live) -> list[str]:
    gateway = live.gateway
    observatory = Observatory(gateway.dispatcher, gateway.house.core.catalogue, gateway.house.core._queue)
    state = observatory.fleet()
    return [launch.said(state.at) for launch in state.launches]


async def test_a_launch_is_warm_before_it_opens(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foresight, "LOOK_SECONDS", 0.05)
    tokens = await furnish(dsn)
    await schedule(dsn, datetime.now(UTC) + timedelta(seconds=59 * 60 + 50))
    async with serving(dsn, tmp_path, tokens) as live, live.host("one").linked() as one:
        async with live.host("two").linked() as two, asyncio.timeout(20):
            while not said(live):
                await asyncio.sleep(0.02)
            assert said(live) == ["0 of 2 replicas warm, 60 min to go"]
            assert one.staged == []
            await schedule(dsn, datetime.now(UTC) + timedelta(seconds=1))  # two replicas a second from now
            while not (one.staged and two.staged):
                await asyncio.sleep(0.02)
            assert {order.version for host in (one, two) for order in host.staged} == {LATE.digest}
            assert LATE.digest in one.described
            for host in (one, two):
                part = LATE.components[0]
                await host._send(host.holds(part.digest, part.size_bytes))
            while "2 of 2 replicas warm, open" not in said(live):
                await asyncio.sleep(0.02)
        assert len(one.staged) == 1


async def test_demand_and_run_times_outlive_the_dispatcher(dsn: str, tmp_path: Path) -> None:
    tokens = await furnish(dsn)
    async with serving(dsn, tmp_path, tokens) as live, live.host().linked():
        assert (await live.client.post("/fal/run/acme/toys", json=PROMPT)).status_code == 200
        before = live.gateway.dispatcher.term.placement
        rate, estimate = before.demand.busy_rate(TOYS, time.time()), before.run_times.estimate(TOYS)
    assert rate > 0
    async with serving(dsn, tmp_path, tokens) as live:
        after = live.gateway.dispatcher.term.placement
        assert 0 < after.demand.busy_rate(TOYS, time.time()) <= rate
        assert after.run_times.estimate(TOYS) == pytest.approx(estimate)
        assert TOYS in after.fleet.residency.bundles


async def test_a_memory_of_another_shape_is_left_alone(dsn: str, tmp_path: Path) -> None:
    tokens = await furnish(dsn)
    async with Database.open(dsn, connections=2) as db, db.pool.connection() as connection:
        await connection.execute(
            "INSERT INTO dispatcher_memory (pool, saved_at, content) VALUES ('local', now(), '[1]')"
        )
    async with serving(dsn, tmp_path, tokens) as live:
        assert len(live.gateway.dispatcher.term.placement.demand.names) == 0


async def test_weights_of_what_is_planned_are_fetched_while_others_run(dsn: str, tmp_path: Path) -> None:
    """Two requests fill the host; the third is bound to none, and its weights move all the same."""
    tokens = await furnish(dsn)
    async with serving(dsn, tmp_path, tokens) as live, live.host().linked() as host:
        host.release.clear()
        for slug in ("acme/toys", "acme/toys", "acme/other"):
            assert (await live.client.post(f"/fal/queue/{slug}", json=PROMPT)).status_code == 200
        async with asyncio.timeout(20):
            while not host.staged:
                await asyncio.sleep(0.02)
        other = CONTENTS["acme/other"].digest
        assert [order.version for order in host.staged] == [other]
        assert [assign.version for assign in host.assigned] == [TOYS, TOYS]
        assert other in host.described
        host.release.set()


async def test_what_the_ledger_forecasts_is_warm_before_anybody_asks(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foresight, "LOOK_SECONDS", 0.05)
    tokens = await furnish(dsn)
    async with Database.open(dsn, connections=2) as db:
        async with db.transaction() as connection:
            # three weeks of seven hours on a GPU each day, and a model that hardly anybody wants
            await connection.execute(
                "INSERT INTO usage_records (request_id, organization, key_id, slug, version, pool, door, state, attempt,"
                " created_at, finished_at, wait_seconds, load_seconds, run_seconds, images, megapixels, video_seconds,"
                " units, amount) SELECT uuidv7(at - clock_timestamp()), 'customer', 'k', slug, version, 'local', 'fal',"
                " 'succeeded', 1, at, at, 0, 0, seconds, 1, 1, 0, 1, 0"
                " FROM (SELECT now() - interval '1 day' * n AS at FROM generate_series(1, 21) AS n) AS days,"
                " (VALUES ('acme/toys/late', %s, 25200), ('acme/toys', %s, 60)) AS used (slug, version, seconds)",
                [LATE.digest, TOYS],
            )
        await rollups.fold(db)
    async with serving(dsn, tmp_path, tokens) as live, live.host("one").linked() as one, asyncio.timeout(20):
        while not one.staged:
            await asyncio.sleep(0.02)
        assert [order.version for order in one.staged] == [LATE.digest]
        expected = live.gateway.dispatcher.foresight.expected
        assert set(expected) == {LATE.digest}
        assert expected[LATE.digest] == pytest.approx(25200 / 86400, rel=0.1)
