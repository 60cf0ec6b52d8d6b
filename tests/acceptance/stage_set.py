"""A storefront over a made-up catalogue and a core that draws by itself, for tests of the pages alone."""

import asyncio
import hashlib
import io
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from litestar import Litestar, Response, get
from litestar.params import FromPath
from PIL import Image, ImageDraw

from registry.catalog import (
    Adapter,
    AdapterManifest,
    Caller,
    Digest,
    FileRef,
    OrganizationName,
    Price,
    Slug,
    Source,
    Variant,
)
from registry.web import signin
from registry.web.signin import Door
from router.requests import Outcome, Request, RequestId, State, Status, StoredFile
from router.storefront import pages
from router.storefront.gallery import Gallery

KEY = "mq_abcdefgh_0123456789abcdefghijklmnopqrstuv"
CALLER = Caller(organization=OrganizationName("atelier"), key_id="abcdefgh", scopes=frozenset({"run"}))
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": {
            "type": "string",
            "title": "Prompt",
            "description": "What to draw: a colour, a shape, a background.",
            "examples": ["a red circle on white"],
            "maxLength": 500,
        },
        "negative_prompt": {"type": "string", "default": "", "description": "What to keep out."},
        "image_size": {
            "default": "square",
            "anyOf": [
                {"enum": ["square_hd", "square", "portrait_4_3", "landscape_16_9"]},
                {
                    "type": "object",
                    "properties": {"width": {"type": "integer"}, "height": {"type": "integer"}},
                },
            ],
        },
        "num_inference_steps": {"type": "integer", "minimum": 1, "maximum": 50, "default": 20},
        "guidance_scale": {"type": "number", "minimum": 0, "maximum": 20, "default": 4.5},
        "num_images": {"type": "integer", "minimum": 1, "maximum": 4, "default": 1},
        "seed": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
        "loras": {"type": "array", "items": {"type": "object"}, "default": []},
        "output_format": {"enum": ["png", "jpeg", "webp"], "default": "png"},
        "enable_safety_checker": {"type": "boolean", "default": True},
    },
}
LABS = ("fal-ai", "black-forest-labs", "stability", "wan-video", "ideogram", "recraft", "hunyuan", "kling")
FAMILIES = ("Aurora", "Lumen", "Vellum", "Cinder", "Halcyon", "Marrow", "Tessera", "Oriel", "Quill", "Sable")
TASKS = (
    "text-to-image",
    "image-to-image",
    "text-to-video",
    "image-to-video",
    "text-to-speech",
    "image-to-3d",
)
KINDS = ("Dev", "Pro", "Turbo", "Edit", "Lite", "Ultra", "Fill", "Redux")


def variants() -> tuple[Variant, ...]:
    starters = (
        _variant(
            "marquee/shapes",
            "Shapes",
            "A small picture model that draws coloured shapes on plain grounds.",
            price=Price(unit="image", amount="0.002"),
        ),
        _variant("marquee/shapes/dusk", "Shapes, at dusk", "The same shapes under a night palette."),
    )
    crowd = tuple(
        _variant(
            f"{lab}/{family.lower()}/{kind.lower()}",
            f"{family} {kind}",
            f"{family} by {lab}: {TASKS[(n * 7 + i) % len(TASKS)].replace('-', ' ')} with fine control.",
            TASKS[(n * 7 + i) % len(TASKS)],
            Price(unit="image", amount=f"0.0{1 + (n + i) % 9}"),
        )
        for n, (lab, family) in enumerate((lab, family) for lab in LABS for family in FAMILIES)
        for i, kind in enumerate(KINDS)
    )
    return starters + crowd


def _variant(
    slug: str, name: str, about: str, task: str = "text-to-image", price: Price | None = None
) -> Variant:
    return Variant(
        slug=Slug(slug),
        model="/".join(slug.split("/")[:2]),
        name=name,
        description=about,
        task=task,
        input_schema=SCHEMA,
        licence="Apache-2.0",
        price=price,
    )


def adapter(slug: str, name: str, words: tuple[str, ...]) -> Adapter:
    manifest = AdapterManifest(
        source=Source(kind="path", location="loras"),
        weights=FileRef(path=f"{slug}.safetensors", size_bytes=1, sha256="0" * 64),
        base=Slug("marquee/shapes"),
        architecture=Digest("sha256:" + "0" * 64),
        trigger_words=words,
    )
    return Adapter(slug=Slug(slug), name=name, manifest=manifest)


