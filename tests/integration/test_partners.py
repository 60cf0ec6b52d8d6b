"""Partner variants from a caller's door to a local server that speaks fal's protocol, and back into our file store."""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from rich.console import Console

from registry import keys
from registry.database import Database
from router import intake
from router.explanation import Fate, render
from tests.fake_partner import CUT, Answer, FakeFal, png
from tests.live import Live
from tests.partnered import account, ledger, partnered

PROMPT = {"prompt": "a red circle"}
AGAIN = {"X-Marquee-Cache": "1"}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(
    module_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Live, FakeFal]]:
    home = tmp_path_factory.mktemp("home")
    async with (
        FakeFal().running() as fal,
        partnered(module_dsn, home, **account("fal", fal.url, partner_fal_at_once=2)) as live,
    ):
        yield live, fal


@pytest_asyncio.fixture(loop_scope="module")
async def fal(shop: tuple[Live, FakeFal]) -> AsyncIterator[FakeFal]:
    """As it was made, for each test."""
    live, server = shop
    live.gateway.dispatcher._partners["fal"].breaker.__init__()
    server.reset()
    yield server


async def run(live: Live, body: dict[str, Any] = PROMPT, **headers: str) -> httpx.Response:
    return await live.client.post("/fal/run/far/dev", json=body, headers=headers)


async def test_the_answer_passes_unchanged_but_for_its_files(
    shop: tuple[Live, FakeFal], fal: FakeFal, module_dsn: str
) -> None:
    live = shop[0]
    answer = await run(live, PROMPT | {"unknown": 1, "loras": [{"path": "theirs/only"}]})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    url = body["images"][0].pop("url")
    assert body == {
        "images": [{"content_type": "image/png", "width": 1}],
        "seed": 5,
        "odd": {"shape": [1, None, "https://not.a/file"]},
    }
    assert url.startswith(f"{live.url}/files/")
    assert (await live.visit(None).get(url)).content == png(48, 32)
    sent = {"prompt": "a red circle", "num_images": 1, "loras": [{"path": "theirs/only"}]}
    assert list(fal.jobs.values()) == [sent], "no seed of ours, no default that their own choices lack"
    assert [a.path for a in fal.asked if a.method == "POST"] == ["/far-ai/flux/dev"]
    assert all("authorization" not in a.headers for a in fal.asked if a.path.startswith("/files/"))
    record = await ledger(module_dsn, answer.headers["x-fal-request-id"])
    assert record == [("succeeded", "partner:fal", 1, 1, "0.04", None)]


async def test_position_logs_and_cancellation_pass_through(shop: tuple[Live, FakeFal], fal: FakeFal) -> None:
    live = shop[0]
    fal.position = 7
    job = (await live.client.post("/fal/queue/far/dev", json=PROMPT)).json()
    async with asyncio.timeout(10):
        while (status := (await live.client.get(job["status_url"])).json()).get("queue_position") != 7:
            await asyncio.sleep(0.02)
    assert status["status"] == "IN_QUEUE"
    fal.position, fal.released = None, False
    fal.logs = [{"message": "step 1", "level": "INFO", "source": "USER", "timestamp": "2026-01-01T00:00:00Z"}]
    status = await live.until(job["status_url"] + "?logs=1", "IN_PROGRESS")
    async with asyncio.timeout(10):
        while not (status := (await live.client.get(job["status_url"] + "?logs=1")).json())["logs"]:
            await asyncio.sleep(0.02)
    assert status["logs"] == fal.logs
    assert (await live.client.put(job["cancel_url"])).json() == {"status": "CANCELLATION_REQUESTED"}
    async with asyncio.timeout(10):
        while not fal.cancelled:
            await asyncio.sleep(0.02)
    assert (await live.client.get(job["response_url"])).status_code == 499


