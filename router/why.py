"""`marquee why REQUEST_ID`: why a request ran where it did, as a table a person understands. Process edge."""

import asyncio
import os

import click
from rich.console import Console
from rich.table import Table

from registry import postgres
from registry.database import Database
from registry.settings import Settings
from router import ids
from router.errors import UnknownRequestError
from router.pricing import Candidate
from router.queue import Queue
from router.requests import Status
from router.rows import AttemptRow

TERMS = ("wait", "load", "adapters", "run", "regret", "spread")


@click.command()
@click.argument("request_id")
def why(request_id: str) -> None:
    """Show every attempt of a request and the prices, in seconds, that placed it."""
    status, attempts = asyncio.run(_read(Settings.from_environment(os.environ), request_id))
    console = Console()
    console.print(headline(status))
    for attempt in attempts:
        console.print(table(attempt))


async def _read(settings: Settings, text: str) -> tuple[Status, list[AttemptRow]]:
    """Raises `UnknownRequestError`."""
    request_id = ids.parse(text)
    dsn = settings.database_url or postgres.dsn(settings.home)
    async with Database.open(dsn, connections=1) as db:
        queue = Queue(db, origin="why")
        status = None if request_id is None else await queue.status(request_id)
        if status is None:
            raise UnknownRequestError(text)
        return status, await queue.attempts(status.request.id)


def headline(status: Status) -> str:
    request, outcome = status.request, status.outcome
    line = f"{request.slug} for {request.organization}: {status.state}"
    if outcome is not None:
        line += f" after {outcome.wait_seconds:.2f} s waiting, {outcome.load_seconds:.2f} s loading"
        line += f" and {outcome.run_seconds:.2f} s running"
        line += f": {outcome.failure.message}" if outcome.failure else ""
    return line


def table(attempt: AttemptRow) -> Table:
    """One attempt: the hosts that were weighed, cheapest first, each price by its terms."""
    decision = attempt.decision
    ended = f", ended: {attempt.ended}" if attempt.ended else ""
    reason = f": {decision.reason}" if decision else ""
    title = f"attempt {attempt.number} on {attempt.host_id}{reason}{ended}"
    made = Table("host", *TERMS, "total", title=title, title_justify="left")
    for candidate in decision.candidates if decision else ():
        chosen = candidate.host_id == attempt.host_id
        made.add_row(*_cells(candidate), style="bold" if chosen else None)
    if decision and decision.evicts:
        made.caption = f"{len(decision.evicts)} component(s) made room for it"
    return made


def _cells(candidate: Candidate) -> tuple[str, ...]:
    seconds = [getattr(candidate, term) for term in TERMS] + [candidate.total]
    return candidate.host_id, *(f"{value:.2f}" for value in seconds)
