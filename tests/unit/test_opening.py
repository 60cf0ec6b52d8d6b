from pathlib import Path

import pytest

from registry.catalog import Caller
from registry.errors import HomeNotWritableError
from registry.settings import Settings
from registry.web import opening


async def nobody(_: str) -> Caller | None:
    return None


async def anything(_: str) -> bool:
    return True


def test_the_secret_stays_the_same_and_private(tmp_path: Path) -> None:
    first = opening.session_secret(tmp_path / "home")
    assert first == opening.session_secret(tmp_path / "home")
    assert len(first) == 32
    assert (tmp_path / "home" / "session.secret").stat().st_mode & 0o777 == 0o600


def test_a_home_that_is_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(HomeNotWritableError):
        opening.session_secret(tmp_path / "home")


@pytest.mark.parametrize(
    ("host", "public_url", "local"),
    [
        ("127.0.0.1", None, True),
        ("::1", None, True),
        ("localhost", None, True),
        ("127.0.0.1", "http://localhost:9000", True),
        ("127.0.0.1", "https://models.example", False),  # a proxy stands before us
        ("0.0.0.0", None, False),
        ("10.0.0.5", None, False),
    ],
)
def test_only_a_gateway_for_this_machine_opens_by_itself(
    tmp_path: Path, host: str, public_url: str | None, *, local: bool
) -> None:
    settings = Settings(home=tmp_path, host=host, public_url=public_url, playground_key="mq_x")
    assert opening.door(settings, verify=nobody, find=nobody, knows=anything).loopback is local
