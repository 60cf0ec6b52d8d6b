"""What was accepted is answered, whatever is killed; and it is billed once."""

import contextlib
import os
import signal
import subprocess
import time

import httpx
import psycopg
import pytest

from registry import postgres
from tests.product import Marquee

pytestmark = pytest.mark.timeout(
    600
)  # of a hang; two busy cores import torch again for every host that comes back

PROMPT = {"prompt": "a green star on white", "num_inference_steps": 50}


def submit(client, count, **extra):
    answers = [
        client.post("/fal/queue/marquee/shapes", json=PROMPT | {"seed": seed} | extra)
        for seed in range(count)
    ]
    assert [answer.status_code for answer in answers] == [200] * count
    return [answer.json() for answer in answers]


def finish(product, requests, within_seconds=300):
    """Polls as fal's client does, and like it survives a gateway that is away for a moment."""
    pending = {request["request_id"]: request for request in requests}
    deadline = time.monotonic() + within_seconds
    results = {}
    while pending and time.monotonic() < deadline:
        with product.client() as client:
            for identity, request in list(pending.items()):
                with contextlib.suppress(httpx.TransportError, ValueError, KeyError):  # away for a moment
                    if client.get(request["status_url"]).json()["status"] == "COMPLETED":
                        results[identity] = client.get(request["response_url"]).json()
                        del pending[identity]
        time.sleep(0.3)
    assert not pending, (list(pending), product.output())
    return results


def wait_until_running(client, request, within_seconds=60):
    deadline = time.monotonic() + within_seconds
    while client.get(request["status_url"]).json()["status"] != "IN_PROGRESS":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def usage_counts(product, requests):
    ids = [request["request_id"] for request in requests]
    query = (
        "select request_id::text, count(*) from usage_records where request_id = any(%s::uuid[]) group by 1"
    )
    with psycopg.connect(postgres.dsn(product.home)) as connection:
        return dict(connection.execute(query, [ids]).fetchall())


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """One for all of these: what was killed before is whole again, or the next test finds out."""
    product = Marquee(tmp_path_factory.mktemp("kills") / "home").start()
    yield product
    with contextlib.suppress(subprocess.TimeoutExpired):
        product.stop()


@pytest.mark.parametrize("victim", ["host", "gateway", "postgres"])
def test_requests_survive_a_kill_and_are_billed_once(product, victim):
    with product.client() as client:
        requests = submit(client, 6)
        wait_until_running(client, requests[0])
        os.kill(product.pids[victim], signal.SIGKILL)
    results = finish(product, requests)
    assert all(result["images"] for result in results.values()), results
    assert usage_counts(product, requests) == {request["request_id"]: 1 for request in requests}


def test_a_second_up_recovers_what_a_killed_one_had_accepted(product):
    with product.client() as client:
        requests = submit(client, 4)
        wait_until_running(client, requests[0])
    for pid in (product.process.pid, product.pids["gateway"], product.pids["host"], product.pids["postgres"]):
        os.kill(pid, signal.SIGKILL)
    product.process.wait()
    (product.home / "ready.json").unlink(missing_ok=True)
    product.start()
    results = finish(product, requests)
    assert all(result["images"] for result in results.values()), results
    assert usage_counts(product, requests) == {request["request_id"]: 1 for request in requests}
