"""fal's door from HTTP to a host and back: real server, real WebSocket, real Postgres; only the pipeline is fake."""

import asyncio
import base64
from typing import Any

import msgspec
import pytest

from tests.fake_host import HOW, PREVIEW, picture
from tests.live import CONTENTS, LORAS, Live

PROMPT = {"prompt": "a red circle on white", "seed": 7}
URI = f"data:image/webp;base64,{base64.b64encode(PREVIEW).decode()}"


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_sync_run_answers_with_the_picture(live: Live) -> None:
    async with live.host().linked() as host:
        answer = await live.client.post("/fal/run/acme/toys", json=PROMPT)
        assert answer.status_code == 200
        body = answer.json()
        image = body["images"][0]
        assert (body["seed"], body["prompt"], body["has_nsfw_concepts"]) == (7, PROMPT["prompt"], [False])
        assert (image["width"], image["content_type"]) == (64, "image/png")
        assert answer.headers["x-fal-billable-units"] == "1"
        assert len(answer.headers["x-fal-request-id"]) == 36
        got = await live.visit(None).get(image["url"], headers={"Authorization": "Token stray"})
        assert (got.status_code, got.content) == (200, picture(host.assigned[0]))
        assert host.assigned[0].input["num_inference_steps"] == 20


async def test_seed_is_chosen_where_none_is_given(live: Live) -> None:
    async with live.host().linked() as host:
        answer = await live.client.post("/fal/run/acme/toys", json={"prompt": "x"})
        assert answer.json()["seed"] == host.assigned[0].input["seed"] >= 0


async def test_queue_from_submit_to_result(live: Live) -> None:
    submitted = (await live.client.post("/fal/queue/acme/toys/late", json=PROMPT)).json()
    job = f"{live.url}/fal/queue/acme/toys/requests/{submitted['request_id']}"
    assert (submitted["status"], submitted["queue_position"]) == ("IN_QUEUE", 0)
    assert (submitted["response_url"], submitted["status_url"], submitted["cancel_url"]) == (
        job,
        f"{job}/status",
        f"{job}/cancel",
    )
    waiting = await live.client.get(submitted["status_url"])
    assert (waiting.status_code, waiting.json()["queue_position"]) == (202, 0)
    early = await live.client.get(job)
    assert (early.status_code, early.json()) == (400, {"detail": "Request is still in progress"})
    async with live.host().linked() as host:
        done = await live.until(submitted["status_url"], "COMPLETED")
        assert done["metrics"]["inference_time"] == 0.01
        assert host.assigned[0].version == CONTENTS["acme/toys/late"].digest
        for path in (job, f"{job}/", f"{job}/response"):
            answer = await live.client.get(path)
            assert (answer.status_code, answer.json()["seed"]) == (200, 7)
        assert (await live.client.put(submitted["cancel_url"])).json() == {"status": "ALREADY_COMPLETED"}


async def test_running_request_tells_its_progress_and_can_be_cancelled(live: Live) -> None:
    async with live.host().linked() as host:
        host.release.clear()
        submitted = (await live.client.post("/fal/queue/acme/toys", json=PROMPT)).json()
        status = await live.until(submitted["status_url"] + "?logs=1", "IN_PROGRESS")
        assert status["logs"] == []
        answer = await live.client.put(submitted["cancel_url"])
        assert (answer.status_code, answer.json()) == (202, {"status": "CANCELLATION_REQUESTED"})
        done = await live.until(submitted["status_url"], "COMPLETED")
        assert done["error_type"] == "client_cancelled"
        assert (await live.client.get(submitted["response_url"])).status_code == 499
        await host.hears(cancelled=1)
        assert [key.request_id for key in host.cancelled] == [submitted["request_id"]]
        host.release.set()
        assert (await live.client.post("/fal/run/acme/toys", json=PROMPT)).status_code == 200, (
            "its slot is free"
        )


async def test_waiting_request_is_cancelled_before_it_ran(live: Live) -> None:
    submitted = (await live.client.post("/fal/queue/acme/toys", json=PROMPT)).json()
    answer = await live.client.put(submitted["cancel_url"])
    assert (answer.status_code, answer.json()) == (200, {"status": "OK"})
    async with live.host().linked() as host:
        assert (await live.client.post("/fal/run/acme/toys", json=PROMPT)).status_code == 200
        assert len(host.assigned) == 1


async def test_status_stream_ends_with_completed(live: Live) -> None:
    async with live.host().linked() as host:
        host.release.clear()
        submitted = (await live.client.post("/fal/queue/acme/toys", json=PROMPT)).json()
        lines: list[str] = []
        async with live.client.stream("GET", submitted["status_url"] + "/stream") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    lines.append(line)
                    host.release.set()
        assert "IN_PROGRESS" in lines[0] or "IN_QUEUE" in lines[0]
        assert "COMPLETED" in lines[-1]


