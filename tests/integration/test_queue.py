"""The queue's promises on a real Postgres: group commit, fencing, one usage record whatever is reported twice."""

import asyncio
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from registry.catalog import Digest, OrganizationName, Price, Slug
from registry.database import Database
from router import ids
from router.queue import Queue
from router.requests import Failure, Outcome, Request, RequestId, State, StoredFile
from router.rows import Adoption, Assignment, Ending, Entry, Return

MANY = 1 << 40  # bytes
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PICTURE = StoredFile(id="f", content_type="image/png", size_bytes=3, sha256="0" * 64, width=1000, height=500)


@pytest.fixture
def queue(db: Database) -> Queue:
    return Queue(db, origin="here")


@pytest.fixture
def make_request() -> Callable[..., Request]:
    counter = iter(range(1_000_000))

    def make(**fields: Any) -> Request:
        plain = {
            "id": ids.request_id(NOW.timestamp() + next(counter)),
            "organization": OrganizationName("acme"),
            "key_id": "k",
            "slug": Slug("marquee/shapes"),
            "version": Digest("sha256:v"),
            "input": {"prompt": "a red circle"},
            "created_at": NOW,
        }
        return Request(**(plain | fields))

    return make


async def _submitted(queue: Queue, request: Request) -> Entry:
    await queue.submit(request, taken=True)
    return Entry(request=request, origin=queue.origin)


def _done(entry: Entry, number: int | None = 1, **fields: Any) -> Ending:
    outcome = Outcome(state=State.SUCCEEDED, files=(PICTURE,), attempt=number or 0, run_seconds=2.0)
    return Ending(entry=entry, number=number, outcome=outcome, **fields)


async def _usage(db: Database) -> list[tuple[Any, ...]]:
    async with db.pool.connection() as connection:
        rows = await connection.execute("SELECT request_id::text, state, images, amount FROM usage_records")
        return [tuple(row.values()) for row in await rows.fetchall()]


async def test_submitted_request_comes_back_whole(queue: Queue, make_request: Any) -> None:
    request = make_request(
        priority="low",
        start_deadline=NOW,
        input={"prompt": "Grüße", "seed": 1},
        webhook_url="https://a.example",
    )
    created_at = await queue.submit(request, taken=False)
    status = await queue.status(request.id)
    assert status is not None
    assert (status.state, status.request.created_at) == (State.QUEUED, created_at)
    assert (status.request.input, status.request.priority) == (request.input, "low")
    assert (status.request.start_deadline, status.request.webhook_url) == (NOW, "https://a.example")


async def test_concurrent_submits_share_commits(queue: Queue, make_request: Any, db: Database) -> None:
    await asyncio.gather(*(queue.submit(make_request(), taken=True) for _ in range(200)))
    async with db.pool.connection() as connection:
        rows = await connection.execute(
            "SELECT count(*) AS n, count(DISTINCT xmin::text) AS commits FROM requests"
        )
        row = await rows.fetchone()
    assert row is not None
    assert row["n"] == 200
    assert row["commits"] <= 3


async def test_untaken_requests_are_taken_up_once_and_in_order(queue: Queue, make_request: Any) -> None:
    requests = [make_request() for _ in range(4)]
    for request in reversed(requests[:3]):
        await queue.submit(request, taken=False)
    await queue.submit(requests[3], taken=True)
    first = await queue.take_up("local", (2, MANY), {})
    assert [entry.id for entry in first] == [requests[0].id, requests[1].id]
    assert [entry.id for entry in await queue.take_up("local", (9, MANY), {})] == [requests[2].id]
    assert await queue.take_up("local", (9, MANY), {}) == []
    await queue.release("local")
    assert [e.id for e in await queue.take_up("local", (9, MANY), {})] == [r.id for r in requests]


async def test_a_named_request_is_taken_once_while_it_waits(queue: Queue, make_request: Any) -> None:
    requests = [make_request() for _ in range(3)]
    for request, taken in zip(requests, (False, True, False), strict=True):
        await queue.submit(request, taken=taken)
    entries = await asyncio.gather(*(queue.take(request.id) for request in requests))
    assert [entry and entry.id for entry in entries] == [requests[0].id, None, requests[2].id]
    assert await asyncio.gather(*(queue.take(request.id) for request in requests)) == [None] * 3


async def test_every_line_is_taken_up_to_its_share(queue: Queue, make_request: Any) -> None:
    long = [make_request() for _ in range(5)]
    low = [make_request(priority="low") for _ in range(2)]
    other = [make_request(organization="other")]
    for request in (*long, *low, *other):
        await queue.submit(request, taken=False)

    first = await queue.take_up("local", (3, MANY), {})
    second = await queue.take_up("local", (3, MANY), {("acme", "normal"): (1, MANY), ("acme", "low"): (0, 0)})

    assert [entry.id for entry in first] == sorted(r.id for r in (*long[:3], *low, *other))
    assert [entry.id for entry in second] == [long[3].id]


async def test_large_inputs_are_taken_up_as_far_as_there_is_room_for_them(
    queue: Queue, make_request: Any
) -> None:
    pictures = [make_request(input={"image_url": secrets.token_urlsafe(30_000)}) for _ in range(4)]
    other = make_request(organization="other")
    for request in (*pictures, other):
        await queue.submit(request, taken=False)

    first = await queue.take_up("local", (9, 50_000), {})
    second = await queue.take_up("local", (9, 50_000), {("acme", "normal"): (9, 1)})

    assert [entry.id for entry in first] == sorted(r.id for r in (*pictures[:2], other))
    assert [entry.id for entry in second] == [pictures[2].id]


