"""Chaos: requests in flight over four hosts while hosts, gateways and Postgres are killed at random, `kill -9` all.

So many are in flight until the last kill: who got an answer asks again.
Two gateways share one database behind a balancer that knows nothing of them: one dispatches, the other stands by.
Counts what was lost, what was billed twice or without a request, and what was answered wrongly; all shall be 0. The
hosts are real ones with the starter models on the CPU, and each answer must have the bytes of the same call made
alone before the storm. `CHAOS_PRETEND=1` takes pretended hosts instead, whose pictures say what they were asked:
seconds instead of minutes. `CHAOS_ROUNDS`, `CHAOS_REQUESTS`, `CHAOS_SEED` and `CHAOS_LOGS` (a folder) as they say.
"""

import asyncio
import itertools
import os
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psycopg

from benchmarks._victims import Balancer, Victims
from registry import postgres
from registry.database import migrate
from registry.settings import Settings
from router import first_start
from tests.live import CONTENTS, furnish

REQUESTS = int(os.environ.get("CHAOS_REQUESTS", "300"))
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "20"))
PRETEND = bool(os.environ.get("CHAOS_PRETEND"))
ROUND_SECONDS = 1.0 if PRETEND else 5.0
PATIENCE_SECONDS = 120.0 if PRETEND else 600.0
STARTER = ("marquee/shapes", "marquee/shapes/dusk")
STARTER_LORAS = ((), ({"path": "marquee/shapes-outline"},))
SEEDS = 5
STEPS = 10
CATALOG = Path(__file__).parents[1] / "catalog.yaml"


class Call(NamedTuple):
    slug: str
    arguments: Mapping[str, Any]


def calls() -> list[Call]:
    """As many different ones as a few minutes allow to make alone first; the storm repeats them."""
    if PRETEND:
        slugs = list(CONTENTS)
        return [Call(slugs[n % len(slugs)], {"prompt": str(n), "seed": n}) for n in range(REQUESTS)]
    return [
        Call(slug, {"prompt": "a red circle on white", "seed": seed, "num_inference_steps": STEPS, "loras": loras})
        for slug in STARTER
        for loras in STARTER_LORAS
        for seed in range(SEEDS)
    ]  # fmt: skip


class Client:
    """Tries again as customers' clients do."""

    def __init__(self, url: str, key: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Key {key}"},
            timeout=30.0,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),  # a new connection may reach the other gateway
        )

    async def call(self, method: str, path: str, **options) -> httpx.Response:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = await self._http.request(method, path, **options)
                if answer.status_code < 500:
                    return answer
                trouble = answer.text
            except httpx.HTTPError as error:
                trouble = repr(error)
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{method} {path} was never answered: {trouble}")
            await asyncio.sleep(0.1)

    async def picture(self, call: Call) -> tuple[str, bytes | None, str]:
        """The request's id, its picture's bytes, and what went wrong."""
        once = {"idempotency-key": secrets.token_hex(16)}  # so that a second try is the same request
        made = await self.call("POST", f"/fal/queue/{call.slug}", json=call.arguments, headers=once)
        if made.status_code != 200:
            return "", None, f"{made.status_code} {made.text[:150]}"
        request_id = made.json()["request_id"]
        job = f"/fal/queue/{call.slug}/requests/{request_id}"
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while (await self.call("GET", f"{job}/status")).json()["status"] != "COMPLETED":
            if time.monotonic() > give_up_at:
                return request_id, None, "lost"
            await asyncio.sleep(0.3 if PRETEND else 2.0)
        answer = await self.call("GET", job)
        if answer.status_code != 200:
            return request_id, None, f"{answer.status_code} {answer.text[:150]}"
        path = httpx.URL(answer.json()["images"][0]["url"]).path
        return request_id, (await self.call("GET", path)).content, ""


Judge = Callable[[Call, bytes], bool]


def says_what_was_asked(call: Call, content: bytes) -> bool:
    wanted = (CONTENTS[call.slug].digest.encode(), f'"prompt":"{call.arguments["prompt"]}"'.encode())
    return all(piece in content for piece in wanted)


