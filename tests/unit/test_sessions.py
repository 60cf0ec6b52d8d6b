import pytest

from registry.web import sessions
from registry.web.sessions import Session
from registry.web.signin import own_path

SECRET = bytes(range(32))
NOW = 1_790_000_000
SESSION = Session("abcdefgh", NOW)


def test_a_cookie_gives_back_its_session() -> None:
    assert sessions.read(SECRET, sessions.issue(SECRET, SESSION), NOW + 5) == SESSION


@pytest.mark.parametrize(
    "cookie",
    [
        None,
        "",
        ".",
        "a.b",
        sessions.issue(bytes(32), SESSION),  # another secret
        sessions.issue(SECRET, SESSION)[:-1],  # cut
        "x" + sessions.issue(SECRET, SESSION),  # changed
        sessions.issue(SECRET, SESSION) + "é",
    ],
)
def test_what_we_did_not_sign_is_nobody(cookie: str | None) -> None:
    assert sessions.read(SECRET, cookie, NOW) is None


@pytest.mark.parametrize("age_seconds", [-3600, sessions.LIFETIME_SECONDS + 61])
def test_a_cookie_lives_for_its_lifetime_only(age_seconds: int) -> None:
    assert sessions.read(SECRET, sessions.issue(SECRET, SESSION), NOW + age_seconds) is None


def test_a_form_token_belongs_to_one_session() -> None:
    token = sessions.form_token(SECRET, SESSION)
    assert sessions.token_matches(SECRET, SESSION, token)
    assert not sessions.token_matches(SECRET, Session("abcdefgh", NOW + 1), token)
    assert not sessions.token_matches(SECRET, SESSION, None)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:8080", True),
        ("localhost", True),
        ("LOCALHOST:80", True),
        ("[::1]:8080", True),
        ("rebound.example:8080", False),
        ("127.0.0.1.example", False),
        ("localhost.example", False),
        ("[", False),
        ("", False),
        (None, False),
    ],
)
def test_only_loopback_names_are_loopback(host: str | None, *, expected: bool) -> None:
    assert sessions.is_loopback(host) is expected


@pytest.mark.parametrize(
    ("origin", "fetch_site", "expected"),
    [
        ("http://gw.example:8080", None, True),
        ("https://GW.example:8080", None, True),  # TLS ends before us
        ("http://gw.example", None, False),
        ("http://evil.example", "same-origin", False),
        ("null", None, False),
        (None, "same-origin", True),
        (None, "same-site", False),
        (None, None, False),
    ],
)
def test_a_change_must_come_from_our_own_page(
    origin: str | None, fetch_site: str | None, *, expected: bool
) -> None:
    asked = sessions.is_same_origin(host="gw.example:8080", origin=origin, fetch_site=fetch_site)
    assert asked is expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/m/marquee/shapes", "/m/marquee/shapes"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\nx", "/"),
        ("", "/"),
    ],
)
def test_after_signing_in_one_stays_here(path: str, expected: str) -> None:
    assert own_path(path) == expected
