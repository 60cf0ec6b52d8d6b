"""Replicate's, OpenAI's and Hugging Face's own clients against the gateway; only addresses and keys are given."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import huggingface_hub
import msgspec
import openai
import pytest
import pytest_asyncio
import replicate
import replicate.exceptions
import replicate.webhook
from PIL import Image

from registry.catalog import Slug
from router import ids, logbook
from router.clients import replicate as replicate_door
from router.clients.openai import arguments
from tests.fake_host import PREVIEW, FakeHost
from tests.live import CATALOG, CONTENTS, Live, furnish, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROMPT = "a red circle on white"


@pytest_asyncio.fixture(loop_scope="module")
async def host(live: Live, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeHost]:
    monkeypatch.setattr("tests.fake_host.picture", lambda assign: _png())
    async with live.host().linked() as linked:
        yield linked


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def predictions(live: Live) -> replicate.Client:
    return replicate.Client(api_token=live.key, base_url=f"{live.url}/replicate")


@pytest.fixture
def images(live: Live) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{live.url}/openai/v1", api_key=live.key, max_retries=0)


async def test_replicate_runs_a_deep_slug_by_its_flat_name(
    predictions: replicate.Client, host: FakeHost
) -> None:
    output: Any = await predictions.async_run("acme/toys-late", input={"prompt": PROMPT})
    assert str(output[0]).startswith("http")
    assert host.assigned[0].version == CONTENTS["acme/toys/late"].digest


async def test_replicate_prediction_from_create_to_cancel(live: Live, predictions: replicate.Client) -> None:
    created = await predictions.models.predictions.async_create(
        "acme/toys", input={"prompt": PROMPT, "seed": 3}
    )
    assert (created.status, created.model, created.input["seed"]) == ("starting", "acme/toys", 3)
    cancelled = await predictions.predictions.async_cancel(created.id)
    assert cancelled.status == "canceled"
    assert (await predictions.predictions.async_get(created.id)).status == "canceled"


async def test_replicate_by_version(predictions: replicate.Client, host: FakeHost) -> None:
    model = await predictions.models.async_get("acme/toys")
    assert model.latest_version is not None
    created = await predictions.predictions.async_create(
        version=model.latest_version.id, input={"prompt": PROMPT}
    )
    await created.async_wait()
    assert (created.status, len(created.output)) == ("succeeded", 1)
    (only,) = await model.versions.async_list()
    assert only.id == model.latest_version.id
    output: Any = await predictions.async_run(f"acme/toys:{only.id}", input={"prompt": PROMPT})
    assert len(output) == 1
    bare = await predictions.predictions.async_create(version=only.id[:64], input={"prompt": PROMPT})
    assert bare.model == "acme/toys"
    with pytest.raises(replicate.exceptions.ReplicateError, match="no model is called 'acme/toys:0000'"):
        await model.versions.async_get("0000")


async def test_a_version_is_its_variants_where_several_have_the_same_contents(
    dsn: str, tmp_path: Path
) -> None:
    """Each has a schema and a price of its own."""
    same = {**CATALOG.contents, Slug("acme/toys/late"): CATALOG.contents[Slug("acme/toys")]}
    tokens = await furnish(dsn, msgspec.structs.replace(CATALOG, contents=same))
    async with serving(dsn, tmp_path, tokens) as live:
        client = replicate.Client(api_token=live.key, base_url=f"{live.url}/replicate")
        for name in ("acme/toys-late", "acme/toys"):
            (version,) = await (await client.models.async_get(name)).versions.async_list()
            made = await client.predictions.async_create(version=version.id, input={"prompt": PROMPT})
            assert (made.model, made.version) == (name, version.id)


async def test_replicate_errors(predictions: replicate.Client, host: FakeHost) -> None:
    with pytest.raises(replicate.exceptions.ReplicateError) as missing:
        await predictions.async_run("no/such", input={"prompt": PROMPT})
    assert missing.value.status == 404
    with pytest.raises(replicate.exceptions.ReplicateError) as invalid:
        await predictions.async_run("acme/toys", input={"prompt": 3})
    assert (invalid.value.status, "prompt" in str(invalid.value.detail)) == (422, True)
    stranger = replicate.Client(api_token="mq_wrong", base_url=str(predictions._client.base_url))
    for name in ("no/such", "acme/toys"):  # who has no key learns no names
        with pytest.raises(replicate.exceptions.ReplicateError) as unknown:
            await stranger.async_run(name, input={"prompt": PROMPT})
        assert unknown.value.status == 401
    host.fail_with = {"kind": "model", "error": "broken", "message": "the model broke"}
    with pytest.raises(replicate.exceptions.ModelError, match="the model broke"):
        await predictions.async_run("acme/toys", input={"prompt": PROMPT})


async def test_openai_generates_as_data_and_as_address(images: openai.AsyncOpenAI, host: FakeHost) -> None:
    answer = await images.images.generate(model="acme/toys", prompt=PROMPT, n=2, extra_body={"seed": 5})
    assert answer.data is not None
    assert base64.b64decode(answer.data[0].b64_json or "") == _png()
    assert (host.assigned[0].input["num_images"], host.assigned[0].input["seed"]) == (2, 5)
    assert ids.parse(str(answer._request_id)) is not None  # one id, the request's: it is what people report
    named = await images.images.generate(model="acme/toys", prompt=PROMPT, response_format="url")
    assert named.data is not None
    assert (named.data[0].url or "").startswith("http")


async def test_openai_lists_models_and_names_errors(images: openai.AsyncOpenAI) -> None:
    assert "acme/toys/late" in [model.id async for model in images.models.list()]
    assert (await images.models.retrieve("acme/toys/late")).owned_by == "acme"
    with pytest.raises(openai.NotFoundError) as missing:
        await images.images.generate(model="no/such", prompt=PROMPT)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as nameless:
        await images.images.generate(prompt=PROMPT)
    assert nameless.value.param == "model"
    with pytest.raises(openai.BadRequestError) as invalid:
        await images.images.generate(model="acme/toys", prompt="")
    assert invalid.value.param == "prompt"
    with pytest.raises(openai.AuthenticationError) as stranger:
        await images.with_options(api_key="mq_wrong").models.list()
    assert stranger.value.code == "invalid_api_key"


async def test_huggingface_gets_an_image(live: Live, host: FakeHost) -> None:
    client = huggingface_hub.AsyncInferenceClient(
        base_url=f"{live.url}/hf/models/acme/toys", api_key=live.key
    )
    image = await client.text_to_image(PROMPT, num_inference_steps=3, seed=9)
    assert image.size == (8, 8)
    assert (host.assigned[0].input["num_inference_steps"], host.assigned[0].input["seed"]) == (3, 9)


async def test_huggingface_errors_say_why(live: Live) -> None:
    answer = await live.client.post("/hf/models/acme/toys", json={"inputs": ""})
    assert answer.status_code == 422
    assert "prompt" in answer.json()["error"]
    assert (await live.client.post("/hf/models/no/such", json={"inputs": "x"})).status_code == 404


async def test_openai_follows_a_run_and_gets_what_it_made(
    live: Live, images: openai.AsyncOpenAI, host: FakeHost
) -> None:
    host.release.clear()
    stream = await images.images.generate(model="acme/toys", prompt=PROMPT, stream=True, partial_images=3)
    seen: list[tuple[Any, ...]] = []
    async for event in stream:
        content = base64.b64decode(event.b64_json)
        seen.append((event.type, event.output_format, getattr(event, "partial_image_index", None), content))
        host.release.set()
    assert seen == [
        ("image_generation.partial_image", "webp", 0, PREVIEW),
        ("image_generation.completed", "png", None, _png()),
    ]


async def test_openai_hears_in_the_stream_why_a_run_failed(
    images: openai.AsyncOpenAI, host: FakeHost
) -> None:
    host.fail_with = {"kind": "model", "error": "broken", "message": "the model broke"}
    stream = await images.images.generate(model="acme/toys", prompt=PROMPT, stream=True)
    with pytest.raises(openai.APIError, match="the model broke") as caught:
        async for _ in stream:
            pass
    assert caught.value.code == "broken"
    with pytest.raises(openai.BadRequestError) as invalid:
        await images.images.generate(model="acme/toys", prompt=PROMPT, stream=True, partial_images=9)
    assert invalid.value.param == "partial_images"


async def test_openais_own_words_reach_models_that_have_them() -> None:
    body = {"model": "m", "prompt": "a", "quality": "low", "background": "auto", "stream": True}
    assert arguments(body, {"prompt", "quality"}) == {"prompt": "a", "quality": "low"}


async def test_replicate_tells_of_no_version_that_is_not_out_yet(
    live: Live, predictions: replicate.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is secret, and what a client would then ask for by its id is refused."""
    catalogue = live.gateway.dispatcher._catalogue
    now, (slug, out) = catalogue.now, next(key for key in catalogue.now.versions if key[0] == "acme/toys")
    coming = msgspec.structs.replace(
        now.versions[slug, out], number=out + 1, manifest=CONTENTS["acme/toys/late"]
    )
    monkeypatch.setattr(
        catalogue, "now", msgspec.structs.replace(now, versions={**now.versions, (slug, out + 1): coming})
    )
    model = await predictions.models.async_get("acme/toys")
    assert model.latest_version is not None
    assert model.latest_version.id.startswith(CONTENTS["acme/toys"].digest.removeprefix("sha256:"))


