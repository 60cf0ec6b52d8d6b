"""Who waits for another's run of the same request."""

from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

from registry.catalog import Digest, OrganizationName, Slug
from router.requests import Request, RequestId
from router.results import Reuse
from router.rows import Entry


class Term:
    """Nobody waits in it any more; keeps what it was asked to do."""

    def __init__(self) -> None:
        self.waiting: dict[RequestId, Entry] = {}
        self.spawned = 0

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.spawned += 1
        work.close()


def entry(number: int) -> Entry:
    request = Request(
        id=RequestId(f"r{number}"),
        organization=OrganizationName("acme"),
        key_id="k",
        slug=Slug("acme/toys"),
        version=Digest("v"),
        input={},
        created_at=datetime(2026, 11, 26, tzinfo=UTC),
        result_key=Digest("same"),
    )
    return Entry(request=request)


def test_thousands_that_missed_their_deadline_together_are_passed_over_to_the_one_that_waits() -> None:
    term: Any = Term()
    reuse = Reuse(term)
    entries = [entry(number) for number in range(3000)]
    for one in entries:
        assert not reuse.enter(one)
    term.waiting = {entries[-1].id: entries[-1]}
    reuse.leave(entries[0].id)
    assert term.spawned == 2, "the first, and the last"