async def test_no_more_at_once_than_the_setting_says(shop: tuple[Live, FakeFal], fal: FakeFal) -> None:
    live = shop[0]
    fal.released = False
    jobs = [(await live.client.post("/fal/queue/far/dev", json=PROMPT)).json() for _ in range(4)]
    await live.until(jobs[0]["status_url"], "IN_PROGRESS")
    await asyncio.sleep(0.2)
    assert len(fal.jobs) == 2
    assert (await live.client.put(jobs[3]["cancel_url"])).json() == {"status": "OK"}
    fal.released = True
    for job in jobs[:3]:
        await live.until(job["status_url"], "COMPLETED")
    assert (len(fal.jobs), fal.cancelled) == (3, [])


async def test_what_waits_for_a_partner_has_a_share_of_memory_too(
    shop: tuple[Live, FakeFal], fal: FakeFal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "PARTNERS_SHARE", 3)
    live = shop[0]
    term = live.gateway.dispatcher.term
    fal.released = False
    jobs = [(await live.client.post("/fal/queue/far/dev", json=PROMPT)).json() for _ in range(12)]
    await asyncio.sleep(0.2)
    held = len(term.waiting)
    async with live.visit(live.stranger) as stranger, live.host().linked():
        assert (await stranger.post("/fal/run/acme/toys", json=PROMPT)).status_code == 200
    fal.released = True
    for job in jobs:
        await live.until(job["status_url"], "COMPLETED")
    assert (held <= 3, len(fal.jobs), term.waiting) == (True, 12, {})
    term.intake.check_integrity()


async def test_a_partners_422_is_the_callers_own(shop: tuple[Live, FakeFal], fal: FakeFal) -> None:
    detail = [
        {"loc": ["body", "loras", 0, "path"], "msg": "no such", "type": "value_error", "input": "theirs"},
        {"loc": ["body", "prompt"], "msg": "not nice", "type": "content_policy_violation"},
    ]
    fal.result = lambda sent: Answer(422, {"detail": detail})
    answer = await run(shop[0])
    assert (answer.status_code, answer.json()) == (422, {"detail": detail})
    fal.on, fal.trouble = (lambda a: a.method == "POST"), [Answer(422, {"detail": detail[1:]})]
    answer = await run(shop[0])
    assert (answer.status_code, answer.json()) == (422, {"detail": detail[1:]})


async def test_a_refused_key_is_the_operators_and_stays_secret(
    shop: tuple[Live, FakeFal], fal: FakeFal
) -> None:
    fal.trouble = [Answer(403, {"detail": "User partner-key is locked"})]
    answer = await run(shop[0])
    assert (answer.status_code, answer.json()["error_type"]) == (500, "partner_account_refused")
    assert "MARQUEE_PARTNER_FAL_KEY" in answer.json()["detail"]
    assert "partner-key" not in answer.text


@pytest.mark.parametrize(
    "trouble",
    [
        [Answer(429, {"detail": "slow down"}, {"retry-after": "1"})],
        [Answer(503, b"nginx"), Answer(500, b"")],
        [CUT],
    ],
    ids=["429", "5xx", "cut"],
)
async def test_what_may_pass_is_tried_again(
    shop: tuple[Live, FakeFal], fal: FakeFal, trouble: list[Any]
) -> None:
    fal.on, fal.trouble = (lambda a: a.method == "POST"), list(trouble)
    began = asyncio.get_running_loop().time()
    answer = await run(shop[0])
    assert (answer.status_code, len(fal.jobs)) == (200, 1)
    assert asyncio.get_running_loop().time() - began > 0.5


async def test_polls_outlast_a_partner_that_stumbles(shop: tuple[Live, FakeFal], fal: FakeFal) -> None:
    fal.on = lambda a: a.method == "GET" and not a.path.startswith("/files/")
    fal.trouble = [
        Answer(502, b"nginx"),
        CUT,
        Answer(429, {}, {"retry-after": "0"}),
        Answer(200, b"not json"),
    ]
    answer = await run(shop[0])
    assert (answer.status_code, len(fal.jobs)) == (200, 1), "asked again, not paid again"


