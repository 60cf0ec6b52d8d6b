"""A real gateway on a free port in the test's own loop, with a catalogue of manifests that nobody loads."""

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from registry import apply, keys
from registry.catalog import (
    AdapterEntry,
    AdapterManifest,
    Catalog,
    Component,
    FileRef,
    Manifest,
    Model,
    Organization,
    OrganizationName,
    Price,
    Slug,
    Source,
    Variant,
)
from registry.database import Database
from registry.settings import Settings
from router.gateway import configure
from tests.fake_host import FakeHost

SCHEMA = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": {"type": "string", "minLength": 1},
        "seed": {"type": "integer", "minimum": 0},
        "num_inference_steps": {"type": "integer", "minimum": 1, "maximum": 50, "default": 20},
        "num_images": {"type": "integer", "minimum": 1, "maximum": 4, "default": 1},
        "sync_mode": {"type": "boolean", "default": False},
        "loras": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path"],
                "properties": {"path": {"type": "string"}, "scale": {"type": "number"}},
            },
        },
    },
}
HERE = Source(kind="path", location="/nowhere")


def file(name: str, content: str) -> FileRef:
    return FileRef(path=name, size_bytes=1000, sha256=hashlib.sha256(content.encode()).hexdigest())


def manifest(weights: str, config: str = "config") -> Manifest:
    component = Component(
        name="transformer",
        library="diffusers",
        class_name="SD3Transformer2DModel",
        config=file("transformer/config.json", config),
        weights=(file("transformer/diffusion_pytorch_model.safetensors", weights),),
    )
    return Manifest(
        pipeline_class="StableDiffusion3Pipeline",
        source=HERE,
        components=(component,),
        assets=(file("model_index.json", "index"),),
    )


def lora(base: str, of: Manifest) -> AdapterManifest:
    weights = file("pytorch_lora_weights.safetensors", f"lora for {base}")
    return AdapterManifest(source=HERE, weights=weights, base=Slug(base), architecture=of.architecture)


def variant(slug: str) -> Variant:
    return Variant(
        slug=Slug(slug),
        model="/".join(slug.split("/")[:2]),
        task="text-to-image",
        input_schema=SCHEMA,
        price=Price(unit="image", amount="0.01"),
        source=HERE,
    )


CONTENTS = {
    "acme/toys": manifest("toys"),
    "acme/toys/late": manifest("late"),
    "acme/other": manifest("other", config="another"),
}
LORAS = {
    "acme/toys-bent": lora("acme/toys", CONTENTS["acme/toys"]),
    "acme/other-bent": lora("acme/other", CONTENTS["acme/other"]),
}
CATALOG = Catalog(
    organizations=(Organization(name=OrganizationName("acme")),),
    models=(Model(name="acme/toys"), Model(name="acme/other")),
    variants=tuple(variant(slug) for slug in CONTENTS),
    contents={Slug(slug): contents for slug, contents in CONTENTS.items()},
    adapters=tuple(
        AdapterEntry(slug=Slug(slug), base=made.base, source=HERE) for slug, made in LORAS.items()
    ),
    adapter_contents={Slug(slug): made for slug, made in LORAS.items()},
)


class Live:
    """A running gateway, a customer's key, a host's key."""

    def __init__(self, url: str, server: uvicorn.Server, key: str, stranger: str, host_key: str) -> None:
        self.url = url
        self.server = server
        self.key = key
        self.stranger = stranger
        self.host_key = host_key
        self.client = self.visit(key)

    def visit(self, key: str | None) -> httpx.AsyncClient:
        headers = {} if key is None else {"Authorization": f"Key {key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20.0, trust_env=False)

    async def until(self, url: str, state: str) -> dict[str, Any]:
        """The first status object that says so."""
        async with asyncio.timeout(30):
            while True:
                status: dict[str, Any] = (await self.client.get(url)).json()
                if status["status"] == state:
                    return status
                await asyncio.sleep(0.01)

    def host(self, host_id: str = "host-1", **options: Any) -> FakeHost:
        return FakeHost(self.url, self.host_key, host_id, **options)

    @property
    def gateway(self) -> Any:
        return self.server.config.app.state.gateway


async def furnish(dsn: str, catalog: Catalog = CATALOG) -> tuple[str, str, str]:
    """The catalogue and three keys: a customer's, another customer's, a host's."""
    async with Database.open(dsn, connections=2) as db:
        await apply.apply(db, catalog)
        customer = await keys.create(db, "customer", ["run"])
        stranger = await keys.create(db, "stranger", ["run"])
        host = await keys.create(db, "operator", ["host"])
    return customer.token, stranger.token, host.token


@contextlib.asynccontextmanager
async def serving(
    dsn: str, home: Path, tokens: tuple[str, str, str], *, standby: bool = False, **options: Any
) -> AsyncIterator[Live]:
    """Ready when it dispatches or, with `standby`, stands by. Stops like SIGTERM at the end."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    options = {"hub_endpoint": "http://127.0.0.1:9", **options}  # nobody: no test leaves this machine
    settings = Settings(home=home, database_url=dsn, port=port, **options)
    server = uvicorn.Server(configure(settings))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server._serve([listener]))
    while not server.started:
        assert not task.done(), "the gateway did not start"
        await asyncio.sleep(0.01)
    live = Live(f"http://127.0.0.1:{port}", server, *tokens)
    dispatcher = live.gateway.dispatcher
    while not (dispatcher.standing_by if standby else dispatcher.hub):
        await asyncio.sleep(0.01)
    try:
        yield live
    finally:
        await live.client.aclose()
        server.config.app.state.stop()
        server.should_exit = True
        await asyncio.wait_for(task, 8)
        listener.close()