async def made_alone(client: Client) -> Judge:
    """Makes every call alone, one after the other; right is what has the same bytes."""
    alone: dict[str, bytes | None] = {}
    for call in calls():
        _, alone[repr(call)], trouble = await client.picture(call)
        assert not trouble, f"{call} cannot be made at all: {trouble}"
    print(f"   made {len(alone)} pictures alone, {len(set(alone.values()))} different ones", flush=True)
    return lambda call, content: content == alone[repr(call)]


async def storm(victims: Victims, client: Client, judge: Judge) -> list[tuple[str, str]]:
    """Every request's id and what is wrong with its end."""

    async def one(call: Call) -> tuple[str, str]:
        request_id, content, trouble = await client.picture(call)
        if content is not None and not judge(call, content):
            trouble = "another's picture"
        return request_id, trouble

    different = calls()
    over, ends = asyncio.Event(), []

    async def customer(first: int) -> None:
        for number in itertools.count(first, REQUESTS):
            ends.append(await one(different[number % len(different)]))
            if over.is_set():
                return

    customers = [asyncio.create_task(customer(number)) for number in range(REQUESTS)]
    for round_ in range(ROUNDS):
        await asyncio.sleep(victims.rng.uniform(0.2, 2.0) * ROUND_SECONDS)
        name = await asyncio.to_thread(victims.strike)
        print(f"   round {round_ + 1}: killed {name}, {len(ends)} answered", flush=True)
    over.set()
    await asyncio.gather(*customers)
    return ends


AUDIT = """
SELECT (SELECT count(*) FROM requests) AS requests,
       (SELECT count(*) FROM attempts) AS attempts,
       (SELECT count(*) FROM requests WHERE state IN ('queued', 'running')) AS lost,
       (SELECT count(*) FROM requests r WHERE NOT EXISTS
           (SELECT 1 FROM usage_records u WHERE u.request_id = r.id)) AS unbilled,
       (SELECT count(*) - count(DISTINCT request_id) FROM usage_records) AS twice,
       (SELECT count(*) FROM usage_records u WHERE NOT EXISTS
           (SELECT 1 FROM requests r WHERE r.id = u.request_id)) AS for_nothing
"""


def audit(dsn: str) -> str:
    with psycopg.connect(dsn) as connection:
        requests, attempts, lost, unbilled, twice, for_nothing = connection.execute(AUDIT).fetchone()
    return (
        f"tables: {requests} requests, {attempts} attempts; {lost} lost, {unbilled} without a record,"
        f" {twice} billed twice, {for_nothing} records for nothing"
    )


async def furnished(home: Path, dsn: str) -> tuple[str, str]:
    """A customer's key and a host's."""
    if PRETEND:
        customer, _, host = await furnish(dsn)
        return customer, host
    tokens = await first_start.prepare(Settings(home=home), dsn, CATALOG)
    return tokens.customer_key, tokens.host_key


async def play(victims: Victims, key: str) -> tuple[list[tuple[str, str]], float]:
    async with Balancer(victims.ports.values()).serving(victims.balancer_port):
        client = Client(f"http://127.0.0.1:{victims.balancer_port}", key)
        judge = says_what_was_asked if PRETEND else await made_alone(client)
        began = time.perf_counter()
        return await storm(victims, client, judge), time.perf_counter() - began


def main() -> None:
    rng = random.Random(int(os.environ.get("CHAOS_SEED", "1")))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        dsn = postgres.ensure(home)
        migrate(dsn)
        customer, host_key = asyncio.run(furnished(home, dsn))
        victims = Victims(home, dsn, host_key, rng, pretend=PRETEND)
        try:
            victims.start_all()
            ends, seconds = asyncio.run(play(victims, customer))
            wrong = [(request_id, why) for request_id, why in ends if why]
            print(
                f"   {len(ends)} requests, {victims.kills} kills, {seconds:.0f} s: {len(wrong)} lost or wrong"
            )
            print(f"   {audit(dsn)}")
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