async def test_an_attempt_number_is_given_once(queue: Queue, make_request: Any, db: Database) -> None:
    entry = await _submitted(queue, make_request())
    other = Queue(db, origin="there")
    wanted = [Assignment(id=entry.id, number=1, host_id=name) for name in ("h1", "h2")]
    assert sorted([await queue.assign(wanted[0]), await other.assign(wanted[1])]) == [False, True]
    assert [(a.number, a.host_id, a.ended) for a in await queue.attempts(entry.id)] == [(1, "h1", None)]
    assert [e.host_id for e in await queue.running("local")] == ["h1"]


async def test_outcome_and_usage_are_stored_once(queue: Queue, make_request: Any, db: Database) -> None:
    entry = await _submitted(queue, make_request())
    await queue.assign(Assignment(id=entry.id, number=1, host_id="h"))
    ending = _done(entry, price=Price(unit="image", amount="0.05"))
    assert await queue.finish(ending) is not None
    assert await queue.finish(ending) is None
    status = await queue.status(entry.id)
    assert status is not None
    assert (status.state, status.outcome) == (State.SUCCEEDED, ending.outcome)
    assert [(r, s, i, str(a)) for r, s, i, a in await _usage(db)] == [(entry.id, "succeeded", 1, "0.05")]


async def test_a_late_report_changes_nothing(queue: Queue, make_request: Any, db: Database) -> None:
    entry = await _submitted(queue, make_request())
    await queue.assign(Assignment(id=entry.id, number=1, host_id="h1"))
    assert await queue.requeue(Return(id=entry.id, number=1, reason="host_lost", faults=1))
    assert await queue.finish(_done(entry, 1)) is None
    await queue.assign(Assignment(id=entry.id, number=2, host_id="h2"))
    assert await queue.finish(_done(entry, 1)) is None
    assert not await queue.requeue(Return(id=entry.id, number=1, reason="host_lost", faults=2))
    assert await queue.finish(_done(entry, 2)) is not None
    assert [(a.number, a.ended) for a in await queue.attempts(entry.id)] == [(1, "host_lost"), (2, None)]
    assert len(await _usage(db)) == 1


async def test_a_host_believed_lost_may_go_on(queue: Queue, make_request: Any) -> None:
    entry = await _submitted(queue, make_request())
    await queue.assign(Assignment(id=entry.id, number=1, host_id="h1"))
    await queue.requeue(Return(id=entry.id, number=1, reason="host_lost", faults=1))
    adoption = Adoption(id=entry.id, number=1, host_id="h1", faults=0)
    assert (await queue.adopt(adoption), await queue.adopt(adoption)) == (True, False)
    assert [(a.number, a.ended) for a in await queue.attempts(entry.id)] == [(1, None)]
    assert await queue.finish(_done(entry, 1)) is not None


@pytest.mark.parametrize("running", [False, True])
async def test_cancel_at_any_state(queue: Queue, make_request: Any, running: Any) -> None:
    entry = await _submitted(queue, make_request())
    if running:
        await queue.assign(Assignment(id=entry.id, number=1, host_id="h1"))
    outcome = Outcome(
        state=State.CANCELLED, failure=Failure(kind="cancelled", error="client_cancelled", message="")
    )
    assert await queue.finish(Ending(entry=entry, number=None, outcome=outcome)) is not None
    assert await queue.finish(_done(entry, 1)) is None
    assert not await queue.assign(Assignment(id=entry.id, number=2, host_id="h2"))
    status = await queue.status(entry.id)
    assert status is not None
    assert status.state is State.CANCELLED


async def test_position_counts_who_waits_before(queue: Queue, make_request: Any) -> None:
    entries = [await _submitted(queue, make_request()) for _ in range(3)]
    await queue.assign(Assignment(id=entries[0].id, number=1, host_id="h"))
    assert await queue.ahead("local", entries[2].id) == 1


async def test_unknown_id_has_no_status(queue: Queue) -> None:
    assert await queue.status(RequestId("0197f000-0000-7000-8000-000000000000")) is None


class Forgetful(Queue):
    """A queue whose first answer to every move is lost after its commit, as when Postgres restarts just then."""

    _lost = 0

    async def _move(self, name: Any, items: Any, repeated: Any) -> Any:
        answer = await super()._move(name, items, repeated)
        return self._lose(answer, repeated)

    async def _finish(self, endings: Any, repeated: Any) -> Any:
        answer = await super()._finish(endings, repeated)
        return self._lose(answer, repeated)

    def _lose(self, answer: Any, repeated: Any) -> Any:
        if not repeated:
            self._lost += 1
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return answer


async def test_a_move_whose_answer_was_lost_is_answered_as_if_it_was_not(
    db: Database, make_request: Any
) -> None:
    queue = Forgetful(db, origin="here")
    entry = await _submitted(queue, make_request())
    assert await queue.assign(Assignment(id=entry.id, number=1, host_id="h1"))
    assert await queue.requeue(Return(id=entry.id, number=1, reason="host_lost", faults=1))
    assert await queue.adopt(Adoption(id=entry.id, number=1, host_id="h1", faults=0))
    assert await queue.finish(_done(entry, 1)) is not None
    assert queue._lost == 4
    assert [(a.number, a.ended) for a in await queue.attempts(entry.id)] == [(1, None)]
    assert len(await _usage(db)) == 1


async def test_a_repeated_move_does_not_take_what_another_took(db: Database, make_request: Any) -> None:
    entry = await _submitted(Queue(db, origin="there"), make_request())
    await Queue(db, origin="there").assign(Assignment(id=entry.id, number=1, host_id="h2"))
    assert not await Forgetful(db, origin="here").assign(Assignment(id=entry.id, number=1, host_id="h1"))
