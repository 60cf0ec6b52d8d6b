"""Turns between threads and processes: who waits for one that is stopped or hangs is told, who waits for a slow one waits."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loaders.errors import SourceDownError
from loaders.interest import Interest
from loaders.leases import Leases, Patience

DIGEST = "a" * 64


@contextmanager
def taken(folder: Path) -> Iterator[None]:
    """By somebody else: another description of the same locks, as another process has one."""
    other = Leases(folder)
    with other.turn(DIGEST, Interest(), Patience("it")):
        yield
    other.close()


def test_who_waits_for_one_that_shows_nothing_is_told(tmp_path: Path) -> None:
    own = Leases(tmp_path)
    with (
        taken(tmp_path),
        pytest.raises(SourceDownError, match=r"has been at unet/model for 0 seconds and shows no progress"),
        own.turn(DIGEST, Interest(), Patience("unet/model", seconds=0.1)),
    ):
        pytest.fail("two have one turn")
    with own.turn(DIGEST, Interest(), Patience("unet/model", seconds=0.1)):
        own.close()


def test_who_waits_for_one_that_moves_waits_as_long_as_it_takes(tmp_path: Path) -> None:
    own, done = Leases(tmp_path), threading.Event()
    patience = Patience("it", sign=time.monotonic, seconds=0.05)
    with taken(tmp_path):

        def wait() -> None:
            with own.turn(DIGEST, Interest(), patience):
                done.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not done.wait(0.3)
    waiting.join(5)
    assert done.is_set()
    own.close()