@pytest.mark.parametrize("asked", [True, False])
async def test_who_asks_for_previews_sees_them_with_the_steps(live: Live, asked: bool) -> None:  # noqa: FBT001
    headers = {"x-marquee-previews": "1"} if asked else {}
    async with live.host().linked() as host:
        host.release.clear()
        submitted = (
            await live.client.post("/fal/queue/acme/toys", json=PROMPT | {"seed": 5}, headers=headers)
        ).json()
        shown: list[Any] = []
        async with live.client.stream("GET", submitted["status_url"] + "/stream") as stream:
            async for line in stream.aiter_lines():
                event = msgspec.json.decode(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if "progress" in event:
                    shown.append(event["progress"])
                    polled = (await live.client.get(submitted["status_url"])).json()
                    host.release.set()
        assert host.assigned[0].input.get("previews", False) is asked
        result = await live.client.get(submitted["response_url"])
        assert (result.status_code, "preview" in result.text) == (200, False)
    steps = {"step": 1, "steps": 4}
    assert polled["progress"] == steps, "a poll does not carry pictures"
    assert shown == [steps | {"preview": URI} if asked else steps]


async def test_lora_reaches_the_host_by_digest(live: Live) -> None:
    async with live.host().linked() as host:
        loras = [{"path": "acme/toys-bent", "scale": 0.5}]
        answer = await live.client.post("/fal/run/acme/toys", json=PROMPT | {"loras": loras})
        assert answer.status_code == 200
        (use,) = host.assigned[0].adapters
        assert (use.digest, use.scale) == (LORAS["acme/toys-bent"].digest, 0.5)
        assert host.described == [CONTENTS["acme/toys"].digest, use.digest]
        await live.client.post("/fal/run/acme/toys", json=PROMPT | {"loras": loras})
        assert len(host.described) == 2, "described once a link"


@pytest.mark.parametrize(
    ("arguments", "location", "says"),
    [
        ({}, ["body", "prompt"], "required"),
        ({"prompt": 3}, ["body", "prompt"], "string"),
        ({"prompt": ""}, ["body", "prompt"], "shorter"),
        ({"prompt": "x", "num_inference_steps": 500}, ["body", "num_inference_steps"], "maximum"),
        ({"prompt": "a\x00b"}, ["body"], "NUL"),
        ({"prompt": "x", "loras": [{"path": "no/such"}]}, ["body", "loras", 0, "path"], "no LoRA"),
        (
            {"prompt": "x", "loras": [{"path": "acme/other-bent"}]},
            ["body", "loras", 0, "path"],
            "another architecture",
        ),
    ],
    ids=["missing", "type", "empty", "range", "nul", "unknown lora", "foreign lora"],
)
async def test_bad_input_says_where(live: Live, arguments: Any, location: Any, says: str) -> None:
    answer = await live.client.post("/fal/run/acme/toys", json=arguments)
    (issue,) = answer.json()["detail"]
    assert (answer.status_code, issue["loc"]) == (422, location)
    assert says in issue["msg"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("acme/toy", "did you mean 'acme/toys'?"),
        ("Acme/Toys", "did you mean 'acme/toys'?"),
        ("acme/toys/lat", "did you mean 'acme/toys/late'?"),
        ("acme/toys/of-tomorrow", "GET /v1/models says what there is"),
    ],
    ids=["typo", "case", "no other model runs instead", "nothing near"],
)
async def test_an_unknown_slug_says_which_may_be_meant(live: Live, path: str, says: str) -> None:
    for door in ("run", "queue"):
        answer = await live.client.post(f"/fal/{door}/{path}", json=PROMPT)
        assert (answer.status_code, answer.json()) == (
            404,
            {"detail": f"no model is called {path!r}; {says}"},
        )


async def test_refusals_have_their_own_status(live: Live) -> None:
    client = live.client
    assert (await client.post("/fal/run/no/such/model", json=PROMPT)).status_code == 404
    assert (await client.get("/fal/queue/acme/toys/requests/x/status")).status_code == 404
    for body in (b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"prompt": "\\ud800"}'):
        answer = await client.post("/fal/run/acme/toys", content=body)
        assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body"])
    huge = await client.post("/fal/run/acme/toys", content=b"x" * (21 << 20))
    assert huge.status_code == 413
    for key in (None, "mq_wrong", live.host_key):
        async with live.visit(key) as visitor:
            answer = await visitor.post("/fal/run/acme/toys", json=PROMPT)
            assert answer.status_code == (403 if key == live.host_key else 401)


