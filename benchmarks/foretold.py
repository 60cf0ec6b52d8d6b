"""The simulator's prediction beside a live run: the same jobs, hosts and measured constants.

Live: a gateway and four real CPU hosts with the starter models; calls arrive at random moments and wait for the same
devices. Then `router.simulator` plays the jobs as the ledger has them: when each was accepted and how many seconds
the device was with it. What is compared is all that routing adds: waiting. `FORETOLD_REQUESTS` changes the number.
"""

import asyncio
import contextlib
import os
import random
import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

import httpx
import psycopg

from benchmarks._victims import HOSTS, Victims
from benchmarks.chaos import CATALOG, STARTER, STARTER_LORAS
from registry import postgres
from registry.catalog import Digest
from registry.database import migrate
from registry.settings import Settings
from router import first_start
from router.demand import units_of
from router.residency import Bundle, Part
from router.simulator.engine import HostPlan, Run, Simulation
from router.simulator.hardware import HostType
from router.simulator.marquee import Marquee
from router.simulator.workload import Job, Workload

REQUESTS = int(os.environ.get("FORETOLD_REQUESTS", "120"))
LOAD = 0.7  # of the hosts' seconds, with runs as long as while everybody is busy
WARM_CALLS = 4 * HOSTS
READY_SECONDS = 300.0
LEDGER = """
SELECT extract(epoch FROM u.created_at)::float8, extract(epoch FROM u.finished_at)::float8,
       u.load_seconds + u.run_seconds, u.organization, u.version, u.adapters, r.input
FROM usage_records u JOIN requests r ON r.id = u.request_id WHERE u.state = 'succeeded' ORDER BY u.created_at
"""


class Line(NamedTuple):
    """One job as the ledger has it."""

    created_at: float
    finished_at: float
    device_seconds: float
    customer: str
    version: str
    adapters: tuple[str, ...]
    units: float  # size of the input, as the router sees it


def arguments(rng: random.Random) -> tuple[str, dict]:
    loras = list(rng.choice(STARTER_LORAS))
    call = {"prompt": "a red circle on white", "seed": rng.randrange(1000), "loras": loras}
    return rng.choice(STARTER), call | {"num_inference_steps": rng.choice((10, 20, 30))}


async def live(url: str, key: str, dsn: str, rng: random.Random) -> list[Line]:
    """Warms every host up, then calls at random moments; what the ledger says of the latter."""
    headers, limits = {"Authorization": f"Key {key}"}, httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=600, trust_env=False, limits=limits
    ) as client:

        async def one() -> None:
            slug, call = arguments(rng)
            answer = await client.post(f"/fal/run/{slug}", json=call)
            assert answer.status_code == 200, answer.text

        await hosts_linked(client)
        for _ in range(2):
            await asyncio.gather(*(one() for _ in range(WARM_CALLS)))
        warm = ledger(dsn)
        busy = statistics.mean(line.device_seconds for line in warm[WARM_CALLS:])
        calls = []
        for _ in range(REQUESTS):
            calls.append(asyncio.create_task(one()))
            await asyncio.sleep(rng.expovariate(LOAD * HOSTS / busy))
        await asyncio.gather(*calls)
        return ledger(dsn)[len(warm) :]


async def hosts_linked(client: httpx.AsyncClient) -> None:
    for _ in range(int(2 * READY_SECONDS)):
        with contextlib.suppress(httpx.TransportError):
            if (await client.get("/healthz")).json().get("hosts") == HOSTS:
                return
        await asyncio.sleep(0.5)
    raise TimeoutError("the hosts did not come")


def ledger(dsn: str) -> list[Line]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(LEDGER).fetchall()
    return [Line(*row[:5], adapters=tuple(row[5] or ()), units=units_of(row[6])) for row in rows]


def foretell(lines: list[Line]) -> Run:
    """The same jobs in virtual time. Everything is warm there as it was live: parts have no bytes to move."""
    digests = sorted({line.version for line in lines} | {a for line in lines for a in line.adapters})
    bundles = [Bundle(digest=Digest(d), parts=(Part(Digest(d), 1),), fixed_seconds=0.0) for d in digests]
    began = lines[0].created_at
    jobs = [
        Job(
            number=number,
            arrives_at=line.created_at - began,
            customer=line.customer,
            version=Digest(line.version),
            adapters=tuple(Digest(a) for a in line.adapters),
            run_seconds=line.device_seconds,
            units=line.units,
        )
        for number, line in enumerate(lines)
    ]
    of_one_unit = statistics.mean(job.run_seconds / job.units for job in jobs)
    workload = Workload("as it was live", bundles, jobs, {job.version: of_one_unit for job in jobs})
    fleet = [HostPlan(f"cpu-{number}", HostType()) for number in range(HOSTS)]
    return Simulation(Marquee(workload.bundles, workload.prior_seconds), workload, fleet).play()


def row(name: str, seconds: list[float]) -> None:
    p50, p95 = statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]
    print(f"   {name:10s} mean {statistics.mean(seconds):6.3f} s, p50 {p50:6.3f} s, p95 {p95:6.3f} s")


def main() -> None:
    rng = random.Random(7)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        dsn = postgres.ensure(home)
        migrate(dsn)
        tokens = asyncio.run(first_start.prepare(Settings(home=home), dsn, CATALOG))
        victims = Victims(home, dsn, tokens.host_key, rng, pretend=False)
        victims.balancer_port = victims.ports["gateway-a"]  # one gateway, no balancer, and nothing is killed
        victims.commands = {"gateway-a": victims.commands["gateway-a"]} | {
            name: victims.real(name) for name in victims.hosts
        }
        try:
            victims.start_all()
            url = f"http://127.0.0.1:{victims.balancer_port}"
            lines = asyncio.run(live(url, tokens.customer_key, dsn, rng))
        finally:
            victims.end()
            postgres.stop(home)
    run = foretell(lines)
    measured = [line.finished_at - line.created_at for line in lines]
    foretold = [run.finished_at[job.number] - job.arrives_at for job in run.jobs]
    row("live", measured)
    row("simulated", foretold)
    error = statistics.mean(foretold) / statistics.mean(measured) - 1
    print(f"   {len(lines)} jobs on {HOSTS} hosts: the simulated mean is {error:+.1%} of the live one")


if __name__ == "__main__":
    main()
