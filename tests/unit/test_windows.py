"""Launch windows as tables: which phase at which second, who is let in, which release answers."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import windows
from registry.catalog import OrganizationName, Release, Share, Slug, Window
from registry.windows import Gone, Hidden, Open, Phase

DAY = datetime(2026, 12, 1, tzinfo=UTC)
BLUE, ACME, ANYONE = OrganizationName("blue"), OrganizationName("acme"), OrganizationName("anyone")
FULL = Window(
    preview_from=DAY,
    preview_organizations=(BLUE,),
    exclusive_from=DAY + timedelta(days=1),
    exclusive_organizations=(ACME, BLUE),
    public_from=DAY + timedelta(days=2),
    sunset_from=DAY + timedelta(days=3),
    retired_from=DAY + timedelta(days=4),
    successor=Slug("acme/next"),
    prewarm_from=DAY - timedelta(hours=6),
    prewarm_replicas=4,
)
MOMENT = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("now", "phase", "admitted"),
    [
        (DAY - MOMENT, Phase.EMBARGO, set()),
        (DAY, Phase.PREVIEW, {BLUE}),
        (DAY + timedelta(days=1) - MOMENT, Phase.PREVIEW, {BLUE}),
        (DAY + timedelta(days=1), Phase.EXCLUSIVE, {ACME, BLUE}),
        (DAY + timedelta(days=2) - MOMENT, Phase.EXCLUSIVE, {ACME, BLUE}),
        (DAY + timedelta(days=2), Phase.PUBLIC, {ACME, BLUE, ANYONE}),
        (DAY + timedelta(days=3), Phase.SUNSET, {ACME, BLUE, ANYONE}),
        (DAY + timedelta(days=4), Phase.RETIRED, set()),
    ],
)
def test_each_phase_begins_at_its_second_and_not_a_moment_early(
    now: datetime, phase: Phase, admitted: set
) -> None:
    assert windows.phase(FULL, now) is phase
    assert {who for who in (BLUE, ACME, ANYONE) if windows.admits(FULL, who, now)} == admitted


def test_a_zone_does_not_move_a_moment() -> None:
    local = Window(public_from=DAY.astimezone(timezone(timedelta(hours=9))))
    assert windows.phase(local, DAY - MOMENT) is Phase.EMBARGO
    assert windows.phase(local, DAY) is Phase.PUBLIC


def test_an_empty_window_never_opens() -> None:
    assert windows.phase(Window(), DAY) is Phase.EMBARGO
    assert windows.opening(Window()) is None
    assert windows.next_change(Window(), DAY) is None


def test_admission_counts_from_where_it_was_not_interrupted() -> None:
    broken = Window(
        preview_from=DAY,
        preview_organizations=(BLUE,),
        exclusive_from=DAY + timedelta(days=1),
        exclusive_organizations=(ACME,),
        public_from=DAY + timedelta(days=2),
    )
    late = DAY + timedelta(days=5)
    assert windows.opened_at(broken, BLUE, late) == DAY + timedelta(days=2)
    assert windows.opened_at(broken, ACME, late) == DAY + timedelta(days=1)
    assert windows.opened_at(FULL, BLUE, DAY + timedelta(days=2)) == DAY
    assert windows.opened_at(broken, BLUE, DAY + timedelta(days=1)) is None


def _release(number: int, version: int = 1, **window: object) -> Release:
    shares = (Share(version=version, percent=100),)
    return Release(id=number, variant=Slug("acme/m"), shares=shares, window=Window(**window))


FIRST = _release(1, 1, public_from=DAY)
LAUNCH = _release(
    2,
    2,
    preview_from=DAY + timedelta(days=1),
    preview_organizations=(BLUE,),
    public_from=DAY + timedelta(days=3),
)
ROLLBACK = _release(3, 1, public_from=DAY + timedelta(days=4))
FAREWELL = _release(
    4, 1, public_from=DAY + timedelta(days=5), retired_from=DAY + timedelta(days=6), successor=Slug("acme/n")
)
ALL = [FIRST, LAUNCH, ROLLBACK, FAREWELL]


@pytest.mark.parametrize(
    ("who", "days", "answer"),
    [
        (ANYONE, -1, Hidden(until=DAY)),
        (ANYONE, 0, Open(release=FIRST, phase=Phase.PUBLIC, until=DAY + timedelta(days=1))),
        (ANYONE, 2, Open(release=FIRST, phase=Phase.PUBLIC, until=DAY + timedelta(days=3))),
        (BLUE, 2, Open(release=LAUNCH, phase=Phase.PREVIEW, until=DAY + timedelta(days=3))),
        (ANYONE, 3, Open(release=LAUNCH, phase=Phase.PUBLIC, until=DAY + timedelta(days=4))),
        (ANYONE, 4, Open(release=ROLLBACK, phase=Phase.PUBLIC, until=DAY + timedelta(days=5))),
        (BLUE, 4, Open(release=ROLLBACK, phase=Phase.PUBLIC, until=DAY + timedelta(days=5))),
        (ANYONE, 6, Gone(since=DAY + timedelta(days=6), successor=Slug("acme/n"))),
    ],
)
def test_the_release_that_opened_last_answers(
    who: OrganizationName, days: int, answer: windows.Resolution
) -> None:
    assert windows.resolve(ALL, who, DAY + timedelta(days=days)) == answer
    assert windows.resolve(reversed(ALL), who, DAY + timedelta(days=days)) == answer, (
        "whatever order they come in"
    )


def test_an_announced_end_can_be_put_off_and_a_retirement_cannot_be_overtaken() -> None:
    days = [DAY + timedelta(days=number) for number in range(8)]
    announced = _release(1, public_from=days[0], sunset_from=days[0], retired_from=days[4])
    put_off = _release(2, public_from=days[1], sunset_from=days[1], retired_from=days[6])
    retired = _release(3, retired_from=days[3])
    both = [announced, put_off]
    assert windows.resolve(both, ANYONE, days[5]) == Open(release=put_off, phase=Phase.SUNSET, until=days[6])
    assert windows.resolve(both, ANYONE, days[6]) == Gone(since=days[6], successor=None)
    assert windows.resolve([announced], ANYONE, days[4]) == Gone(since=days[4], successor=None)
    assert windows.resolve([*both, retired], ANYONE, days[5]) == Gone(since=days[3], successor=None)


@given(st.datetimes(datetime(2026, 11, 30), datetime(2026, 12, 9), timezones=st.just(UTC)))  # noqa: DTZ001
def test_an_answer_holds_until_it_says(now: datetime) -> None:
    answer = windows.resolve(ALL, BLUE, now)
    until = getattr(answer, "until", None)
    if until is not None:
        assert until > now
        middle = now + (until - now) / 2
        assert windows.resolve(ALL, BLUE, middle) == answer


@pytest.mark.parametrize(
    ("now", "staging_seconds", "deadline"),
    [
        (DAY - timedelta(days=1), 60.0, DAY - timedelta(hours=6)),
        (DAY - timedelta(days=1), 8 * 3600.0, DAY - timedelta(hours=8)),
        (DAY, 60.0, None),
    ],
    ids=["as asked", "earlier, because staging takes longer", "too late: open already"],
)
def test_weights_are_staged_in_time(now: datetime, staging_seconds: float, deadline: datetime | None) -> None:
    assert windows.prewarm_deadline(FULL, now, staging_seconds) == deadline


def test_nothing_is_staged_for_a_launch_that_asks_for_no_replica() -> None:
    assert windows.prewarm_deadline(Window(public_from=DAY), DAY - timedelta(days=1), 60) is None


def test_traffic_is_split_by_percent() -> None:
    shares = (Share(version=1, percent=90), Share(version=2, percent=10))
    assert [windows.share_of(shares, lot) for lot in (0.0, 0.89, 0.91, 0.999)] == [1, 1, 2, 2]
    lots = [number / 1000 for number in range(1000)]
    assert sum(windows.share_of(shares, lot) == 2 for lot in lots) in range(99, 102)
    assert windows.share_of((Share(version=7, percent=99),), 0.995) == 7


@pytest.mark.parametrize(
    ("window", "problem"),
    [
        (Window(public_from=DAY.replace(tzinfo=None)), "public has no time zone"),
        (Window(preview_from=DAY), "preview names no organization"),
        (Window(exclusive_from=DAY), "exclusive names no organization"),
        (Window(public_from=DAY, sunset_from=DAY - MOMENT), "sunset is to begin before public"),
        (Window(public_from=DAY, prewarm_replicas=-1), "prewarm_replicas is from 0 to 10000"),
        (Window(public_from=DAY, prewarm_replicas=10**30), "prewarm_replicas is from 0 to 10000"),
        (Window(public_from=DAY, prewarm_from=DAY.replace(tzinfo=None)), "prewarm_from has no time zone"),
        (
            Window(public_from=DAY, retired_from=datetime.max.replace(tzinfo=timezone(-timedelta(hours=9)))),
            "retired lies too far ahead",
        ),
    ],
)
def test_a_window_that_makes_no_sense_says_why(window: Window, problem: str) -> None:
    assert windows.problems(window) == (problem,)


def test_a_full_window_makes_sense() -> None:
    assert windows.problems(FULL) == ()


def test_whoever_calls_what_will_end_is_told() -> None:
    assert windows.farewell(FULL, DAY + timedelta(days=2)) == {}
    assert windows.farewell(FULL, DAY + timedelta(days=3)) == {
        "deprecation": "@1796342400",
        "sunset": "Sat, 05 Dec 2026 00:00:00 GMT",
        "link": '</v1/models?endpoint_id=acme/next>; rel="successor-version"',
    }
    assert windows.farewell(FULL, DAY + timedelta(days=4)) == {}


def test_a_prewarm_time_without_a_zone_that_was_stored_once_ends_nobodys_term() -> None:
    window = Window(public_from=DAY, prewarm_from=DAY.replace(tzinfo=None), prewarm_replicas=1)
    asked = windows.prewarm_deadline(window, DAY - timedelta(days=1), 600.0)
    assert asked == DAY - timedelta(seconds=600)
