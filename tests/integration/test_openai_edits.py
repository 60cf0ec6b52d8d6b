"""OpenAI's and Hugging Face's own clients edit pictures with our models; only address and key are given."""

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
from PIL import Image

from loaders.protocol import AdapterUse
from router.clients import openai_edits, pictures
from router.errors import InvalidInputError
from tests.live import CATALOG, LORAS, SCHEMA, Live, furnish, serving

PROMPT = "a red circle on white"
ADDRESS = {"type": "string"}
EDITS = {
    "acme/toys": {"image_url": ADDRESS, "mask_url": ADDRESS},
    "acme/toys/late": {"image_urls": {"type": "array", "items": ADDRESS}},
    "acme/other": {},
}


def png(colour: Any = "red", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


@pytest_asyncio.fixture
async def live(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Live]:
    variants = tuple(
        msgspec.structs.replace(
            variant, input_schema=SCHEMA | {"properties": SCHEMA["properties"] | EDITS[variant.slug]}
        )
        for variant in CATALOG.variants
    )
    monkeypatch.setattr("tests.fake_host.picture", lambda assign: png())
    tokens = await furnish(dsn, msgspec.structs.replace(CATALOG, variants=variants))
    async with serving(dsn, tmp_path, tokens) as live:
        yield live


async def test_openai_edits_pictures(live: Live) -> None:
    images = openai.AsyncOpenAI(base_url=f"{live.url}/openai/v1", api_key=live.key, max_retries=0).images
    async with live.host().linked() as host:
        hole = png((0, 0, 0, 0), "RGBA")
        loras = json.dumps([{"path": "acme/toys-bent", "scale": 0.5}])
        answer = await images.edit(
            model="acme/toys", prompt=PROMPT, image=("cat.png", png("blue")), mask=("hole.png", hole),
            n=2, extra_body={"seed": 7, "loras": loras},
        )  # fmt: skip
        assert base64.b64decode((answer.data or [])[0].b64_json or "") == png()
        given = host.assigned[0].input
        assert {name: given[name] for name in ("prompt", "image_url", "num_images", "seed")} == {
            "prompt": PROMPT,
            "image_url": uri(png("blue")),
            "num_images": 2,
            "seed": 7,
        }
        assert host.assigned[0].adapters == (AdapterUse(LORAS["acme/toys-bent"].digest, 0.5),)
        mask = base64.b64decode(given["mask_url"].partition(",")[2])
        assert Image.open(io.BytesIO(mask)).convert("L").getextrema() == (255, 255)
        named = await images.edit(
            model="acme/toys/late", prompt=PROMPT, image=[png("blue"), png("green")], response_format="url"
        )
        assert host.assigned[1].input["image_urls"] == [uri(png("blue")), uri(png("green"))]
        assert ((named.data or [])[0].url or "").startswith("http")
        stream = await images.edit(model="acme/toys", prompt=PROMPT, image=png(), stream=True)
        assert [(event.type, base64.b64decode(event.b64_json)) async for event in stream] == [
            ("image_edit.completed", png())
        ]
        twice = {
            "model": "acme/toys",
            "prompt": PROMPT,
            "image": png(),
            "extra_headers": {"Idempotency-Key": "k"},
        }
        assert (await images.edit(**twice)).created == (await images.edit(**twice)).created  # type: ignore[call-overload]
        assert len(host.assigned) == 4


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # between their client and theirs
async def test_huggingfaces_client_gives_a_picture_and_its_prompt(live: Live) -> None:
    client = huggingface_hub.AsyncInferenceClient(
        base_url=f"{live.url}/hf/models/acme/toys", api_key=live.key
    )
    async with live.host().linked() as host:
        for arguments in ({"prompt": PROMPT, "num_inference_steps": 3}, {"prompt": PROMPT, "strength": 0.5}):
            image = await client.image_to_image(png("blue"), **arguments)  # type: ignore[arg-type]
            assert image.size == (8, 8)
        given = host.assigned[0].input
        assert (given["prompt"], given["image_url"]) == (PROMPT, uri(png("blue")))
        assert given["num_inference_steps"] == 3
        answer = await live.client.post(
            "/hf/models/acme/toys/late?", content=png("blue"), headers={"Content-Type": "image/png"}
        )
        assert (answer.status_code, answer.json()["error"]) == (422, "body.prompt: Field required")
        refused = await live.client.post(
            "/hf/models/acme/other",
            json={"inputs": base64.b64encode(png()).decode(), "parameters": {"prompt": "a"}},
        )
        assert (refused.status_code, "takes no picture" in refused.json()["error"]) == (422, True)


async def test_what_cannot_be_edited_is_said(live: Live) -> None:
    images = openai.AsyncOpenAI(base_url=f"{live.url}/openai/v1", api_key=live.key, max_retries=0).images
    whole = {"model": "acme/toys", "prompt": PROMPT, "image": png()}
    for wrong, param, said in (
        ({"model": "acme/other"}, "image", "this model takes no picture; there are loras, "),
        (
            {"model": "acme/toys/late", "mask": png()},
            "mask",
            "this model takes no mask; there are image_urls",
        ),
        ({"image": [png(), png()]}, "image", "this model takes one picture"),
        ({"image": []}, "image", "an edit needs a picture"),
        ({"mask": b"GIF nonsense"}, "mask", "it cannot be read as a picture"),
        ({"extra_body": {"loras": [{"path": "x"}]}}, "loras", "say lists and objects as JSON text"),
        ({"n": "many"}, "num_images", "is not of type"),
        ({"n": "9" * 5000}, "num_images", "9999"),
        ({"extra_body": {"loras": "[" * 100_000}}, None, "nested too deeply"),
        ({"extra_body": {"loras": "[" * 100 + "]" * 100}}, None, "nested too deeply"),
        ({"size": "big"}, "size", "say WIDTHxHEIGHT"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await images.edit(**whole | wrong)  # type: ignore[call-overload]
        assert (refused.value.param, said in str(refused.value)) == (param, True), refused.value
    with pytest.raises(openai.NotFoundError):
        await images.edit(**whole | {"model": "no/such"})  # type: ignore[call-overload]
    with pytest.raises(openai.APIStatusError) as large:
        await images.edit(**whole | {"image": bytes(openai_edits.LIMIT_BYTES)})  # type: ignore[call-overload]
    assert large.value.status_code == 413
    answer = await live.client.post("/openai/v1/images/edits", json={"model": "acme/toys"})
    assert (answer.status_code, "multipart form" in answer.text) == (400, True)


def test_a_mask_without_transparency_is_a_models_already() -> None:
    half = Image.new("RGBA", (2, 1), (9, 9, 9, 255))
    half.putpixel((1, 0), (9, 9, 9, 0))
    for given, expected in ((half, [0, 255]), (Image.new("L", (2, 1), 200), [200, 200])):
        buffer = io.BytesIO()
        given.save(buffer, "PNG")
        made = Image.open(io.BytesIO(pictures.white_where_changed(buffer.getvalue())))
        assert list(made.convert("L").tobytes()) == expected


def test_a_mask_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_PIXELS", 63)
    with pytest.raises(InvalidInputError, match="more than 63 pixels"):
        pictures.white_where_changed(png())
