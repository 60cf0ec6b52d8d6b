"""A request's attempts and prices as tables that a person understands: what was expected beside what happened. Pure.

It reads what each attempt left behind when it was placed; it prices nothing again.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from registry.catalog import Digest
from router.pricing import Candidate
from router.requests import Record, State, Status
from router.rows import AttemptRow, Explanation

TERMS = ("wait", "load", "adapters", "run", "regret", "spread", "mover")
MEANINGS = (
    "Seconds. wait: until the device is free · load, adapters: weights on their way, beyond what the wait hides · "
    "regret: loading again later what has to go for it · spread: a second copy in one failure domain · "
    "mover: loads of others that wait for these"
)
CANDIDATES_SHOWN = 5
NAMES = {
    "lora": "LoRAs", "compiled": "Compiled code", "step_cache": "Step cache", "attention": "Attention",
    "decoding": "Decoding",
}  # fmt: skip


class Fate(Record, frozen=True, kw_only=True):
    """A request's status; when asked to explain, every attempt and the prices that placed it."""

    status: Status
    attempts: tuple[AttemptRow, ...] | None = None
    names: Mapping[Digest, str] = {}  # of the parts that attempts evicted, as far as the asker may know them


class Happened(NamedTuple):
    """The seconds that an attempt really took, after it was placed."""

    wait: float
    load: float
    run: float
    rest: float  # outputs on their way, stored and billed


def render(fate: Fate) -> RenderableType:
    """For `rich.Console.print`."""
    attempts = fate.attempts or ()
    blocks: list[RenderableType] = [Text(headline(fate.status), style="bold")]
    if not attempts:
        blocks.append(Text(_unplaced(fate.status)))
    for row in attempts:
        blocks += [Text(""), *_attempt(fate, row)]
    if any(row.decision and row.decision.candidates for row in attempts):
        blocks += [Text(""), Text(MEANINGS, style="dim")]
    return Group(*blocks)


def headline(status: Status) -> str:
    request, outcome = status.request, status.outcome
    line = f"{request.slug} for {request.organization}, accepted {request.created_at:%Y-%m-%d %H:%M:%S %Z}: "
    line += status.state
    if outcome is None or status.finished_at is None:
        return line
    total = (status.finished_at - request.created_at).total_seconds()
    line += (
        f" after {total:.2f} s ({outcome.wait_seconds:.2f} waiting, {outcome.load_seconds:.2f} loading,"
        f" {outcome.run_seconds:.2f} running)"
    )
    return line + (f": {outcome.failure.message}" if outcome.failure else "")


def _unplaced(status: Status) -> str:
    if status.state is State.QUEUED:
        return "It waits; no host was chosen yet, and no partner has it."
    return "It never ran."


def _attempt(fate: Fate, row: AttemptRow) -> Iterator[RenderableType]:
    yield Text(f"Attempt {row.number}, {row.assigned_at:%H:%M:%S.%f} on {row.host_id}", style="bold")
    if row.decision is None:
        yield Text("It was already running there when this dispatcher took over; no price is on record.")
    else:
        yield Text(sentence(row.decision, row.host_id))
        if row.decision.evicts:
            yield Text(f"Made room by evicting {', '.join(_named(fate.names, row.decision.evicts))}.")
    if row.partner_request_id is not None:
        yield Text(f"There it is request {row.partner_request_id}.")
    yield Text(ending(fate.status, row))
    yield from (Text(line) for line in ways(fate.status, row))
    if row.decision is not None and not row.decision.candidates:
        yield from _times(happened(fate.status, row))
    elif row.decision is not None:
        yield prices(row.decision, row.host_id, happened(fate.status, row))


def _times(really: Happened | None) -> Iterator[RenderableType]:
    """Of a partner's attempt: nothing was priced, so there is nothing to compare."""
    if really is not None:
        yield Text(
            f"It took {really.wait:.2f} s in the partner's queue, {really.run:.2f} s to run,"
            f" and {really.rest:.2f} s until its outputs were stored here."
        )


def _named(names: Mapping[Digest, str], digests: Sequence[Digest]) -> list[str]:
    return [names.get(digest, digest.removeprefix("sha256:")[:12]) for digest in digests]


