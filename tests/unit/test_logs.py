"""Every process writes its log alike: one JSON line an event where nobody watches, libraries' lines too."""

import json
import subprocess
import sys

PROGRAM = """
import logging, sys, structlog
from registry import logs
logs.configure("info", facts={"device": "cuda:1"})
structlog.get_logger("marquee.host").info("run failed", request="r1")
logging.getLogger("a.library").warning("disk is slow")
logging.getLogger("httpx").info("not wanted")
assert not {"litestar", "sqlalchemy", "psycopg"} & sys.modules.keys(), "a GPU host has none of them"
"""


def test_a_line_is_json_with_its_time_and_level() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert [bool(line.pop("timestamp")) for line in lines] == [True, True]
    assert lines == [
        {"event": "run failed", "request": "r1", "level": "info", "device": "cuda:1"},
        {"event": "disk is slow", "level": "warning", "device": "cuda:1"},
    ]
