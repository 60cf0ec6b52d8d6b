"""The part of a term that looks ahead: carries out `prewarm`'s orders, and remembers demand over restarts. IO.

It is the only writer of `dispatcher_memory`. What cannot be written or read is only a missed chance: a dispatcher
without a memory learns anew, and no request ever waits for this.
"""

import asyncio
import datetime as dt
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import structlog

from loaders import protocol
from registry import database, forecasts
from registry.catalog import Digest
from registry.database import Database
from router import prewarm
from router.demand import Demand, DemandState, RunModel
from router.fleet import Fleet
from router.prewarm import Launch
from router.queue import LOST
from router.residency import Bundle
from router.snapshot import Snapshot
from router.waits import Crowd

if TYPE_CHECKING:
    from router.term import Term

log = structlog.get_logger("marquee.dispatcher")

QUERIES = database.load_queries(Path(__file__).with_suffix(".sql"))
LOOK_SECONDS = 3.0
REMEMBER_SECONDS = 10.0
EXPECT_SECONDS = 3600.0
DAY_SECONDS = 86400.0
WORTH_A_FORECAST = 0.01 * 7 * DAY_SECONDS  # GPU seconds of the last week: a hundredth of a GPU
PATIENCE_SECONDS = 3.0  # with the database, at the end of a term


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What outlives a term."""

    demand: DemandState
    runs: dict[str, RunModel] = {}
    waiting: Crowd = Crowd()


async def crowd(db: Database, pool: str) -> Crowd | None:
    """Who waits at the pool's dispatcher, as far as it said so lately; None where it did not."""
    try:
        async with db.pool.connection() as connection:
            found = await (await connection.execute(QUERIES["crowd"], {"pool": pool})).fetchone()
        return None if found is None else msgspec.json.decode(found["waiting"], type=Crowd)
    except (*LOST, msgspec.MsgspecError):
        return None


def busy_rates(rows: Iterable[Mapping[str, Any]], first_weekday: int) -> dict[Digest, float]:
    """Per version the GPU seconds that today's forecast expects each second. Pure."""
    found: dict[Digest, float] = {}
    for row in rows:
        amounts = np.zeros(forecasts.WINDOW_DAYS)
        amounts[np.asarray(row["days"], dtype=np.int64)] = row["seconds"]
        begun = int(np.flatnonzero(amounts)[0])
        made = forecasts.forecast(amounts[begun:], first_weekday=(first_weekday + begun) % 7)
        if made is not None:
            found[Digest(row["version"])] = made.expected[0] / DAY_SECONDS
    return found


class Foresight:
    """Lives as long as its term."""

    def __init__(self, term: "Term", db: Database) -> None:
        self._term = term
        self._db = db
        self._memory = prewarm.Memory()
        self.launches: tuple[Launch, ...] = ()
        self.expected: Mapping[Digest, float] = {}

    @property
    def fleet(self) -> Fleet:
        return self._term.placement.fleet

    async def recall(self) -> None:
        """Before the first request is taken up."""
        async with self._db.pool.connection() as connection:
            found = await (await connection.execute(QUERIES["recall"], {"pool": self._term.pool})).fetchone()
        if found is None:
            return
        try:
            known = msgspec.json.decode(found["content"], type=Remembered)
        except msgspec.MsgspecError as error:  # another release wrote it
            log.warning("what the last dispatcher remembered cannot be read", error=str(error))
            return
        state, snapshot = self._term.placement, self._term.catalogue.now
        state.demand = Demand.load(known.demand)
        for name in state.demand.names:  # placement looks a name's weights up once, when it first sees it
            if (version := snapshot.described.get(name)) is not None:
                self.fleet.describe(Bundle.of_version(version.manifest))
            elif (adapter := snapshot.described_adapters.get(name)) is not None:
                self.fleet.describe(Bundle.of_adapter(adapter))
        state.run_times.models = {Digest(name): model for name, model in known.runs.items()}

    async def remember(self) -> None:
        """Gives up soon: the term may end because the database is away."""
        state = self._term.placement
        known = Remembered(
            demand=state.demand.save(self._term.now()),
            runs={str(name): model for name, model in state.run_times.models.items()},
            waiting=self._term.waits.crowd(len(self._term.links)),
        )
        parameters = {"pool": self._term.pool, "content": msgspec.json.encode(known).decode()}
        try:
            async with (
                asyncio.timeout(PATIENCE_SECONDS),
                self._db.pool.connection(PATIENCE_SECONDS) as connection,
            ):
                await connection.execute(QUERIES["remember"], parameters)
        except Exception as error:  # noqa: BLE001  whatever it is, the dispatcher's work goes on
            log.warning("demand could not be written down", error=repr(error))

    async def run(self) -> None:
        """Until cancelled."""
        remembered_at, expect_at = time.monotonic(), 0.0
        while True:
            if time.monotonic() >= expect_at:
                await self.expect(datetime.now(UTC).date())
                expect_at = time.monotonic() + EXPECT_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            try:
                self.look(self._term.now())
            except Exception:  # a strange row must not stop the requests
                log.exception("looking ahead failed")
            if time.monotonic() - remembered_at >= REMEMBER_SECONDS:
                await self.remember()
                remembered_at = time.monotonic()

    async def expect(self, today: dt.date) -> None:
        """What the ledger's last weeks say of today; the last answer stays where they cannot be read."""
        until = today - dt.timedelta(days=1)
        since = today - dt.timedelta(days=forecasts.WINDOW_DAYS)
        limits = {"pool": self._term.pool, "since": since, "until": until, "at_least": WORTH_A_FORECAST}
        try:
            async with self._db.pool.connection() as connection:
                rows = await (await connection.execute(QUERIES["days"], limits)).fetchall()
        except LOST as error:
            log.warning("demand could not be forecast", error=repr(error))
            return
        self.expected = await asyncio.to_thread(busy_rates, rows, since.weekday())
        for version in self.expected:
            if (described := self._term.catalogue.now.described.get(version)) is not None:
                self.fleet.describe(Bundle.of_version(described.manifest))

    def look(self, now: float) -> None:
        """Find what should be warm, and tell the hosts."""
        term, snapshot = self._term, self._term.catalogue.now
        self.launches = self._launches(snapshot, now)
        self.fleet.give_up_overdue(now)
        for order in prewarm.plan(term.placement, self._memory, self.launches, now, self.expected):
            match order:
                case prewarm.Stage():
                    self._stage(order, now)
                case prewarm.Drop():
                    term.links[order.host_id].send(protocol.Drop(digests=order.digests))

    def _launches(self, snapshot: Snapshot, now: float) -> tuple[Launch, ...]:
        """By the term's clock, which is the database's: windows open by it."""
        planned = [
            one for found in snapshot.releases.values() for one in found if one.window.prewarm_replicas
        ]
        if not planned:
            return ()
        slugs = {release.variant for release in planned}
        versions = {key: version for key, version in snapshot.versions.items() if key[0] in slugs}
        for version in versions.values():
            self.fleet.describe(Bundle.of_version(version.manifest))
        seconds = {v.digest: prewarm.staging_seconds(self.fleet, v.digest) for v in versions.values()}
        return prewarm.launches(planned, versions, seconds, datetime.fromtimestamp(now, UTC))

    def _stage(self, order: prewarm.Stage, now: float) -> None:
        staging = order.staging
        if self._term.starts.stage(staging, now, pin_until=order.pin_until):
            version = staging.bundles[0]
            log.info("prewarming", host=staging.host_id, version=version[:19], reason=order.reason)
