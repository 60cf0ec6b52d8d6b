"""A request's contents are erased at its owner's wish: input, outputs, files, the result kept for others to come; not its cost."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

import pytest
import pytest_asyncio

from registry.database import Database
from router import housekeeping
from router.files import FileStore
from router.housekeeping import Housekeeping
from router.loras import Loras
from router.queue import Queue
from tests.live import Live, furnish, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(module_dsn: str, home: Path) -> AsyncIterator[Live]:
    async with serving(module_dsn, home, await furnish(module_dsn)) as running:
        yield running


async def _run(live: Live, seed: int, **headers: str) -> tuple[str, str]:
    """The id and the picture's address."""
    body = {"prompt": "a secret circle", "seed": seed}
    answer = await live.client.post("/fal/run/acme/toys", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-fal-request-id"], answer.json()["images"][0]["url"]


async def _row(dsn: str, request_id: str) -> dict[str, Any]:
    async with Database.open(dsn, connections=1) as db, db.pool.connection() as connection:
        found = await connection.execute(
            "SELECT r.input, r.outcome::text LIKE '%%secret%%' AS told, u.state FROM requests r"
            " JOIN usage_records u ON u.request_id = r.id WHERE r.id = %s::uuid",
            [request_id],
        )
        return dict(await found.fetchone() or {})


class NoLoras(Loras):
    """Nobody brought any."""

    def __init__(self) -> None: ...

    async def keep_house(self, older_than: timedelta) -> None: ...


async def _execute(db: Database, statement: LiteralString) -> int:
    """How many rows it changed."""
    async with db.pool.connection() as connection:
        return (await connection.execute(statement)).rowcount


async def test_what_was_sent_and_made_is_gone_and_its_cost_stays(live: Live, module_dsn: str) -> None:
    async with live.host().linked():
        request_id, picture = await _run(live, 1)
        place = f"/v1/requests/{request_id}/payloads"
        assert (await live.client.get(picture)).status_code == 200
        assert (await live.visit(live.stranger).delete(place)).status_code == 404
        erased = await live.client.delete(place)
        assert erased.json() == {"request_id": request_id, "erased_files": 1}
        assert (await live.client.get(picture)).status_code == 404
        assert await _row(module_dsn, request_id) == {"input": {}, "told": False, "state": "succeeded"}
        fal = await live.client.get(f"/fal/queue/acme/toys/requests/{request_id}")
        replicate = (await live.client.get(f"/replicate/v1/predictions/{request_id}")).json()
        assert fal.status_code == 410
        assert [replicate[name] for name in ("status", "input", "output", "data_removed")] == [
            "succeeded", {}, None, True
        ]  # fmt: skip
        again = await live.client.delete(f"/v1/models/requests/{request_id}/payloads")
        assert again.json() == {"request_id": request_id, "erased_files": 0}


async def test_a_repeated_result_keeps_its_file_and_is_not_repeated_again(live: Live) -> None:
    cached = {"X-Marquee-Cache": "1"}
    async with live.host().linked() as host:
        first, picture = await _run(live, 2, **cached)
        hit, shared = await _run(live, 2, **cached)
        assert (shared, len(host.assigned)) == (picture, 1)
        erased = await live.client.delete(f"/v1/requests/{first}/payloads")
        assert erased.json()["erased_files"] == 0, "the other request has it too"
        assert (await live.client.get(picture)).status_code == 200
        await _run(live, 2, **cached)
        assert len(host.assigned) == 2, "nothing was kept to repeat"
        assert (await live.client.delete(f"/v1/requests/{hit}/payloads")).json()["erased_files"] == 1
        assert (await live.client.get(picture)).status_code == 404


async def test_what_its_caller_wants_unkept_is_erased_after_its_hour(
    live: Live, module_dsn: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"input": {}, "told": False, "state": "succeeded"}
    async with live.host().linked(), Database.open(module_dsn, connections=2) as db:
        unkept = {"X-Fal-Store-IO": "0", "X-Marquee-Cache": "1"}
        passing, picture = await _run(live, 4, **unkept)
        staying, _ = await _run(live, 5)
        keeper = Housekeeping(db, Queue(db, "keeper"), FileStore(home / "files"), NoLoras(), home, 30)
        await keeper.let_pass()
        assert (await live.client.get(picture)).status_code == 200, "it has an hour to be fetched"
        monkeypatch.setattr(housekeeping, "FETCHABLE", timedelta(0))
        await _execute(
            db, f"INSERT INTO webhooks (request_id, url, next_at) VALUES ('{passing}', '-', now())"
        )
        await keeper.let_pass()
        assert (await live.client.get(picture)).status_code == 200, "its webhook is still to be told"
        await _execute(db, "UPDATE webhooks SET next_at = NULL")
        await keeper.let_pass()
        assert (await live.client.get(picture)).status_code == 404
        assert await _row(module_dsn, passing) == told
        assert (await _row(module_dsn, staying))["input"] != {}
        assert await _execute(db, "DELETE FROM fleeting") == 0


async def test_what_has_not_ended_is_not_erased(live: Live) -> None:
    async with live.host().linked() as host:
        host.release.clear()
        queued = await live.client.post("/fal/queue/acme/toys", json={"prompt": "a", "seed": 3})
        request_id = queued.json()["request_id"]
        while not host.running:
            await asyncio.sleep(0.01)
        early = await live.client.delete(f"/v1/requests/{request_id}/payloads")
        assert (early.status_code, "cancel it first" in early.json()["detail"]) == (409, True)
        host.release.set()
        await live.until(queued.json()["status_url"], "COMPLETED")
        assert (await live.client.delete(f"/v1/requests/{uuid4()}/payloads")).status_code == 404
