"""Settings are read by name, checked at start, and overridden by options."""

from pathlib import Path

import pytest

from registry.errors import SettingsError
from registry.settings import Settings


def test_environment_and_options_meet() -> None:
    settings = Settings.from_environment(
        {"MARQUEE_PORT": "9000", "MARQUEE_HOME": "/srv/m", "PATH": "x"}, port=None
    )
    assert settings == Settings(port=9000, home=Path("/srv/m"))
    assert Settings.from_environment({"MARQUEE_PORT": "9000"}, port=1).port == 1
    assert settings.address == "http://127.0.0.1:9000"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"MARQUEE_PORT": "many"}, "MARQUEE_PORT: Expected `int`, got `str`"),
        ({"MARQUEE_PORT": "70000"}, "MARQUEE_PORT: 70000 is not a port number"),
        ({"MARQUEE_PROT": "80"}, "MARQUEE_PROT: no such setting"),
        (
            {"MARQUEE_LOG_LEVEL": "loud"},
            "MARQUEE_LOG_LEVEL: 'loud' is not one of debug, info, warning, error",
        ),
        ({"MARQUEE_DEVICE": "tpu"}, "MARQUEE_DEVICE: 'tpu' is not auto, all, cpu or cuda:0, cuda:1 …"),
        (
            {"MARQUEE_EVICTION_ORDER": "fifo"},
            "MARQUEE_EVICTION_ORDER: Invalid enum value 'fifo'; there are cost, lru",
        ),
        ({"MARQUEE_DISK_BUDGET_BYTES": "-1"}, "MARQUEE_DISK_BUDGET_BYTES: a budget cannot be negative"),
    ],
)
def test_a_bad_value_names_its_key(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(environ)
    assert str(caught.value) == message


def test_a_child_gets_the_same_settings() -> None:
    settings = Settings(port=9000, home=Path("/srv/m"), host_key="mq_x")
    assert Settings.from_environment(settings.environment()) == settings


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "http://127.0.0.1:8080"), ("::", "http://[::1]:8080"), ("10.0.0.5", "http://10.0.0.5:8080")],
)
def test_a_wildcard_address_is_reached_through_loopback(host: str, address: str) -> None:
    assert Settings(host=host).local_address == address
