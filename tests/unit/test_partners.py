"""The pure parts of partners: when one is left alone, whose turn it is, how long one waits, where files are named."""

import itertools
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from loaders.protocol import AttemptKey
from registry.catalog import Digest, OrganizationName, Slug
from registry.errors import SettingsError
from registry.settings import PartnerAccount, Settings
from router.inputs import Checker
from router.partners import errand, patience, places, refusals, sizes
from router.partners.breaker import FAILURES, FIRST_SECONDS, Breaker
from router.partners.line import Line
from router.requests import Outcome, Place, Request, RequestId, State, Status, StoredFile
from router.rows import AttemptRow
from router.storefront.progress import progress

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_breaker_opens_after_failures_in_a_row_and_longer_each_time() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.failed("no", 0.0)
    breaker.succeeded()
    for _ in range(FAILURES - 1):
        breaker.failed("no", 0.0)
    assert (breaker.is_open(0.0), breaker.is_on_probation) == (False, False)
    breaker.failed("dead", 0.0)
    assert (breaker.is_open(FIRST_SECONDS - 0.1), breaker.reason) == (True, "dead")
    breaker.failed("was under way", 1.0)
    assert (breaker.is_open(FIRST_SECONDS), breaker.is_on_probation) == (False, True)
    breaker.failed("still dead", FIRST_SECONDS)
    assert breaker.seconds_open(FIRST_SECONDS) == 2 * FIRST_SECONDS
    breaker.succeeded()
    assert (breaker.is_open(FIRST_SECONDS), breaker.is_on_probation) == (False, False)


def test_a_breaker_keeps_quiet_as_long_as_was_asked() -> None:
    breaker = Breaker()
    breaker.hush(5.0, 10.0)
    breaker.hush(1.0, 10.0)
    assert (breaker.seconds_quiet(12.0), breaker.seconds_quiet(20.0)) == (3.0, 0.0)


def test_organizations_take_turns_and_low_priority_waits_for_all() -> None:
    line = Line()
    entries = [("a1", "acme", False), ("a2", "acme", False), ("a3", "acme", False), ("low", "blue", True),
               ("b1", "blue", False)]  # fmt: skip
    for name, organization, is_low in entries:
        line.enter(RequestId(name), OrganizationName(organization), is_low=is_low)
    assert (line.leave(RequestId("a2")), line.leave(RequestId("a2")), len(line)) == (True, False, 4)
    order = list(line.drain())
    assert order[0] == "a1"
    assert order.index(RequestId("b1")) < order.index(RequestId("low")) == 3
    assert (line.pop(), len(line)) == (None, 0)


