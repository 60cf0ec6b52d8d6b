"""The live path with instant hosts: durable sync runs per second, and what the path adds to a single call.

Everything is real but the pipeline: HTTP, validation, group commit with fsync, placement, the link, outcome and
usage in one transaction. The load generator shares the machine. `disk` beside it is what a commit costs here at
least: three of them stand between a call and its answer.
"""

import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import psycopg
import uvloop

from benchmarks import _load
from registry import postgres
from registry.database import migrate
from tests.live import furnish

ROUNDS = 3
SECONDS = 5.0
AT_ONCE = (1, 64)
BODY = json.dumps({"prompt": "a red circle on white", "seed": 1}).encode()


@contextlib.contextmanager
def gateway(home: Path, dsn: str, port: int):
    environment = {
        **os.environ,
        "MARQUEE_HOME": str(home),
        "MARQUEE_DATABASE_URL": dsn,
        "MARQUEE_PORT": str(port),
    }
    with (home / "gateway.log").open("w") as log:
        command = [sys.executable, *os.environ.get("GATEWAY_PREFIX", "").split(), "-m", "router.gateway"]
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
    try:
        wait_for(port)
        yield process
    finally:
        process.terminate()
        process.wait(15)


@contextlib.contextmanager
def host(port: int, key: str, name: str):
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, "-m", "benchmarks._instant_host", url, key, name])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise TimeoutError("the gateway did not start")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def commit_seconds(dsn: str) -> float:
    """The least a durable commit costs on this disk: one small insert, one connection."""
    taken = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS commits (n int)")
        for number in range(200):
            began = time.perf_counter()
            connection.execute("INSERT INTO commits VALUES (%s)", [number])
            taken.append(time.perf_counter() - began)
        connection.execute("DROP TABLE commits")
    return statistics.median(taken)


def busy_seconds(process: subprocess.Popen) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        dsn = postgres.ensure(home)
        try:
            migrate(dsn)
            customer, _, host_key = asyncio.run(furnish(dsn))
            port = free_port()
            with gateway(home, dsn, port) as server, host(port, host_key, "instant"):
                report(dsn, port, customer, server)
        finally:
            postgres.stop(home)


def report(dsn: str, port: int, key: str, server: subprocess.Popen) -> None:
    request = _load.post("/fal/run/acme/toys", key, BODY)
    uvloop.run(_load.run("127.0.0.1", port, request, at_once=8, seconds=3.0))
    print(f"   a commit on this disk          {commit_seconds(dsn) * 1e3:8.2f} ms")
    for at_once in AT_ONCE:
        rates, medians, shares = [], [], []
        for _ in range(ROUNDS):
            before = busy_seconds(server)
            seconds, refused, took = uvloop.run(
                _load.run("127.0.0.1", port, request, at_once=at_once, seconds=SECONDS)
            )
            assert not refused, f"{refused} calls were not answered 200"
            rates.append(len(seconds) / took)
            medians.append(statistics.median(seconds))
            shares.append((busy_seconds(server) - before) / len(seconds))
        print(
            f"   {at_once:3d} at once: {statistics.median(rates):8.0f} runs/s, p50 {statistics.median(medians) * 1e3:6.2f} ms,"
            f" gateway CPU {statistics.median(shares) * 1e3:5.2f} ms a run"
        )


if __name__ == "__main__":
    main()
