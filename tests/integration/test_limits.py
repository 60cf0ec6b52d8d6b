"""What one key may ask: calls per minute over all gateways, requests at once on hosts, no promises nobody can keep."""

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest

from registry.database import Database
from router import foresight, waits
from router.errors import OverloadedError, QueueUnavailableError
from router.limits import Limiter
from tests.live import furnish, serving

PROMPT = {"prompt": "a red circle on white", "seed": 7}


async def _admitted(limiters: list[Limiter], calls: int) -> int:
    answers = await asyncio.gather(
        *(limiters[n % len(limiters)].admit("key") for n in range(calls)), return_exceptions=True
    )
    refused = [answer for answer in answers if answer is not None]
    assert all(isinstance(error, OverloadedError) and error.retry_after_seconds > 0 for error in refused)
    return calls - len(refused)


async def test_two_gateways_share_one_bucket(db: Database) -> None:
    limiters = [Limiter(db, per_minute=60), Limiter(db, per_minute=60)]
    assert 10 <= await _admitted(limiters, 40) <= 12, "ten seconds' worth may come at once"
    await asyncio.sleep(1.1)
    assert 1 <= await _admitted(limiters, 40) <= 3


async def test_a_clock_that_was_put_back_gives_nobody_free_calls_and_blocks_nobody(db: Database) -> None:
    await _admitted([Limiter(db, per_minute=60)], 40)
    async with db.pool.connection() as connection:
        await connection.execute("UPDATE quotas SET at = at + interval '1 hour'")
    assert await _admitted([Limiter(db, per_minute=60)], 40) <= 1
    await asyncio.sleep(1.1)
    assert await _admitted([Limiter(db, per_minute=60)], 40) >= 1


async def test_a_key_without_a_limit_asks_no_database() -> None:
    limiter = Limiter(None, per_minute=None)  # type: ignore[arg-type]
    await limiter.admit("key")


async def test_over_the_rate_is_429_with_an_honest_pause(dsn: str, tmp_path: Path) -> None:
    async with serving(dsn, tmp_path, await furnish(dsn), key_requests_per_minute=6) as live:
        first = await live.client.post("/fal/queue/acme/toys", json=PROMPT)
        second = await live.client.post("/fal/queue/acme/toys", json=PROMPT)
        assert (first.status_code, second.status_code) == (200, 429)
        assert 5 <= int(second.headers["retry-after"]) <= 10
        async with live.visit(live.stranger) as stranger:
            assert (await stranger.post("/fal/queue/acme/toys", json=PROMPT)).status_code == 200


async def test_one_key_runs_so_many_at_once_and_the_rest_in_turn(dsn: str, tmp_path: Path) -> None:
    async with serving(dsn, tmp_path, await furnish(dsn), key_requests_at_once=1) as live:
        host = live.host(slots=4)
        async with host.linked():
            host.release.clear()
            jobs = [(await live.client.post("/fal/queue/acme/toys", json=PROMPT)).json() for _ in range(4)]
            await live.until(jobs[0]["status_url"], "IN_PROGRESS")
            await live.client.put(jobs[2]["cancel_url"])
            async with live.visit(live.stranger) as stranger:
                other = (await stranger.post("/fal/queue/acme/toys", json=PROMPT)).json()
                while (await stranger.get(other["status_url"])).json()["status"] != "IN_PROGRESS":
                    await asyncio.sleep(0.01)
            await host.hears(assigned=2)
            assert len(host.assigned) == 2, "one of each key"
            host.release.set()
            for job in jobs:
                await live.until(job["status_url"], "COMPLETED")
            live.gateway.dispatcher.term.turns.check_integrity()
        assert len(host.assigned) == 4


async def test_work_that_would_wait_too_long_is_refused(dsn: str, tmp_path: Path) -> None:
    async with serving(dsn, tmp_path, await furnish(dsn), longest_wait_seconds=5.0) as live:
        host = live.host(slots=1)
        async with host.linked():
            host.release.clear()
            answers = [await live.client.post("/fal/queue/acme/toys", json=PROMPT) for _ in range(8)]
            codes = [answer.status_code for answer in answers]
            assert codes[0] == 200
            assert codes[-1] == 429
            assert int(answers[-1].headers["retry-after"]) >= 1
            async with live.visit(live.stranger) as stranger:
                other = await stranger.post("/fal/queue/acme/toys", json=PROMPT)
            assert other.status_code == 200, "another customer's batch is not this one's wait"


async def test_a_gateway_that_stands_by_refuses_it_too(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foresight, "REMEMBER_SECONDS", 0.1)
    monkeypatch.setattr(foresight, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(waits, "FRESH_SECONDS", 0.0)
    tokens = await furnish(dsn)
    async with (
        serving(dsn, tmp_path / "a", tokens, longest_wait_seconds=5.0) as active,
        serving(dsn, tmp_path / "b", tokens, standby=True, longest_wait_seconds=5.0) as other,
        active.host(slots=1).linked() as host,
    ):
        host.release.clear()
        async with asyncio.timeout(20):
            while (answer := await other.client.post("/fal/queue/acme/toys", json=PROMPT)).status_code == 200:
                await asyncio.sleep(0.1)
        assert (answer.status_code, int(answer.headers["retry-after"]) >= 1) == (429, True)
        async with other.visit(other.stranger) as stranger:
            assert (await stranger.post("/fal/queue/acme/toys", json=PROMPT)).status_code == 200


@pytest.mark.parametrize("name", ["key_requests_per_minute", "key_requests_at_once", "longest_wait_seconds"])
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    from registry.errors import SettingsError
    from registry.settings import Settings

    with pytest.raises(SettingsError, match=name.upper()):
        Settings.from_environment({f"MARQUEE_{name.upper()}": "0"})


async def test_without_a_database_nothing_is_accepted_and_that_is_said() -> None:
    class Away:
        def transaction(self) -> Any:
            raise psycopg.OperationalError("the connection is lost")

    away: Any = Away()
    with pytest.raises(QueueUnavailableError):
        await Limiter(away, 60).admit("k")