def sentence(decision: Explanation, host_id: str) -> str:
    """The reason in one sentence, with what the next best host would have cost."""
    chosen = _of(decision, host_id)
    others = [one for one in decision.candidates if one.host_id != host_id]
    text = f"Why there: {decision.reason}"
    if not decision.candidates:
        return f"{decision.reason[:1].upper()}{decision.reason[1:]}."
    if chosen is None:
        return f"{text}."
    text += f"; {chosen.total:.2f} s expected"
    if not others:
        return f"{text}; no other host could run it."
    other = others[0]
    apart = other.total - chosen.total
    if apart < 0:
        return f"{text}, though {other.host_id} was priced {-apart:.2f} s less and could not take it yet."
    term = max(TERMS, key=lambda name: getattr(other, name) - getattr(chosen, name))
    because = f", mostly for its {term}" if getattr(other, term) - getattr(chosen, term) > 0 else ""
    return f"{text}, {apart:.2f} s less than on {other.host_id}, the next best{because}."


def ending(status: Status, row: AttemptRow) -> str:
    """How this attempt ended."""
    if row.ended is not None:
        at = f" at {row.ended_at:%H:%M:%S}" if row.ended_at else ""
        return f"It was given back{at}: {row.ended}."
    outcome = status.outcome
    if row.number != status.attempt:
        return "A later attempt took its place."
    if outcome is None:
        steps = f", step {status.step} of {status.steps}" if status.step else ""
        return f"It is {status.phase or 'on its host'}{steps}."
    files = f" with {len(outcome.files)} file(s)" if outcome.files else ""
    failure = f": {outcome.failure.error}" if outcome.failure else ""
    return f"It {outcome.state}{files}{failure}."


def ways(status: Status, row: AttemptRow) -> list[str]:
    """What the host decided by itself: a line for each."""
    outcome = status.outcome
    if outcome is None or outcome.attempt != row.number or row.ended is not None:
        return []
    return [f"{NAMES.get(name, name)} there: {way}." for name, way in sorted(outcome.how.items())]


def happened(status: Status, row: AttemptRow) -> Happened | None:
    """None for an attempt that no host reported timings of."""
    outcome = status.outcome
    if outcome is None or outcome.attempt != row.number or row.ended is not None or outcome.host_id is None:
        return None
    before = (row.assigned_at - status.request.created_at).total_seconds()
    wait = max(0.0, outcome.wait_seconds - max(0.0, before))
    took = wait + outcome.load_seconds + outcome.run_seconds
    end = status.finished_at or row.assigned_at
    rest = max(0.0, (end - row.assigned_at).total_seconds() - took)
    return Happened(wait=wait, load=outcome.load_seconds, run=outcome.run_seconds, rest=rest)


def prices(decision: Explanation, host_id: str, really: Happened | None) -> Table:
    """The chosen host first in bold, then the next best; below what it really took."""
    table = Table("", "host", *TERMS, "total", show_edge=False, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
        column.no_wrap = True
    chosen = _of(decision, host_id)
    others = [one for one in decision.candidates if one is not chosen][: CANDIDATES_SHOWN - 1]
    if chosen is not None:
        table.add_row("→", *_cells(chosen), style="bold", end_section=not others)
    for number, one in enumerate(others, 1):
        table.add_row("", *_cells(one), end_section=number == len(others))
    if really is not None:
        known = {"wait": really.wait, "load": really.load, "run": really.run}
        cells = [_seconds(known[term]) if term in known else "" for term in TERMS]
        total = really.wait + really.load + really.run
        table.add_row("", "really", *cells, _seconds(total), style="green")
        table.caption = (
            f"and {really.rest:.2f} s until its outputs were stored" if really.rest >= 0.01 else None
        )
    return table


def _of(decision: Explanation, host_id: str) -> Candidate | None:
    return next((one for one in decision.candidates if one.host_id == host_id), None)


def _cells(one: Candidate) -> tuple[str, ...]:
    return one.host_id, *(_seconds(getattr(one, term)) for term in TERMS), _seconds(one.total)


def _seconds(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 0.005 else "·"
