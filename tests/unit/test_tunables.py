"""A host starts itself once more with what the C library reads at the start of a process, and only once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loaders.tunables import NAME, SETTING, VALUE, wanted

OURS = f"{SETTING}={VALUE}"
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("word", "told", "expected"),
    [
        ("nothing yet", {}, OURS),
        ("something else", {NAME: "glibc.malloc.check=3"}, f"glibc.malloc.check=3:{OURS}"),
        ("ours already", {NAME: OURS}, None),
        ("the operator's own", {NAME: f"{SETTING}=0x100000"}, None),
    ],
)
def test_what_an_operator_has_set_stays(word: str, told: dict[str, str], expected: str | None) -> None:
    found = wanted({"PATH": "/bin", **told})
    assert found == (None if expected is None else {"PATH": "/bin", NAME: expected}), word


@pytest.mark.parametrize("command", ["host", "load"])
def test_only_the_host_begins_anew_and_with_the_same_arguments(command: str) -> None:
    """`--help` ends it before anything else is done; the loader tells of each program that is executed."""
    program = (
        "import os, sys; from router import cli; from loaders import tunables\n"
        f"sys.argv = ['marquee', {command!r}, '--help']\n"
        "tunables.sys.orig_argv = [sys.executable, '-c', 'import os; print(os.environ[\"GLIBC_TUNABLES\"])']\n"
        "cli.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != NAME}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert (OURS in done.stdout, "Usage" in done.stdout) == (
        (True, False) if command == "host" else (False, True)
    )
