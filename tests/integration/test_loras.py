"""LoRAs from the outside in: a lab publishes one and a customer calls it; a customer brings one by address or repository.

The base is a starter model, the gateway and its examiner are real; only the pipeline is fake.
"""

import asyncio
import hashlib
import pickle
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio
import safetensors.numpy

from loaders import examiner
from registry import apply, brought, folders, keys
from registry.catalog import Catalog, Model, Organization, OrganizationName, Slug, Source, Variant
from registry.database import Database
from registry.examination import Question, Verdict
from router import app
from router.catalogue import Catalogue
from tests import admin
from tests.admin import LAB, Lab
from tests.hub import Hub, Repository
from tests.live import SCHEMA, Live, serving

ROOT = Path(__file__).resolve().parents[2] / "starter"
FILE = "pytorch_lora_weights.safetensors"
BENT = (ROOT / "loras" / "shapes-outline" / FILE).read_bytes()
BASE = "marquee/shapes"
ALL = {"shares": [{"version": 1, "percent": 100}]}

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(400),  # a busy machine imports torch for minutes
]


class Near:
    """The examiner in this process: its own would import torch once more."""

    async def __call__(self, question: Question) -> Verdict:
        return await asyncio.to_thread(examiner.examine, question)

    async def close(self) -> None:
        """Nothing to end."""


@pytest.fixture(scope="module")
def hub() -> Any:
    server = Hub().start()
    yield server
    server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(module_dsn: str, tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> AsyncIterator[Live]:
    source = Source(kind="path", location=str(ROOT / "models" / "shapes"))
    variant = Variant(slug=Slug(BASE), model=BASE, task="text-to-image", input_schema=SCHEMA, source=source)
    catalog = Catalog(
        organizations=(Organization(name=OrganizationName("marquee")),),
        models=(Model(name=BASE),),
        variants=(variant,),
        contents={variant.slug: folders.read_pipeline(Path(source.location), source)},
    )
    async with Database.open(module_dsn, connections=2) as db:
        await apply.apply(db, catalog)
        tokens = [(await keys.create(db, name, [scope])).token for name, scope in (("customer", "run"), ("stranger", "run"), ("operator", "host"))]  # fmt: skip
        lab = (await keys.create(db, "acme", LAB)).token
    options: dict[str, Any] = {
        "hub_endpoint": hub.endpoint,
        "hub_token": "operators",
        "allow_private_inputs": True,
    }
    made = catalog.contents[variant.slug]
    tree = folders.Folder(Path(source.location))
    parts = tuple(folders.part_of(tree, component) for component in made.components)
    verdict = examiner.examine(Question(pipeline_class=made.pipeline_class, parts=parts))
    assert verdict == Verdict(), "and now torch is imported, which would hold up the gateway for long"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "Examiner", Near)
        async with serving(module_dsn, tmp_path_factory.mktemp("home"), (*tokens,), **options) as running:
            running.lab = Lab(running.visit(lab), lab)  # type: ignore[attr-defined]
            yield running


def _other(factor: float, **changed: Any) -> bytes:
    """Another LoRA of the same shapes, or of others where `changed` says so."""
    tensors = {name: tensor * np.float32(factor) for name, tensor in safetensors.numpy.load(BENT).items()}
    return safetensors.numpy.save(tensors | changed)


async def _call(live: Live, path: str, key: str | None = None, **extra: Any) -> Any:
    client = live.client if key is None else live.visit(key)
    body = {"prompt": "x", "seed": 1, "loras": [{"path": path, **extra}]}
    return await client.post(f"/fal/run/{BASE}", json=body)


def _address(hub: Hub, repository: str, files: dict[str, bytes]) -> str:
    hub.repositories[repository] = Repository(files)
    return f"{hub.endpoint}/{repository}/resolve/main/{next(iter(files))}"


