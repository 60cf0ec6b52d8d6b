"""The live path with instant hosts: durable sync runs per second, and what the path adds to a single call.

Everything is real but the pipeline: HTTP, validation, group commit with fsync, placement, the link, outcome and
usage in one transaction. The load generator shares the machine. Beside it stand what a commit costs here at least
(three of them stand between a call and its answer), a bare Litestar handler, LiteLLM's proxy in front of an instant
upstream, and a Ray Serve deployment with multiplexed models; none of these three stores anything.
"""

import asyncio
import json
import os
import secrets
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import psutil
import psycopg
import uvloop

from benchmarks import _load, _serving
from registry import postgres
from registry.database import migrate
from tests.live import furnish

ROUNDS = 3
SECONDS = float(os.environ.get("LIVE_SECONDS", "4"))
WARM_SECONDS = 2.0
AT_ONCE = (1, 64)
BODY = json.dumps({"prompt": "a red circle on white", "seed": 1}).encode()
IMAGE_BODY = json.dumps({"model": "toys", "prompt": "a red circle on white"}).encode()


class Rate(NamedTuple):
    """Medians over the rounds."""

    per_second: float
    p50_seconds: float


Parts = Mapping[str, subprocess.Popen | psutil.Process]


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


def measure(port: int, request: bytes, at_once: int) -> Rate:
    return Rate(*_load.measure(port, request, at_once, rounds=ROUNDS, seconds=SECONDS))


def subject(name: str, port: int, request: bytes, ours: dict[int, Rate] | None = None) -> dict[int, Rate]:
    uvloop.run(_load.run("127.0.0.1", port, request, at_once=8, seconds=WARM_SECONDS))
    found = {}
    for at_once in AT_ONCE:
        found[at_once] = rate = measure(port, request, at_once)
        many = (
            "" if ours is None else f"; Marquee {ours[at_once].per_second / rate.per_second:5.2f} x its rate"
        )
        print(
            f"   {name:20s} {at_once:3d} at once: {rate.per_second:7.0f} runs/s, p50 {rate.p50_seconds * 1e3:7.2f} ms{many}",
            flush=True,
        )
    return found


def marquee() -> dict[int, Rate]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        dsn = postgres.ensure(home)
        try:
            migrate(dsn)
            customer, _, host_key = asyncio.run(furnish(dsn))
            port = _serving.free_port()
            with (
                _serving.gateway(home, dsn, port) as server,
                _serving.host(port, host_key, "instant") as host,
            ):
                request = _load.post("/fal/run/acme/toys", customer, BODY)
                print(f"   a commit on this disk: {commit_seconds(dsn) * 1e3:.2f} ms")
                found = subject("Marquee", port, request)
                parts = {"gateway": server, "host": host, "Postgres": psutil.Process(postgres.pid(home))}
                shares(port, request, parts)
                standby(home, dsn, request, parts)
                return found
        finally:
            postgres.stop(home)


def standby(home: Path, dsn: str, request: bytes, parts: Parts) -> None:
    """The same runs through a second gateway, which accepts, waits and answers while the first one dispatches."""
    own, port = home / "standby", _serving.free_port()
    own.mkdir()
    with _serving.gateway(own, dsn, port) as other:
        subject("Marquee's standby", port, request)
        shares(port, request, {"standby": other, **parts})


def shares(port: int, request: bytes, parts: Parts) -> None:
    """Where a run's CPU time goes; it does not depend on what else the machine does."""
    before = {name: spent_by(name, process) for name, process in parts.items()}
    me = _serving.busy_seconds(psutil.Process())
    seconds, _, _ = uvloop.run(_load.run("127.0.0.1", port, request, at_once=AT_ONCE[-1], seconds=SECONDS))
    spent = {name: spent_by(name, process) - before[name] for name, process in parts.items()}
    spent["generator"] = _serving.busy_seconds(psutil.Process()) - me
    told = ", ".join(f"{name} {value / len(seconds) * 1e3:.2f}" for name, value in spent.items())
    print(f"   CPU ms a run: {told}", flush=True)


def spent_by(name: str, process: subprocess.Popen | psutil.Process) -> float:
    """CPU seconds so far; Postgres works in children of its own."""
    return _serving.busy_seconds(process, children=name == "Postgres")


def main() -> None:
    ours = marquee()
    key = "sk-" + secrets.token_hex(16)
    with _serving.bare_litestar() as (bare, _):
        subject("bare Litestar", bare, _load.post("/", "none", BODY), ours)
        with _serving.litellm(bare, key) as proxy:
            if proxy is not None:
                request = _load.post("/v1/images/generations", key, IMAGE_BODY, kind="Bearer")
                subject("LiteLLM proxy", proxy[0], request, ours)
    with _serving.ray_serve() as deployed:
        if deployed is not None:
            request = _load.post("/", "none", BODY, {"serve_multiplexed_model_id": "toys"})
            subject("Ray Serve multiplexed", deployed[0], request, ours)


if __name__ == "__main__":
    main()