async def test_a_job_that_failed_by_the_partners_fault_is_a_new_attempt(
    shop: tuple[Live, FakeFal], fal: FakeFal, module_dsn: str
) -> None:
    made, failures = (
        fal.result,
        [Answer(503, {"detail": "no runner"}, {"x-fal-error-type": "runner_disconnected"})],
    )
    fal.result = lambda sent: failures[0] if len(fal.jobs) < 2 else made(sent)
    answer = await run(shop[0])
    assert (answer.status_code, len(fal.jobs)) == (200, 2)
    record = await ledger(module_dsn, answer.headers["x-fal-request-id"])
    assert record == [("succeeded", "partner:fal", 2, 1, "0.04", None)]


async def test_a_models_own_failure_is_final(
    shop: tuple[Live, FakeFal], fal: FakeFal, module_dsn: str
) -> None:
    fal.result = lambda sent: Answer(
        500, {"detail": "the model broke"}, {"x-fal-error-type": "runner_server_error"}
    )
    answer = await run(shop[0])
    assert (answer.status_code, answer.json()) == (
        500,
        {"detail": "partner fal: the model broke", "error_type": "runner_server_error"},
    )
    assert len(fal.jobs) == 1
    record = await ledger(module_dsn, answer.headers["x-fal-request-id"])
    assert record == [("failed", "partner:fal", 1, 0, "0.00", "runner_server_error")]


async def test_a_dead_partner_fails_fast_and_is_tried_again(shop: tuple[Live, FakeFal], fal: FakeFal) -> None:
    live = shop[0]
    fal.trouble = [Answer(500, b"")] * 100
    answers = await asyncio.gather(*(run(live) for _ in range(3)))
    assert [a.json()["error_type"] for a in answers] == ["partner_unavailable"] * 3
    metrics = (await live.client.get("/metrics")).text
    assert 'marquee_partner_down{partner="fal",pool="local"} 1.0' in metrics
    asked, began = len(fal.asked), asyncio.get_running_loop().time()
    answer = await run(live)
    assert asyncio.get_running_loop().time() - began < 0.4
    assert (answer.status_code, len(fal.asked)) == (500, asked), "nobody was asked"
    assert "it answers 500; it is tried again in" in answer.json()["detail"]
    fal.trouble = []
    breaker = live.gateway.dispatcher._partners["fal"].breaker
    breaker._open_until = 0.0  # as after the cool-down
    assert [a.status_code for a in await asyncio.gather(*(run(live) for _ in range(3)))] == [200] * 3


async def test_results_are_used_again_for_a_callers_own_seed(
    shop: tuple[Live, FakeFal], fal: FakeFal
) -> None:
    seeded = PROMPT | {"seed": 3}
    first, second = [await run(shop[0], seeded, **AGAIN) for _ in range(2)]
    assert second.headers.get("x-marquee-cache") == "hit"
    assert (first.json(), len(fal.jobs)) == (second.json(), 1)


async def test_data_uris_come_into_the_store_and_private_addresses_do_not(
    shop: tuple[Live, FakeFal], fal: FakeFal
) -> None:
    fal.result = lambda sent: Answer(200, {"image": {"url": "data:text/plain;base64,aGk="}})
    answer = await run(shop[0])
    assert (await shop[0].visit(None).get(answer.json()["image"]["url"])).content == b"hi"
    fal.result = lambda sent: Answer(200, {"image": {"url": "http://127.0.0.1:9/x.png"}})
    answer = await run(shop[0])
    assert (answer.status_code, answer.json()["error_type"]) == (500, "partner_output_lost")
    assert "private address" in answer.json()["detail"]


async def test_every_door_gives_what_its_shape_can_say(shop: tuple[Live, FakeFal], fal: FakeFal) -> None:
    live = shop[0]
    made = await live.client.post(
        "/replicate/v1/models/far/dev/predictions", json={"input": PROMPT}, headers={"prefer": "wait"}
    )
    assert (made.status_code, made.json()["status"]) == (201, "succeeded")
    assert (await live.visit(None).get(made.json()["output"][0])).content == png(48, 32)
    made = await live.client.post("/openai/v1/images/generations", json={"model": "far/dev", **PROMPT})
    assert (made.status_code, len(made.json()["data"])) == (200, 1)
    made = await live.client.post("/hf/models/far/dev", json={"inputs": "a red circle"})
    assert (made.status_code, made.content) == (200, png(48, 32))