def test_a_low_batch_takes_no_turn_from_its_own_organization() -> None:
    line, acme, blue = Line(), OrganizationName("acme"), OrganizationName("blue")
    for n in range(50):
        line.enter(RequestId(f"low{n}"), acme, is_low=True)
        line.enter(RequestId(f"blue{n}"), blue, is_low=False)
    line.enter(RequestId("mine"), acme, is_low=False)
    assert "mine" in list(line.drain())[:2]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("-3", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert patience.retry_after(header, NOON) == seconds


def test_pauses_double_honour_the_partner_and_end() -> None:
    assert [patience.pause(tries, None) for tries in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, None]
    assert [patience.pause(1, after) for after in (0.0, 7.0, 121.0)] == [0.5, 7.0, None]
    polled = list(itertools.islice(patience.polls(), 12))
    assert (polled[0], polled[-1], polled == sorted(polled)) == (0.1, 2.0, True)


@pytest.mark.parametrize(
    ("result", "found"),
    [
        ({"images": [{"url": "https://h/a.png"}]}, {"https://h/a.png": [("images", 0, "url")]}),
        ({"video_url": "https://h/a.mp4", "n": 1}, {"https://h/a.mp4": [("video_url",)]}),
        (
            {"model_urls": {"glb": {"url": "http://h/x"}}, "same": {"url": "http://h/x"}},
            {"http://h/x": [("model_urls", "glb", "url"), ("same", "url")]},
        ),
        ({"images": ["https://h/1", "https://h/2"]}, {"https://h/1": [("images", 0)], "https://h/2": [("images", 1)]}),
        (["https://h/1"], {"https://h/1": [(0,)]}),
        ({"image": {"url": "data:image/png;base64,AA=="}}, {"data:image/png;base64,AA==": [("image", "url")]}),
        ({"prompt": "https://h/a.png", "text": "see https://h", "url": "ftp://h/x", "urls": 3}, {}),
        ({"list": ["https://h/1", "words"], "url": None}, {}),
    ],
)  # fmt: skip
def test_files_are_named_under_urls_and_in_bare_lists(result: Any, found: dict[str, Any]) -> None:
    assert {one.address: list(one.paths) for one in places.named(result)} == found


def test_a_result_is_filled_with_our_addresses_and_nothing_else() -> None:
    result = {"images": [{"url": "", "n": 1}], "same": {"url": ""}, "text": "a\0b", "none": None}
    where = (Place(path=("images", 0, "url"), file=0), Place(path=("same", "url"), file=1))
    assert places.filled(result, where, lambda n: f"/files/{n}") == {
        "images": [{"url": "/files/0", "n": 1}],
        "same": {"url": "/files/1"},
        "text": "ab",
        "none": None,
    }


@pytest.mark.parametrize(
    ("where", "answer"),
    [
        (None, None),
        ((), {"text": "hi", "model": {"url": ""}}),
        ((Place(path=("model", "url"), file=0),), {"text": "hi", "model": {"url": "/files/f1"}}),
    ],
)
def test_the_page_gets_a_partners_whole_answer(where: tuple[Place, ...] | None, answer: object) -> None:
    request = Request(
        id=RequestId("r"), organization=OrganizationName("blue"), key_id="k", slug=Slug("far/dev"),
        version=Digest("sha256:v"), input={}, created_at=NOON,
    )  # fmt: skip
    file = StoredFile(id="f1", content_type="model/gltf-binary", size_bytes=1, sha256="")
    outcome = Outcome(
        state=State.SUCCEEDED, files=(file,), result={"text": "hi", "model": {"url": ""}}, places=where
    )
    assert progress(Status(request=request, state=State.SUCCEEDED, outcome=outcome)).answer == answer


def test_what_is_said_beside_a_file_is_believed_within_reason() -> None:
    assert sizes.told({"width": 10, "height": True, "duration": 2}) == sizes.Size(width=10, seconds=2.0)
    assert sizes.told({"width": -1, "height": "9", "duration": float("nan")}) == sizes.Size()


def test_details_that_are_no_list_of_issues_are_one_issue() -> None:
    assert [i.message for i in refusals.issues_of([])] == ["refused"]
    assert [i.message for i in refusals.issues_of({"a": 1})] == ["{'a': 1}"]
    assert len(refusals.issues_of([{"msg": "x"}] * 1000)) == refusals.ISSUES


def test_a_partners_schema_gets_no_seed_and_no_default_outside_its_choices() -> None:
    schema = {"properties": {"seed": {}, "voice": {"enum": ["a"], "default": "b"}, "n": {"default": 1}}}
    assert Checker(schema).complete({}, None) == {"n": 1}
    assert Checker(schema).complete({}, 5) == {"n": 1, "seed": 5}
    assert Checker({"properties": {"prompt": {}}}).complete({}, 5) == {}


def test_settings_name_the_partners_that_have_a_key() -> None:
    settings = Settings.from_environment(
        {
            "MARQUEE_PARTNER_FAL_KEY": "k:s",
            "MARQUEE_PARTNER_FAL_URL": "http://b.internal/fal/queue/",
            "MARQUEE_PARTNER_FAL_AT_ONCE": "3",
        }
    )
    assert settings.partners == {
        "fal": PartnerAccount(
            provider="fal", key="k:s", url="http://b.internal/fal/queue", at_once=3,
            longest_seconds=1800.0, allow_private=False,
        )
    }  # fmt: skip
    assert Settings().partners == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MARQUEE_PARTNER_FAL_KEY", "two words"),
        ("MARQUEE_PARTNER_REPLICATE_KEY", "line\nbreak"),
        ("MARQUEE_PARTNER_FAL_URL", "queue.fal.run"),
        ("MARQUEE_PARTNER_REPLICATE_URL", "https://user:word@h/"),
        ("MARQUEE_PARTNER_OPENAI_URL", "https://h:port/"),
        ("MARQUEE_PARTNER_OPENAI_URL", "https://h/?a=b"),
        ("MARQUEE_PARTNER_OPENAI_AT_ONCE", "0"),
        ("MARQUEE_PARTNER_LONGEST_SECONDS", "-1"),
    ],
)
def test_a_bad_setting_stops_the_start_by_name_and_never_says_a_key(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({name: value})
    assert str(caught.value).startswith(f"{name}: ")
    assert not name.endswith("_KEY") or value not in str(caught.value)


async def test_a_database_that_is_away_makes_no_resumed_request_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errand, "RESUME_LOOK_SECONDS", 0.0)

    class Queue:
        """Its first connection is dead still."""

        tries = 0

        async def attempts(self, request_id: str) -> list[AttemptRow]:
            self.tries += 1
            if self.tries == 1:
                raise psycopg.OperationalError("the connection is lost")
            at = datetime(2026, 11, 26, tzinfo=UTC)
            return [AttemptRow(number=1, host_id="partner:fal", assigned_at=at, partner_request_id="theirs")]

    key = AttemptKey("r", 1)
    attempt: Any = SimpleNamespace(entry=SimpleNamespace(id="r"), key=key)
    nothing: Any = None
    asking: Any = SimpleNamespace(api=SimpleNamespace(is_synchronous=False))
    queue: Any = Queue()
    resumed = errand.Errand(attempt, nothing, asking, queue, told=nothing, answered=nothing)
    await resumed._resume()
    assert resumed._ticket == "theirs"
