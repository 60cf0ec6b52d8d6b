"""Results that are used again: who asks for it, what is kept, what a hit costs. IO; keys and prices are pure.

Opt-in: a variant says `result_cache: private | public` in its defaults, or a caller asks with each request. An entry
is private to the organization unless the variant says public. It is written in the transaction that stores the
outcome it repeats, and names files that a hit brings to today's folder, so that they live as long as the hit's own
record. Identical requests at once are one run: the others wait for it as for their turn, and when it fails the next
of them runs. It refuses to guess: without a seed from the caller nothing is the same.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from loaders.protocol import AdapterUse
from registry.catalog import Digest, OrganizationName, Price, Variant
from registry.database import Connection, load_queries
from registry.defaults import RESULT_CACHE, RESULT_CACHE_PRICE
from router.errors import UnknownFileError
from router.files import FileStore
from router.fingerprint import fingerprint
from router.requests import Outcome, RequestId, State
from router.rows import Ending, Entry
from router.turns import Turns

if TYPE_CHECKING:
    from router.term import Term

log = structlog.get_logger("marquee.dispatcher")

QUERIES = load_queries(Path(__file__).with_suffix(".sql"))


def key_of(
    variant: Variant,
    version: Digest,
    adapters: Sequence[AdapterUse],
    values: Mapping[str, Any],
    *,
    organization: OrganizationName,
    asked: bool | None,
    seeded: bool,
) -> Digest | None:
    """None where nothing shall be used again. `asked`: the caller's own wish; `seeded`: the seed is the caller's."""
    setting = variant.defaults.get(RESULT_CACHE)
    wanted = setting in {"private", "public"} if asked is None else asked
    if not wanted or not seeded:
        return None
    return fingerprint(version, adapters, values, None if setting == "public" else organization)


def price_of(variant: Variant) -> Price | None:
    """Of a hit: nothing, unless the variant says what its unit costs then."""
    if variant.price is None:
        return None
    return msgspec.structs.replace(variant.price, amount=str(variant.defaults.get(RESULT_CACHE_PRICE, "0")))


def again(entry: Entry, stored: Outcome, files: FileStore, now: float) -> Outcome | None:
    """A stored outcome as this request's own; None when its files are gone."""
    try:
        kept = tuple(msgspec.structs.replace(file, id=files.renew(file.id, now)) for file in stored.files)
    except (UnknownFileError, OSError) as error:
        log.info("a stored result is gone", request=entry.id, error=repr(error))
        return None
    return Outcome(
        state=State.SUCCEEDED,
        files=kept,
        result=stored.result,
        places=stored.places,
        wait_seconds=max(0.0, now - entry.request.created_at.timestamp()),
        attempt=entry.attempt,
        reused=True,
    )


async def record(connection: Connection, endings: Sequence[Ending]) -> None:
    """Within the caller's transaction. The newest files win."""
    rows = {
        ending.entry.request.result_key: ending.outcome
        for ending in endings
        if ending.entry.request.result_key is not None and ending.outcome.state is State.SUCCEEDED
    }
    if rows:
        ordered = [{"key": key, "outcome": rows[key]} for key in sorted(rows, key=str)]  # no deadlocks
        await connection.execute(QUERIES["record"], {"rows": msgspec.json.encode(ordered).decode()})


async def find(connection: Connection, key: Digest) -> Outcome | None:
    row = await (await connection.execute(QUERIES["find"], {"key": key})).fetchone()
    try:
        return None if row is None else msgspec.json.decode(row["outcome"], type=Outcome)
    except msgspec.MsgspecError:  # another release wrote it
        return None


async def drop_before(connection: Connection, day: date) -> None:
    """What nobody used since then goes, as its files do."""
    await connection.execute(QUERIES["drop_before"], {"day": day})


class Reuse:
    """The part of a `Term` that uses results again: one run at a time per key, hits without a run."""

    def __init__(self, term: "Term") -> None:
        self._term = term
        self._flights = Turns(1)

    def enter(self, entry: Entry) -> bool:
        """True when it has to be placed as any other; else this part sees to it."""
        key = entry.request.result_key
        if key is None:
            return True
        if self._flights.enter(entry.id, key):
            self._term.spawn(self._consult(entry.id, key))
        return False

    def claim(self, entry: Entry) -> None:
        """It runs already: whoever asks the same waits for it."""
        if entry.request.result_key is not None:
            self._flights.claim(entry.id, entry.request.result_key)

    def leave(self, request_id: RequestId) -> None:
        """Its end is committed: the next with the same key finds its result, or runs."""
        while (following := self._flights.leave(request_id)) is not None:
            entry = self._term.waiting.get(following)
            if entry is not None and entry.request.result_key is not None:
                self._term.spawn(self._consult(following, entry.request.result_key))
                return
            request_id = following

    async def _consult(self, request_id: RequestId, key: Digest) -> None:
        stored = await self._term.queue.stored_result(key)
        entry = self._term.waiting.get(request_id)
        if entry is None:  # cancelled meanwhile
            return
        term = self._term
        now = term.catalogue.clock().timestamp()
        outcome = None if stored is None else again(entry, stored, term.files, now)
        if outcome is None:
            term.take_turn(entry)
        else:
            term.drop(request_id)
            term.ends.finish(entry, None, outcome)
