"""Attempts as a person reads them: the chosen host first, what it cost more elsewhere, what really happened."""

import io
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from rich.console import Console

from registry.catalog import Digest, OrganizationName, Slug
from router.explanation import Fate, Happened, ending, happened, render, sentence, ways
from router.pricing import Candidate
from router.requests import Failure, Outcome, Request, RequestId, State, Status
from router.rows import AttemptRow, Explanation

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVICTED = Digest("sha256:" + "e" * 64)
NEAR = Candidate(host_id="near", wait=0.5, load=0.0, adapters=0.0, run=2.0, regret=0.0)
FAR = Candidate(host_id="far", wait=0.0, load=7.0, adapters=0.0, run=2.0, regret=0.25)
DECISION = Explanation(
    reason="the cheapest host, and it can take it", candidates=(NEAR, FAR), evicts=(EVICTED,)
)


def attempt(number: int, decision: Explanation | None = DECISION, **fields: object) -> AttemptRow:
    row = AttemptRow(
        number=number, host_id="near", assigned_at=NOON + timedelta(seconds=1), decision=decision
    )
    return msgspec.structs.replace(row, **fields)


def status(outcome: Outcome | None, number: int = 1) -> Status:
    request = Request(
        id=RequestId("r"), organization=OrganizationName("blue"), key_id="k", slug=Slug("acme/toys"),
        version=Digest("sha256:v"), input={}, created_at=NOON,
    )  # fmt: skip
    state = State.RUNNING if outcome is None else outcome.state
    ended = None if outcome is None else NOON + timedelta(seconds=4)
    return Status(request=request, state=state, attempt=number, outcome=outcome, finished_at=ended)


DONE = Outcome(
    state=State.SUCCEEDED, wait_seconds=1.4, load_seconds=0.1, run_seconds=2.25, host_id="near", attempt=1
)


def shown(fate: Fate) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(render(fate))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_table_says_expected_and_real_seconds_side_by_side() -> None:
    text = shown(Fate(status=status(DONE), attempts=(attempt(1),), names={EVICTED: "acme/old unet"}))
    lines = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    assert "→ near 0.50 · · 2.00 · · · 2.50" in lines
    assert "far · 7.00 · 2.00 0.25 · · 9.25" in lines
    assert "really 0.40 0.10 2.25 2.75" in lines
    assert "evicting acme/old unet." in text
    assert "after 4.00 s (1.40 waiting, 0.10 loading, 2.25 running)" in text


def test_sentence_names_the_next_best_and_what_made_it_dearer() -> None:
    assert sentence(DECISION, "near") == (
        "Why there: the cheapest host, and it can take it; 2.50 s expected,"
        " 6.75 s less than on far, the next best, mostly for its load."
    )
    assert sentence(DECISION, "far").endswith(
        "9.25 s expected, though near was priced 6.75 s less and could not take it yet."
    )
    alone = Explanation(reason="planned here", candidates=(NEAR,))
    assert sentence(alone, "near").endswith("no other host could run it.")
    assert sentence(alone, "gone") == "Why there: planned here."


@pytest.mark.parametrize(
    ("outcome", "row", "said"),
    [
        (None, attempt(1), "It is on its host."),
        (DONE, attempt(1), "It succeeded."),
        (DONE, attempt(1, ended="host_lost"), "It was given back: host_lost."),
        (DONE, attempt(0), "A later attempt took its place."),
        (
            Outcome(state=State.FAILED, failure=Failure(kind="model", error="out_of_memory", message="")),
            attempt(1),
            "It failed: out_of_memory.",
        ),
    ],
)
def test_ending(outcome: Outcome | None, row: AttemptRow, said: str) -> None:
    assert ending(status(outcome), row) == said


def test_what_the_host_chose_is_said_of_the_attempt_that_counts() -> None:
    chose = msgspec.structs.replace(DONE, how={"lora": "kept: the merged copies are held", "compiled": "on"})
    said = ["Compiled code there: on.", "LoRAs there: kept: the merged copies are held."]
    assert ways(status(chose), attempt(1)) == said
    assert ways(status(chose), attempt(2)) == ways(status(chose), attempt(1, ended="host_lost")) == []
    assert ways(status(None), attempt(1)) == []
    assert all(line in shown(Fate(status=status(chose), attempts=(attempt(1),))) for line in said)


def test_only_the_attempt_that_counts_has_real_seconds() -> None:
    assert happened(status(DONE), attempt(1)) == pytest.approx(Happened(0.4, 0.1, 2.25, 0.25))
    assert happened(status(DONE), attempt(2)) is None
    assert happened(status(None), attempt(1)) is None


def test_what_was_never_placed_has_no_table() -> None:
    assert "no host was chosen yet" in shown(
        Fate(status=msgspec.structs.replace(status(None), state=State.QUEUED))
    )
    adopted = shown(Fate(status=status(None), attempts=(attempt(1, decision=None),)))
    assert "no price is on record" in adopted
