"""A second Marquee as the partner, through the real fal protocol; and restarts in the middle that pay nothing twice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from registry.database import Database
from router.partners import errand
from router.queue import Queue
from router.requests import Failure, Outcome, RequestId, State
from router.rows import Ending, Entry
from tests.fake_host import picture
from tests.fake_partner import Answer, FakeFal
from tests.live import Live, furnish, serving
from tests.partnered import PARTNERED, account, ledger

PROMPT = {"prompt": "a red circle on white", "seed": 7}


@contextlib.asynccontextmanager
async def partner(dsn: str, home: Path) -> AsyncIterator[Live]:
    async with serving(dsn, home, await furnish(dsn)) as live:
        yield live


async def test_another_marquee_answers_behind_our_slug_over_a_restart(
    dsn: str, module_dsn: str, tmp_path: Path
) -> None:
    async with partner(module_dsn, tmp_path / "b") as there, there.host().linked() as host:
        tokens = await furnish(dsn, PARTNERED)
        options = account("fal", f"{there.url}/fal/queue", key=there.key)
        host.release.clear()
        async with serving(dsn, tmp_path / "a", tokens, **options) as here:
            job = (await here.client.post("/fal/queue/far/federated", json=PROMPT)).json()
            await here.until(job["status_url"], "IN_PROGRESS")
            while not host.assigned:
                await asyncio.sleep(0.01)
        async with serving(dsn, tmp_path / "a", tokens, **options) as here:
            host.release.set()
            where = f"/fal/queue/far/federated/requests/{job['request_id']}"
            await here.until(f"{where}/status", "COMPLETED")
            body = (await here.client.get(where)).json()
            (image,) = body["images"]
            assert image["url"].startswith(f"{here.url}/files/")
            assert (await here.visit(None).get(image["url"])).content == picture(host.assigned[0])
            assert (body["seed"], body["prompt"], image["width"]) == (7, PROMPT["prompt"], 64)
        assert len(host.assigned) == 1
    (theirs,) = host.assigned
    assert await ledger(dsn, job["request_id"]) == [("succeeded", "partner:fal", 1, 1, "0.04", None)]
    assert await ledger(module_dsn, theirs.attempt.request_id) == [
        ("succeeded", "host-1", 1, 1, "0.01", None)
    ]


async def test_its_refusals_and_its_cancellation_are_the_callers(
    dsn: str, module_dsn: str, tmp_path: Path
) -> None:
    tokens = await furnish(dsn, PARTNERED)
    async with partner(module_dsn, tmp_path / "b") as there, there.host().linked() as host:
        options = account("fal", f"{there.url}/fal/queue", key=there.key)
        async with serving(dsn, tmp_path / "a", tokens, **options) as here:
            answer = await here.client.post("/fal/run/far/federated", json={"prompt": "x", "num_images": 9})
            detail = [{"loc": ["body", "num_images"], "type": "less_than_equal", "input": 9}]
            said = answer.json()["detail"]
            assert (answer.status_code, [{k: v for k, v in d.items() if k != "msg"} for d in said]) == (
                422,
                detail,
            )
            host.release.clear()
            job = (await here.client.post("/fal/queue/far/federated", json=PROMPT)).json()
            while not host.assigned:
                await asyncio.sleep(0.01)
            await here.client.put(job["cancel_url"])
            while not host.cancelled:
                await asyncio.sleep(0.01)
            host.release.set()
            host.fail_with = {"kind": "model", "error": "out_of_luck", "message": "no luck"}
            answer = await here.client.post("/fal/run/far/federated", json=PROMPT)
            assert (answer.status_code, answer.json()) == (
                500,
                {"detail": "partner fal: no luck", "error_type": "out_of_luck"},
            )
    assert await ledger(dsn, job["request_id"]) == [("cancelled", None, 1, 0, "0", "client_cancelled")]


async def test_what_was_being_handed_over_is_written_down_before_the_end(dsn: str, tmp_path: Path) -> None:
    """The slow answer to a submission arrives while the gateway stops: the next one goes on with it."""
    tokens = await furnish(dsn, PARTNERED)
    async with FakeFal().running() as fal:
        options = account("fal", fal.url)
        fal.on, fal.trouble = (lambda asked: asked.method == "POST"), [0.5]
        async with serving(dsn, tmp_path, tokens, **options) as live:
            job = (await live.client.post("/fal/queue/far/dev", json=PROMPT)).json()
            while not fal.asked:
                await asyncio.sleep(0.01)
        async with serving(dsn, tmp_path, tokens, **options) as live:
            await live.until(f"/fal/queue/far/dev/requests/{job['request_id']}/status", "COMPLETED")
    assert len(fal.jobs) == 1


async def test_what_the_partner_forgot_is_tried_anew(dsn: str, tmp_path: Path) -> None:
    tokens = await furnish(dsn, PARTNERED)
    async with FakeFal().running() as fal:
        fal.released = False
        async with serving(dsn, tmp_path, tokens, **account("fal", fal.url)) as live:
            job = (await live.client.post("/fal/queue/far/dev", json=PROMPT)).json()
            await live.until(job["status_url"], "IN_PROGRESS")
            while not fal.jobs:
                await asyncio.sleep(0.01)
            fal.on, fal.trouble = (lambda asked: "status" in asked.path), [Answer(404, {"detail": "who?"})]
            fal.released = True
            await live.until(job["status_url"], "COMPLETED")
    assert await ledger(dsn, job["request_id"]) == [("succeeded", "partner:fal", 2, 1, "0.04", None)]


async def test_a_key_that_is_taken_away_ends_what_waits_and_runs(dsn: str, tmp_path: Path) -> None:
    tokens = await furnish(dsn, PARTNERED)
    async with FakeFal().running() as fal:
        fal.released = False
        options = account("fal", fal.url, partner_fal_at_once=1)
        async with serving(dsn, tmp_path, tokens, **options) as live:
            jobs = [(await live.client.post("/fal/queue/far/dev", json=PROMPT)).json() for _ in range(2)]
            await live.until(jobs[0]["status_url"], "IN_PROGRESS")
        async with serving(dsn, tmp_path, tokens) as live:
            for job in jobs:
                where = f"/fal/queue/far/dev/requests/{job['request_id']}"
                done = await live.until(f"{where}/status", "COMPLETED")
                assert done["error_type"] == "partner_not_configured"


@pytest.mark.parametrize(
    ("is_late", "jobs", "attempts"), [(True, 1, 1), (False, 2, 2)], ids=["late", "never"]
)
async def test_a_name_that_a_crash_swallowed_is_waited_for_a_moment(
    is_late: bool,  # noqa: FBT001  a case
    jobs: int,
    attempts: int,
    dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever crashed may have left its write under way; what nobody knows is handed over once more."""
    monkeypatch.setattr(errand, "RESUME_GRACE_SECONDS", 60.0 if is_late else 0.1)
    monkeypatch.setattr(errand, "RESUME_LOOK_SECONDS", 0.05)
    rename = "UPDATE attempts SET partner_request_id = %s WHERE request_id = %s"
    tokens = await furnish(dsn, PARTNERED)
    async with FakeFal().running() as fal, Database.open(dsn, connections=2) as db:
        fal.released = False
        async with serving(dsn, tmp_path, tokens, **account("fal", fal.url)) as live:
            job = (await live.client.post("/fal/queue/far/dev", json=PROMPT)).json()
            while not any("status" in asked.path for asked in fal.asked):
                await asyncio.sleep(0.01)
        async with db.pool.connection() as connection:
            await connection.execute(rename, [None, job["request_id"]])
        fal.released = True
        async with serving(dsn, tmp_path, tokens, **account("fal", fal.url)) as live:
            if is_late:
                async with db.pool.connection() as connection:
                    await connection.execute(rename, ["job-1", job["request_id"]])
            await live.until(f"/fal/queue/far/dev/requests/{job['request_id']}/status", "COMPLETED")
    assert len(fal.jobs) == jobs
    record = [("succeeded", "partner:fal", attempts, 1, "0.04", None)]
    assert await ledger(dsn, job["request_id"]) == record