async def test_a_lab_publishes_one_by_upload_and_a_customer_calls_it(live: Live, tmp_path: Path) -> None:
    lab: Lab = live.lab  # type: ignore[attr-defined]
    (tmp_path / FILE).write_bytes(BENT)
    body = {"slug": "acme/outline", "base": BASE, "recommended_scale": 0.5}
    await lab.post("/adapters", body)
    source = {"kind": "upload", "location": await admin.send_folder(lab, tmp_path)}
    version = await admin.validated(lab, "acme/outline", source, "adapters")
    assert version["state"] == "validated", version
    view = await lab.get("/adapters/acme~outline")
    assert (view["rank"], view["layout"], "to_q" in view["target_modules"]) == (16, "diffusers", True)
    before = await _call(live, "acme/outline")
    nothing = await _call(live, "acme/nothing")
    assert (before.status_code, nothing.status_code) == (422, 422)
    told = [answer.json()["detail"][0]["msg"] for answer in (before, nothing)]
    assert told[0].replace("outline", "nothing") == told[1], "an embargo is a secret"

    await lab.post("/adapters/acme~outline/releases", ALL)
    async with live.host().linked() as host:
        while (answer := await _call(live, "acme/outline")).status_code != 200:
            assert "no LoRA is called" in answer.text  # until the gateway hears of it
            await asyncio.sleep(0.05)
        (use,) = host.assigned[0].adapters
        assert (use.digest, use.scale) == (version["digest"], 0.5)
        sha256 = hashlib.sha256(BENT).hexdigest()
        blob = await live.visit(live.host_key).get(f"/blobs/{sha256}")
        assert (blob.status_code, blob.content) == (200, BENT)
        (misspelt,) = (await _call(live, "acme/outlines")).json()["detail"]
        assert misspelt["msg"] == (
            "no LoRA is called 'acme/outlines' (did you mean 'acme/outline'?), here or on the Hub: acme/outlines: "
            "the Hub knows no such repository, or it wants a token"
        )
        await lab.post("/adapters/acme~outline/retire")
        while (answer := await _call(live, "acme/outline")).status_code == 200:
            await asyncio.sleep(0.05)
        assert "was retired" in answer.text


async def test_what_does_not_fit_is_refused_with_the_tensors_name(live: Live, tmp_path: Path) -> None:
    lab: Lab = live.lab  # type: ignore[attr-defined]
    names = sorted(safetensors.numpy.load(BENT))
    narrow = next(name for name in names if "to_q.lora_A" in name)
    (tmp_path / FILE).write_bytes(_other(1.0, **{narrow: np.ones((16, 64), np.float32)}))
    await lab.post("/adapters", {"slug": "acme/narrow", "base": BASE})
    source = {"kind": "upload", "location": await admin.send_folder(lab, tmp_path)}
    version = await admin.validated(lab, "acme/narrow", source, "adapters")
    layer = narrow.removesuffix(".lora_A.weight")
    assert (version["state"], version["report"]["error"]) == ("rejected", "AdapterMismatchError")
    assert f"{layer}.weight is made for shape (128, 64)" in version["report"]["message"]


async def test_a_customers_own_by_address_is_fetched_once_and_its_own(live: Live, hub: Hub) -> None:
    content = _other(0.5)
    address = _address(hub, "someone/own", {"own.safetensors": content})
    async with live.host("host-2").linked() as host:
        for _ in range(2):
            answer = await _call(live, address, scale=0.7)
            assert answer.status_code == 200, answer.text
        (use,) = host.assigned[0].adapters
        assert use.scale == 0.7
        asked = [path for _, path, _ in hub.requests if "own.safetensors" in path]
        first = len(asked)
        sha256 = hashlib.sha256(content).hexdigest()
        blob = await live.visit(live.host_key).get(f"/blobs/{sha256}")
        assert (blob.status_code, blob.content) == (200, content)
        for name in (use.digest, sha256, f"{sha256}.safetensors"):
            guess = await _call(live, name, live.stranger)
            assert "no LoRA is called" in guess.text, "a digest opens nothing"
        assert (await _call(live, address, live.stranger)).status_code == 200
        again = [path for _, path, _ in hub.requests if "own.safetensors" in path]
        assert len(again) == 2 * first, "a stranger's address is the stranger's own to fetch"


async def test_a_customers_own_by_upload(live: Live) -> None:
    content = _other(0.75)
    sent = await live.client.post("/v1/files", content=content, headers={"x-file-name": "own.safetensors"})
    elsewhere = sent.json()["url"].replace("127.0.0.1", "marquee.example")  # by whatever name they know us
    async with live.host("host-upload").linked() as host:
        answer = await _call(live, elsewhere)
        assert answer.status_code == 200, answer.text
        (use,) = host.assigned[0].adapters
    blob = await live.visit(live.host_key).get(f"/blobs/{hashlib.sha256(content).hexdigest()}")
    assert (blob.content, use.digest[:7]) == (content, "sha256:")


async def test_a_customers_own_by_repository(live: Live, hub: Hub) -> None:
    _address(hub, "someone/repo", {"a.safetensors": _other(0.25), "b.safetensors": _other(0.125)})
    unsaid = await _call(live, "someone/repo")
    assert "2 safetensors files" in unsaid.text
    async with live.host("host-3").linked() as host:
        answer = await _call(live, "someone/repo", weight_name="b.safetensors")
        assert answer.status_code == 200, answer.text
        assert len(host.assigned[0].adapters) == 1