async def test_what_is_not_configured_says_what_the_operator_has_to_do(
    shop: tuple[Live, FakeFal], fal: FakeFal
) -> None:
    live = shop[0]
    absent = "its partner replicate is not configured here; the operator has to set"
    absent += " MARQUEE_PARTNER_REPLICATE_KEY"
    answer = await live.client.post("/fal/run/far/rep", json=PROMPT)
    assert (answer.status_code, answer.json()["detail"]) == (
        422,
        f"far/rep cannot be called: {absent}",
    )
    listed = (await live.client.get("/v1/models?owner=far")).json()["models"]
    assert {one["endpoint_id"]: one["metadata"]["callable"] for one in listed} == {
        "far/dev": True, "far/federated": True, "far/gpt": False, "far/rep": False, "far/ver": False,
    }  # fmt: skip
    page = (await live.client.get("/?q=far")).text
    assert page.count("served by fal") == 2


async def test_why_names_the_partner_and_only_operators_its_name_of_it(
    shop: tuple[Live, FakeFal], fal: FakeFal, module_dsn: str
) -> None:
    live = shop[0]
    request_id = (await run(live)).headers["x-fal-request-id"]
    async with Database.open(module_dsn, connections=2) as db:
        operator = (await keys.create(db, "operator", ["operate"])).token
    texts = []
    for key in (live.key, operator):
        async with live.visit(key) as client:
            where = f"/v1/requests/{request_id}?explain"
            while (answer := await client.get(where)).status_code == 401:  # the key is not known yet
                await asyncio.sleep(0.01)
        fate = msgspec.json.decode(answer.content, type=Fate)
        console = Console(file=io.StringIO(), width=140)
        console.print(render(fate))
        texts.append(console.file.getvalue())  # type: ignore[attr-defined]
    for text in texts:
        assert "on partner:fal" in text
        assert "Served by partner fal (far-ai/flux/dev)." in text
        assert "s in the partner's queue, 0.25 s to run" in text
    assert ["There it is request job-1." in text for text in texts] == [False, True]


async def test_local_requests_do_not_pass_the_desk(shop: tuple[Live, FakeFal], fal: FakeFal) -> None:
    async with shop[0].host().linked() as host:
        answer = await shop[0].client.post("/fal/run/acme/toys", json=PROMPT)
        assert (answer.status_code, len(host.assigned), fal.asked) == (200, 1, [])


async def test_an_endpoint_that_the_catalogue_loses_takes_nobody_elses_result_along(
    shop: tuple[Live, FakeFal], fal: FakeFal
) -> None:
    live = shop[0]
    fal.released = False
    jobs = [(await live.client.post("/fal/queue/far/dev", json=PROMPT)).json() for _ in range(3)]
    await live.until(jobs[1]["status_url"], "IN_PROGRESS")
    async with live.gateway.db.pool.connection() as connection:
        before = live.gateway.house.core.catalogue.now
        move = "UPDATE variants SET partner = jsonb_set(partner, '{endpoint}', %s) WHERE slug = 'far/dev'"
        await connection.execute(move, ['"far-ai/flux/other"'])
        await connection.execute("NOTIFY catalog")
        async with asyncio.timeout(10):
            while live.gateway.house.core.catalogue.now is before:
                await asyncio.sleep(0.02)
        fal.released = True
        codes = []
        for job in jobs:
            await live.until(job["status_url"], "COMPLETED")
            codes.append((await live.client.get(job["response_url"])).status_code)
        await connection.execute(move, ['"far-ai/flux/dev"'])
        await connection.execute("NOTIFY catalog")
    assert codes == [200, 200, 500]
    assert (await live.client.get(jobs[2]["response_url"])).json()[
        "error_type"
    ] == "partner_endpoint_withdrawn"