async def test_replicate_lists_models_page_by_page(
    predictions: replicate.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicate_door, "PAGE_MODELS", 2)
    first = await predictions.models.async_list()
    assert (len(first.results), first.previous) == (2, None)
    assert first.next is not None
    second = await predictions.models.async_list(cursor=first.next)
    assert (len(second.results), second.next) == (1, None)
    names = {f"{model.owner}/{model.name}" for model in (*first.results, *second.results)}
    assert names == {"acme/toys", "acme/toys-late", "acme/other"}


async def test_replicate_hears_of_the_end_at_its_webhook(dsn: str, tmp_path: Path) -> None:
    """Checked as their own client checks it; the secret is the organization's."""
    got: asyncio.Future[tuple[dict[str, str], str]] = asyncio.get_running_loop().create_future()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
        lower = {name.lower(): value for name, value in headers.items()}
        body = await reader.readexactly(int(lower["content-length"]))
        writer.write(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()
        got.set_result((lower, body.decode()))

    gateway = serving(dsn, tmp_path, await furnish(dsn), allow_private_webhooks=True)
    async with (
        gateway as live,
        live.host().linked(),
        await asyncio.start_server(receive, "127.0.0.1", 0) as hook,
    ):
        client = replicate.Client(api_token=live.key, base_url=f"{live.url}/replicate")
        url = f"http://127.0.0.1:{hook.sockets[0].getsockname()[1]}/"
        with pytest.raises(replicate.exceptions.ReplicateError, match="webhook is an http"):
            await client.models.predictions.async_create("acme/toys", {"prompt": PROMPT}, webhook="ftp://x")
        made = await client.models.predictions.async_create("acme/toys", {"prompt": PROMPT}, webhook=url)
        async with asyncio.timeout(20):
            headers, body = await got
        secret = await client.webhooks.default.async_secret()
        replicate.webhook.Webhooks.validate(headers=headers, body=body, secret=secret)
        told = json.loads(body)
        assert (told["id"], told["status"], len(told["output"])) == (made.id, "succeeded", 1)
        with pytest.raises(replicate.webhook.InvalidSignatureError):
            replicate.webhook.Webhooks.validate(headers=headers, body=body + " ", secret=secret)


async def test_replicate_lists_predictions_newest_first(
    predictions: replicate.Client, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logbook, "PAGE", 2)
    made = [
        (await predictions.models.predictions.async_create("acme/toys", {"prompt": PROMPT, "seed": seed})).id
        for seed in (1, 2, 3)
    ]
    first = await predictions.predictions.async_list()
    assert [one.id for one in first.results] == [made[2], made[1]]
    assert first.results[0].input["seed"] == 3
    assert first.next is not None
    second = await predictions.predictions.async_list(cursor=first.next)
    assert second.results[0].id == made[0]
    with pytest.raises(replicate.exceptions.ReplicateError, match="none that a page gave"):
        await predictions.predictions.async_list(cursor=first.next.partition("=")[0] + "=no")