async def test_what_was_cancelled_while_nobody_dispatched_is_called_off(dsn: str, tmp_path: Path) -> None:
    """The row is final, so no errand is resumed; the partner would go on and be paid."""
    tokens = await furnish(dsn, PARTNERED)
    async with FakeFal().running() as fal:
        fal.released = False
        options = account("fal", fal.url)
        async with serving(dsn, tmp_path, tokens, **options) as live:
            job = (await live.client.post("/fal/queue/far/dev", json=PROMPT)).json()
            await live.until(job["status_url"], "IN_PROGRESS")
            while not fal.count("GET", "/status"):
                await asyncio.sleep(0.01)
            request_id = RequestId(job["request_id"])
            status = await live.gateway.dispatcher.term.queue.status(request_id)
        async with Database.open(dsn, connections=2) as db:
            failure = Failure(kind="cancelled", error="client_cancelled", message="")
            outcome = Outcome(state=State.CANCELLED, failure=failure, attempt=1)
            ending = Ending(entry=Entry(request=status.request), number=None, outcome=outcome)
            assert await Queue(db, "another gateway").finish(ending) is not None
        async with serving(dsn, tmp_path, tokens, **options) as live:
            live.gateway.dispatcher.term.withdraw(request_id)  # as its notice says once the term has begun
            async with asyncio.timeout(10):
                while not fal.cancelled:
                    await asyncio.sleep(0.01)
    assert fal.cancelled == ["job-1"]
