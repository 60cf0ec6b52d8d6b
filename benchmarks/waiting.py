"""A million requests that wait: how fast are others accepted, and how soon do they run, beside an empty queue?

One customer's batch is written straight into the table (COPY). Another customer submits while no host is linked, so
that nothing leaves the queue; then calls one after the other while a host works the batch off, a run of RUN_SECONDS
after the other. Both are measured before the batch comes and after, in one run; CPU time is told as well, because it
does not depend on what else the machine does. `WAITING_ROWS` changes the number.
"""

import asyncio
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg
import uvloop

from benchmarks import _load, _serving
from registry import postgres
from registry.database import migrate
from router import ids
from tests.live import CONTENTS, furnish

ROWS = int(os.environ.get("WAITING_ROWS", "1000000"))
ROUNDS = 3
SECONDS = float(os.environ.get("LIVE_SECONDS", "4"))
AT_ONCE = 64
RUN_SECONDS = 0.02
BATCH_SLUG = "acme/other"
HOUR_SECONDS = 3600.0
COLUMNS = "id, organization, key_id, slug, version, adapters, input, pool, priority, door, origin, created_at"
BODY = json.dumps({"prompt": "a red circle on white", "seed": 1}).encode()


def fill(dsn: str, count: int) -> None:
    """One customer's requests, accepted within the last hour."""
    version, body = CONTENTS[BATCH_SLUG].digest, json.dumps({"prompt": "a batch", "seed": 1})
    common = ("batcher", "batch", BATCH_SLUG, version, "[]", body, "local", "normal", "fal", "elsewhere")
    began = time.time()
    with psycopg.connect(dsn) as connection:
        with connection.cursor().copy(f"COPY requests ({COLUMNS}) FROM STDIN") as copy:
            for number in range(count):
                at = began - HOUR_SECONDS * (1 - number / count)
                copy.write_row((ids.request_id(at), *common, datetime.fromtimestamp(at, UTC)))
        connection.execute("SELECT pg_notify('marquee_submitted', 'local')")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE requests")
        connection.execute("CHECKPOINT")  # else the next rounds pay for writing the batch out
    print(f"   wrote {count} waiting requests in {time.time() - began:.0f} s", flush=True)


def rounds(port: int, request: bytes, at_once: int) -> tuple[float, float]:
    return _load.measure(port, request, at_once, rounds=ROUNDS, seconds=SECONDS)


def waiting(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT count(*) FROM requests WHERE state = 'queued'").fetchone()[0]


def billed(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT count(*) FROM usage_records").fetchone()[0]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        dsn = postgres.ensure(home)
        try:
            migrate(dsn)
            customer, stranger, host_key = asyncio.run(furnish(dsn))
            port = _serving.free_port()
            with _serving.gateway(home, dsn, port) as server:
                database = psutil.Process(postgres.pid(home))
                play(dsn, port, (customer, stranger, host_key), lambda: cpu_seconds(server, database))
        finally:
            postgres.stop(home)


def cpu_seconds(server: subprocess.Popen, database: psutil.Process) -> float:
    return _serving.busy_seconds(server) + _serving.busy_seconds(database, children=True)


def play(dsn: str, port: int, keys: tuple[str, str, str], spent: Callable[[], float]) -> None:
    """Submits come from one customer and runs from another, so that the runs do not wait behind the submits."""
    customer, stranger, host_key = keys
    submit = _load.post("/fal/queue/acme/toys", customer, BODY)
    run = _load.post("/fal/run/acme/toys", stranger, BODY)
    found = {}
    for name in ("empty", "full"):
        if name == "full":
            fill(dsn, ROWS)
        uvloop.run(_load.run("127.0.0.1", port, submit, at_once=8, seconds=1.0))
        before, waited = spent(), waiting(dsn)
        found["submits", name], _ = rounds(port, submit, AT_ONCE)
        cpu = (spent() - before) / (waiting(dsn) - waited) * 1e3
        told = f"   {waited:8d} wait: {found['submits', name]:6.0f} submits/s ({cpu:.2f} ms of CPU each)"
        with _serving.host(port, host_key, "busy", "2", str(RUN_SECONDS)):
            uvloop.run(_load.run("127.0.0.1", port, run, at_once=1, seconds=2.0))
            if name == "empty":
                with _serving.host(port, host_key, "instant"):
                    drained(dsn)
            before, ran = spent(), billed(dsn)
            _, found["run", name] = rounds(port, run, 1)
            cpu = (spent() - before) / (billed(dsn) - ran) * 1e3
        call = f"one call after the other, p50 {found['run', name] * 1e3:.2f} ms"
        print(f"{told}; {call} ({cpu:.2f} ms of CPU for each run, the batch's included)", flush=True)
    ratio = found["submits", "full"] / found["submits", "empty"]
    later = (found["run", "full"] - found["run", "empty"]) / RUN_SECONDS
    print(f"   submit rate {ratio:.2f} x that of an empty queue; a call waits {later:.1f} runs longer")


def drained(dsn: str) -> None:
    """What the empty rounds submitted is worked off: then the queue is empty again."""
    give_up_at = time.monotonic() + 300
    while waiting(dsn):
        assert time.monotonic() < give_up_at, "the host did not work the queue off"
        time.sleep(0.2)


if __name__ == "__main__":
    main()