class FakeCatalogue:
    now = None

    def clock(self) -> datetime:
        return datetime.now(UTC)

    def __init__(self) -> None:
        self._variants = {variant.slug: variant for variant in variants()}

    def variants(self, caller: Caller | None) -> Sequence[Variant]:
        return tuple(self._variants.values())

    def variant(self, caller: Caller | None, slug: Slug) -> Variant | None:
        return self._variants.get(slug)

    def runs_here(self, variant: Variant) -> bool:
        return variant.slug.startswith("marquee/")

    def is_served(self, variant: Variant) -> bool:
        return False

    def adapters(self, caller: Caller | None, variant: Variant) -> Sequence[Adapter]:
        if not variant.slug.startswith("marquee/"):
            return ()
        return (
            adapter("marquee/shapes-outline", "Outline", ("outline",)),
            adapter("marquee/shapes-stripes", "Stripes", ("striped",)),
        )


class FakeCalls:
    """Draws the colour that the prompt names, outlined or striped where a LoRA says so."""

    async def cost(self, request_id: str) -> str | None:
        return "0.002 USD" if request_id in self.requests else None

    def __init__(self) -> None:
        self.requests: dict[str, Request] = {}
        self.files: dict[str, bytes] = {}
        self.cancelled: set[str] = set()
        self.shown: set[str] = set()

    async def submit(
        self, caller: Caller, slug: Slug, arguments: Mapping[str, Any], *, previews: bool
    ) -> RequestId:
        request_id = RequestId(secrets.token_hex(8))
        if previews:
            self.shown.add(request_id)
        self.requests[request_id] = Request(
            id=request_id,
            organization=caller.organization,
            key_id=caller.key_id,
            slug=slug,
            version=Digest("sha256:0"),
            input={"seed": 7, **arguments},
            created_at=datetime.now(UTC),
            door="page",
        )
        return request_id

    async def cancel(self, caller: Caller, request_id: RequestId) -> None:
        self.cancelled.add(request_id)

    async def watch(self, caller: Caller, request_id: RequestId) -> AsyncIterator[Status]:
        request = self.requests[request_id]
        yield Status(request=request, state=State.QUEUED, queue_position=1)
        await asyncio.sleep(0.05)
        yield Status(request=request, state=State.RUNNING, phase="loading")
        for step in range(1, 5):
            await asyncio.sleep(0.05)
            if request_id in self.cancelled:
                yield Status(request=request, state=State.CANCELLED)
                return
            preview = glimpse(request.input) if request_id in self.shown else b""
            yield Status(
                request=request, state=State.RUNNING, phase="running", step=step, steps=4, preview=preview
            )
        data = draw(request.input)
        file_id = hashlib.sha256(data).hexdigest()[:16]
        self.files[file_id] = data
        file = StoredFile(
            id=file_id, content_type="image/png", size_bytes=len(data), sha256="", width=64, height=64
        )
        outcome = Outcome(state=State.SUCCEEDED, files=(file,), wait_seconds=0.05, run_seconds=0.2)
        yield Status(request=request, state=State.SUCCEEDED, outcome=outcome)


def glimpse(arguments: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(draw(arguments))).resize((8, 8)).save(out, "WEBP")
    return out.getvalue()


def draw(arguments: Mapping[str, Any]) -> bytes:
    colour = re.search("red|blue|green", str(arguments["prompt"]))
    image = Image.new("RGB", (64, 64), "white")
    outline = any("outline" in use["path"] for use in arguments.get("loras", ()))
    fill = None if outline else (colour[0] if colour else "gray")
    ImageDraw.Draw(image).ellipse(
        (12, 12, 52, 52), fill=fill, outline=colour[0] if colour else "gray", width=4
    )
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def create_app(*, loopback: bool = True) -> Litestar:
    async def verify(key: str) -> Caller | None:
        return CALLER if key == KEY else None

    async def find(key_id: str) -> Caller | None:
        return CALLER if key_id == CALLER.key_id else None

    door = Door(secret=bytes(32), verify=verify, find=find, playground_key=KEY, loopback=loopback)
    calls = FakeCalls()
    catalogue = FakeCatalogue()
    front = pages.Front(
        door=door, catalogue=catalogue, calls=calls, gallery=Gallery(catalogue), cost=calls.cost
    )

    @get("/files/{file_id:str}")
    async def file(file_id: FromPath[str]) -> Response[bytes]:
        return Response(calls.files[file_id], media_type="image/png")

    return Litestar([pages.router(lambda: front), signin.router(lambda: door), file], openapi_config=None)