async def test_requests_are_their_owners(live: Live) -> None:
    submitted = (await live.client.post("/fal/queue/acme/toys", json=PROMPT)).json()
    async with live.visit(live.stranger) as stranger:
        for url in (
            submitted["status_url"],
            submitted["response_url"],
            f"/v1/requests/{submitted['request_id']}",
        ):
            assert (await stranger.get(url)).status_code == 404
        assert (await stranger.put(submitted["cancel_url"])).status_code == 404
    assert (await live.client.put(submitted["cancel_url"])).status_code == 200


async def test_model_errors_go_to_the_caller_and_are_not_repeated(live: Live) -> None:
    async with live.host().linked() as host:
        host.fail_with = {"kind": "model", "error": "weights_missing", "message": "no file model.safetensors"}
        answer = await live.client.post("/fal/run/acme/toys", json=PROMPT)
        assert (answer.status_code, answer.json()["detail"]) == (500, "no file model.safetensors")
        assert len(host.assigned) == 1


async def test_what_a_host_chose_is_kept_with_its_attempt(live: Live) -> None:
    async with live.host().linked():
        answer = await live.client.post("/fal/run/acme/toys", json=PROMPT)
        where = f"/v1/requests/{answer.headers['x-fal-request-id']}?explain"
        outcome = (await live.client.get(where)).json()["status"]["outcome"]
    assert (outcome["attempt"], outcome["how"]) == (1, HOW)


async def test_host_faults_are_tried_elsewhere_and_set_aside_after_three(live: Live) -> None:
    async with live.host("one").linked() as one, live.host("two").linked() as two:
        for host in (one, two):
            host.fail_with = {"kind": "host", "error": "out_of_memory", "message": "no room"}
        answer = await live.client.post("/fal/run/acme/toys", json=PROMPT)
        assert (answer.status_code, answer.json()["error_type"]) == (500, "too_many_host_faults")
        assert len(one.assigned) + len(two.assigned) == 3
        assert min(len(one.assigned), len(two.assigned)) == 1
        explained = (
            await live.client.get(f"/v1/requests/{answer.headers['x-fal-request-id']}?explain")
        ).json()
        assert [attempt["number"] for attempt in explained["attempts"]] == [1, 2, 3]
        assert explained["attempts"][0]["decision"]["candidates"][0]["host_id"] in {"one", "two"}


async def test_a_lost_host_gives_its_work_to_another(live: Live) -> None:
    lost, other = live.host("lost"), live.host("other")
    async with lost.linked():
        lost.release.clear()
        submitted = (await live.client.post("/fal/queue/acme/toys", json=PROMPT)).json()
        await live.until(submitted["status_url"], "IN_PROGRESS")
        async with asyncio.timeout(10):
            while not lost.assigned:  # its attempt is committed before it is sent
                await asyncio.sleep(0.01)
    async with other.linked():
        await live.until(submitted["status_url"], "COMPLETED")
        assert [assign.attempt.number for assign in other.assigned] == [2]
        async with lost.linked():
            assert lost.abandoned == [lost.assigned[0].attempt]


async def test_a_host_that_comes_back_goes_on(live: Live) -> None:
    host = live.host()
    async with host.linked():
        host.release.clear()
        submitted = (await live.client.post("/fal/queue/acme/toys", json=PROMPT)).json()
        await live.until(submitted["status_url"], "IN_PROGRESS")
    await live.until(submitted["status_url"], "IN_QUEUE")
    async with host.linked():
        host.release.set()
        await live.until(submitted["status_url"], "COMPLETED")
        assert (len(host.assigned), host.abandoned) == (1, [])


async def test_many_at_once_are_each_answered_for_their_own(live: Live) -> None:
    async with live.host("one").linked(), live.host("two").linked():
        slugs = ["acme/toys", "acme/toys/late", "acme/other"]

        async def one(number: int) -> None:
            slug = slugs[number % 3]
            answer = await live.client.post(f"/fal/run/{slug}", json={"prompt": str(number)})
            content = (await live.client.get(answer.json()["images"][0]["url"])).content
            assert CONTENTS[slug].digest.encode() in content
            assert f'"prompt":"{number}"'.encode() in content

        await asyncio.gather(*(one(number) for number in range(60)))


async def test_sync_mode_answers_with_data(live: Live) -> None:
    async with live.host().linked() as host:
        answer = await live.client.post("/fal/run/acme/toys", json=PROMPT | {"sync_mode": True})
        kind, _, data = answer.json()["images"][0]["url"].partition(";base64,")
        assert (kind, base64.b64decode(data)) == ("data:image/png", picture(host.assigned[0]))


async def test_start_deadline_passes(live: Live) -> None:
    answer = await live.client.post(
        "/fal/run/acme/toys", json=PROMPT, headers={"X-Fal-Request-Start-Timeout": "0.2"}
    )
    assert (answer.status_code, answer.json()["error_type"]) == (504, "request_timeout")
    assert answer.headers["x-fal-request-timeout-type"] == "user"
