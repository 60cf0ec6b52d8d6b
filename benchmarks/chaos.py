"""Chaos: requests in flight over four hosts while hosts, gateways and Postgres are killed at random. Counts what was
lost, what was billed twice, and what was answered wrongly; all three shall be 0.

Two gateways share one database: one dispatches, the other stands by. The hosts speak the real protocol and pretend
to run; `kill -9` throughout, for Postgres as well.
"""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psycopg

from benchmarks._serving import free_port
from registry import postgres
from registry.database import migrate
from tests.live import CONTENTS, furnish

REQUESTS = 300
ROUNDS = 20
ROUND_SECONDS = 1.0
HOSTS = 4
PATIENCE_SECONDS = 120.0


class Victims:
    """The processes, by name; each can be killed and started again."""

    def __init__(self, home: Path, dsn: str, host_key: str, rng: random.Random) -> None:
        self.home = home
        self.dsn = dsn
        self.rng = rng
        self.ports = {"gateway-a": free_port(), "gateway-b": free_port()}
        self.commands = {name: [sys.executable, "-m", "router.gateway"] for name in self.ports}
        for number in range(HOSTS):
            # Hosts reach whichever gateway dispatches through a list of both.
            self.commands[f"host-{number}"] = [
                sys.executable, "-m", "benchmarks._pretend_host",
                f"http://127.0.0.1:{self.ports['gateway-a']},http://127.0.0.1:{self.ports['gateway-b']}", host_key, f"host-{number}",
            ]  # fmt: skip
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kills = 0

    def start(self, name: str) -> None:
        environment = {**os.environ, "MARQUEE_HOME": str(self.home), "MARQUEE_DATABASE_URL": self.dsn}
        if name in self.ports:
            environment["MARQUEE_PORT"] = str(self.ports[name])
        with (self.home / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                self.commands[name], env=environment, stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        self.kills += 1
        if name == "postgres":
            os.kill(postgres.pid(self.home), signal.SIGKILL)
            time.sleep(0.2)
            postgres.ensure(self.home)
        else:
            self.processes[name].kill()
            self.processes[name].wait()
            self.start(name)

    def strike(self) -> str:
        hosts = [f"host-{number}" for number in range(HOSTS)]
        name = self.rng.choice([*hosts, *self.ports, self.rng.choice(hosts), "postgres"])
        self.kill(name)
        return name

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


class Client:
    """Talks to either gateway, and tries again as customers' clients do."""

    def __init__(self, victims: Victims, key: str) -> None:
        self._http = httpx.AsyncClient(headers={"Authorization": f"Key {key}"}, timeout=30.0, trust_env=False)
        self._urls = [f"http://127.0.0.1:{port}" for port in victims.ports.values()]

    async def call(self, method: str, path: str, **options) -> httpx.Response:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = await self._http.request(method, random.choice(self._urls) + path, **options)
                if answer.status_code < 500:
                    return answer
                trouble = answer.text
            except httpx.HTTPError as error:
                trouble = repr(error)
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{method} {path} was never answered: {trouble}")
            await asyncio.sleep(0.1)


async def one(client: Client, number: int) -> tuple[str, str | None]:
    """A request's id, and what is wrong with its end."""
    slug = list(CONTENTS)[number % len(CONTENTS)]
    submitted = (
        await client.call("POST", f"/fal/queue/{slug}", json={"prompt": str(number), "seed": number})
    ).json()
    request_id = submitted["request_id"]
    job = f"/fal/queue/{slug}/requests/{request_id}"
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while (await client.call("GET", f"{job}/status")).json()["status"] != "COMPLETED":
        if time.monotonic() > give_up_at:
            return request_id, "lost"
        await asyncio.sleep(0.3)
    answer = await client.call("GET", job)
    if answer.status_code != 200:
        return request_id, f"{answer.status_code} {answer.text[:150]}"
    path = httpx.URL(answer.json()["images"][0]["url"]).path
    content = (await client.call("GET", path)).content
    wanted = (CONTENTS[slug].digest.encode(), f'"prompt":"{number}"'.encode())
    return request_id, None if all(piece in content for piece in wanted) else "another's picture"


async def storm(victims: Victims, client: Client) -> list[tuple[str, str | None]]:
    jobs = [asyncio.create_task(one(client, number)) for number in range(REQUESTS)]
    for _ in range(ROUNDS):
        await asyncio.sleep(victims.rng.uniform(0.2, 2 * ROUND_SECONDS))
        name = await asyncio.to_thread(victims.strike)
        print(f"   killed {name}, {sum(job.done() for job in jobs)} of {REQUESTS} done", flush=True)
    return await asyncio.gather(*jobs)


def ledger(dsn: str) -> tuple[list[str], int]:
    """The request id of every usage record, and how many attempts there were."""
    with psycopg.connect(dsn) as connection:
        billed = [row[0] for row in connection.execute("SELECT request_id::text FROM usage_records")]
        attempts = connection.execute("SELECT count(*) FROM attempts").fetchone()[0]
    return billed, attempts


def main() -> None:
    seed = int(os.environ.get("CHAOS_SEED", "1"))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        dsn = postgres.ensure(home)
        migrate(dsn)
        customer, _, host_key = asyncio.run(furnish(dsn))
        victims = Victims(home, dsn, host_key, random.Random(seed))
        try:
            for name in victims.commands:
                victims.start(name)
            began = time.perf_counter()
            ends = asyncio.run(storm(victims, Client(victims, customer)))
            wrong = [(request_id, why) for request_id, why in ends if why]
            billed, attempts = ledger(dsn)
            unbilled = {request_id for request_id, _ in ends} - set(billed)
            print(
                f"   {len(ends)} requests, {victims.kills} kills, {attempts} attempts,"
                f" {time.perf_counter() - began:.0f} s: {len(wrong)} lost or wrong,"
                f" {len(billed) - len(set(billed))} billed twice, {len(unbilled)} not billed"
            )
            for request_id, why in wrong:
                print(f"   {request_id}: {why}")
        finally:
            victims.end()
            postgres.stop(home)
            if keep := os.environ.get("CHAOS_LOGS"):
                for log in home.glob("*.log"):
                    shutil.copy(log, keep)


if __name__ == "__main__":
    main()
