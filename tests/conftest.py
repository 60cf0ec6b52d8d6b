"""Fixtures for every tier: the environment is scrubbed of our settings."""

import os

# Its plugin would import it in the summary, where a greenlet's end in mid-parse breaks Python 3.11's parser.
import hypothesis  # noqa: F401
import pytest


@pytest.fixture(autouse=True)
def _scrubbed_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in os.environ if name.startswith("MARQUEE_") and not name.startswith("MARQUEE_TEST_")
    ]:
        monkeypatch.delenv(name)


pytest_plugins = ["tests.cluster"]