async def test_the_operators_token_reads_nothing_for_customers(live: Live, hub: Hub) -> None:
    hub.repositories["private/lora"] = Repository({FILE: _other(2.0)}, token="operators")
    refused = await _call(live, "private/lora")
    assert (refused.status_code, "no LoRA is called 'private/lora'" in refused.text) == (422, True)


REFUSED = [
    ("a pickle", pickle.dumps(list(range(5000))), "this is a pickle, not safetensors"),
    ("a hidden tail", BENT + b"tail", "4 bytes follow the last tensor"),
    ("another base's", safetensors.numpy.save({"unet.x.lora_A.weight": np.ones((4, 8), np.float32)}), "which this model does not have"),
    ("none at all", safetensors.numpy.save({"x": np.ones(3, np.float32)}), "the adapter changes 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "content", "says"), REFUSED, ids=[case[0] for case in REFUSED])
async def test_what_is_no_lora_for_it_is_refused(
    live: Live, hub: Hub, what: str, content: bytes, says: str
) -> None:
    answer = await _call(live, _address(hub, f"bad/{what.replace(' ', '-')}", {"x.safetensors": content}))
    assert answer.status_code == 422
    (issue,) = answer.json()["detail"]
    assert (issue["loc"], says in issue["msg"]) == (["body", "loras", 0, "path"], True), issue


async def test_what_a_repository_lacks_is_said_and_remembered_as_it_is(live: Live, hub: Hub) -> None:
    hub.repositories["someone/two"] = Repository({"a.safetensors": BENT, "b.safetensors": _other(5.0)})
    hub.repositories["someone/gated"] = Repository({FILE: BENT}, gated=True, token="hf_theirs")
    told = {
        path: [(await _call(live, path)).json()["detail"][0]["msg"] for _ in range(2)]
        for path in ("someone/two", "someone/gated")
    }
    several = "someone/two: 2 safetensors files (a.safetensors, b.safetensors); say which in `weight_name`"
    gated = "someone/gated is gated on the Hub, and is read here without an account: send its file (POST /v1/files)"
    assert told == {"someone/two": [several] * 2, "someone/gated": [gated] * 2}


async def test_too_large_and_too_private_is_refused(live: Live, hub: Hub) -> None:
    loras = live.gateway.house.loras
    address = _address(hub, "someone/large", {"large.safetensors": _other(3.0)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loras, "_max_bytes", 1 << 19)
        assert "larger than 0 MiB" in (await _call(live, address)).text
        assert "larger than 0 MiB" in (await _call(live, "someone/large")).text
        patch.setattr(loras, "_max_bytes", 0)
        assert "no LoRA is called" in (await _call(live, address)).text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loras, "_place", msgspec.structs.replace(loras._place, allow_private=False))
        private = await _call(live, f"{address}?again")
        assert "is a private address" in private.text
        assert "begin with http" not in private.text
    assert list(loras.folder.glob("*.part")) == []


async def test_another_process_learns_of_it_by_its_digest(live: Live, module_dsn: str, hub: Hub) -> None:
    async with live.host("host-4").linked() as host, Database.open(module_dsn, connections=2) as db:
        async with Catalogue.open(db) as elsewhere:
            address = _address(hub, "someone/new", {"new.safetensors": _other(4.0)})
            assert (await _call(live, address)).status_code == 200
            digest = host.assigned[0].adapters[0].digest
            assert digest not in elsewhere.now.described_adapters
            await elsewhere.learn({digest})
            assert elsewhere.now.described_adapters[digest].base == BASE
        async with Catalogue.open(db) as restarted:
            assert digest in restarted.now.described_adapters


async def test_what_nobody_brought_in_long_is_forgotten(live: Live, module_dsn: str, hub: Hub) -> None:
    import os
    from datetime import timedelta

    loras = live.gateway.house.loras
    async with live.host("host-5").linked():
        assert (
            await _call(live, _address(hub, "someone/old", {"old.safetensors": _other(5.0)}))
        ).status_code == 200
    file = loras.folder / f"{hashlib.sha256(_other(5.0)).hexdigest()}.safetensors"
    os.utime(file, (1, 1))
    await loras.keep_house(timedelta(days=1))
    assert file.exists(), "its row is fresh"
    await loras.keep_house(timedelta(0))
    assert not file.exists()
    async with Database.open(module_dsn, connections=2) as db:
        assert await brought.manifests(db) == {}
