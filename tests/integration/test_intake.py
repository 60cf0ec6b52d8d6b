"""Long lines wait in the table, a share of each in memory; nobody waits behind another customer's."""

from pathlib import Path

import pytest

from router import intake
from tests.live import furnish, serving

PROMPT = {"prompt": "a red circle on white"}
BATCH = 30


@pytest.mark.parametrize(("share", "window"), [(5, 20_000), (20, 4)], ids=["long line", "full window"])
async def test_a_batch_that_does_not_fit_into_memory_runs_whole_and_lets_others_by(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: int, window: int
) -> None:
    monkeypatch.setattr(intake, "SHARE", share)
    monkeypatch.setattr(intake, "WINDOW", window)
    monkeypatch.setattr(intake, "LEAST", 2)
    async with serving(dsn, tmp_path, await furnish(dsn)) as live:
        batch = [
            (await live.client.post("/fal/queue/acme/toys", json=PROMPT | {"seed": seed})).json()
            for seed in range(BATCH)
        ]
        async with live.visit(live.stranger) as stranger:
            single = (await stranger.post("/fal/queue/acme/toys", json=PROMPT)).json()
        term = live.gateway.dispatcher.term
        held = len(term.waiting)
        async with live.host(slots=1).linked() as host:
            for job in batch:
                await live.until(job["status_url"], "COMPLETED")
        term.intake.check_integrity()
        order = [assign.attempt.request_id for assign in host.assigned]

    assert held < BATCH
    assert sorted(order) == sorted(job["request_id"] for job in (*batch, single))
    assert order.index(single["request_id"]) <= 2


async def test_what_a_standby_accepts_is_taken_by_name_or_with_its_long_line(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "SHARE", 5)
    tokens = await furnish(dsn)
    async with (
        serving(dsn, tmp_path / "a", tokens) as active,
        serving(dsn, tmp_path / "b", tokens, standby=True) as other,
    ):
        batch = [
            (await other.client.post("/fal/queue/acme/toys", json=PROMPT | {"seed": seed})).json()
            for seed in range(BATCH)
        ]
        term = active.gateway.dispatcher.term
        await active.until(batch[0]["status_url"], "IN_QUEUE")
        held = len(term.waiting)
        async with active.host(slots=1).linked() as host:
            for job in batch:
                await other.until(job["status_url"], "COMPLETED")
        term.intake.check_integrity()

    assert held <= 5
    assert sorted(a.attempt.request_id for a in host.assigned) == [job["request_id"] for job in batch]


async def test_a_deadline_passes_in_the_table_as_well(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "SHARE", 1)
    monkeypatch.setattr(intake, "LATE_SECONDS", 0.1)
    soon = {"X-Fal-Request-Timeout": "1.5"}
    async with serving(dsn, tmp_path, await furnish(dsn)) as live:
        jobs = [
            (
                await live.client.post("/fal/queue/acme/toys", json=PROMPT | {"seed": seed}, headers=soon)
            ).json()
            for seed in range(3)
        ]
        held = len(live.gateway.dispatcher.term.waiting)
        for job in jobs:
            await live.until(job["status_url"], "COMPLETED")
        ends = [await live.client.get(job["response_url"]) for job in jobs]

    assert held == 1
    assert [(end.status_code, end.headers.get("x-fal-error-type")) for end in ends] == [
        (504, "request_timeout")
    ] * 3
