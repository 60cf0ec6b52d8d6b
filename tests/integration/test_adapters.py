"""A lab publishes a LoRA without help; who resolves it, when, and what is refused by name."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from registry import history, store
from registry.catalog import Caller, OrganizationName
from registry.database import Database
from registry.examination import Question, Verdict
from router import snapshot
from tests import admin
from tests.admin import Lab

SCHEMA = {"type": "object", "properties": {"prompt": {"type": "string"}}}
ALL = {"shares": [{"version": 1, "percent": 100}]}


class Judge:
    """An examiner that says what the test tells it to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.says = Verdict(rank=4, layout="diffusers", target_modules=("to_q",))
        self.asked: list[Question] = []

    async def __call__(self, question: Question) -> Verdict:
        self.asked.append(question)
        return Verdict() if question.lora is None else self.says


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
async def lab(db: Database, tmp_path: Path, toys: Path, judge: Judge):
    """With a released base and an adapter that has no version yet."""
    async with admin.opened(db, tmp_path / "home", examine=judge) as office:
        lab = await office.lab("acme")
        await lab.post("/models", {"name": "acme/toys"})
        variant = {"slug": "acme/toys", "model": "acme/toys", "task": "t", "input_schema": SCHEMA}
        await lab.post("/variants", variant)
        source = {"kind": "upload", "location": await admin.send_folder(lab, toys.parent / "toys")}
        assert (await admin.validated(lab, "acme/toys", source))["state"] == "validated"
        await lab.post("/variants/acme~toys/releases", ALL)
        body = {"slug": "acme/bent", "base": "acme/toys", "trigger_words": ["bent"], "recommended_scale": 0.8}
        await lab.post("/adapters", body)
        yield lab


async def _upload(lab: Lab, folder: Path, **facts: Any) -> Any:
    source = {"kind": "upload", "location": await admin.send_folder(lab, folder)}
    return await admin.validated(lab, "acme/bent", source, "adapters", **facts)


def _save(folder: Path, seed: int, name: str = "pytorch_lora_weights.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    weights = {
        "transformer.to_q.lora_A.weight": rng.standard_normal((4, 64)).astype(np.float32),
        "transformer.to_q.lora_B.weight": rng.standard_normal((64, 4)).astype(np.float32),
    }
    safetensors.numpy.save_file(weights, folder / name)
    return folder


async def _resolved(db: Database, who: str, when: Any = None) -> Any:
    rows = await store.load_catalog(db)
    caller = Caller(organization=OrganizationName(who), key_id="k")
    found = snapshot.build(rows, {}).adapter("acme/bent", caller, when or await store.now(db))
    return getattr(found, "version", found and "gone")


async def test_from_a_file_to_a_split_a_rollback_and_the_end(
    db: Database, lab: Lab, judge: Judge, tmp_path: Path
) -> None:
    first = await _upload(lab, _save(tmp_path / "one", 1))
    second = await _upload(lab, _save(tmp_path / "two", 2))
    assert (first["state"], second["state"], first["adapter"], second["number"]) == (
        "validated", "validated", "acme/bent", 2,
    )  # fmt: skip
    asked = judge.asked[-1]
    assert asked.lora is not None
    assert set(asked.lora.shapes.values()) == {(4, 64), (64, 4)}
    assert [part.name for part in asked.parts] == ["text_encoder", "text_encoder_2", "transformer", "vae"]
    view = await lab.get("/adapters/acme~bent")
    assert (view["rank"], view["layout"], view["target_modules"], view["version"]) == (
        4, "diffusers", ["to_q"], 2,
    )  # fmt: skip
    assert (view["trigger_words"], view["recommended_scale"]) == (["bent"], 0.8)
    manifest = await lab.get("/adapters/acme~bent/versions/1/manifest")
    assert (manifest["base"], manifest["recommended_scale"]) == ("acme/toys", 0.8)
    assert await _resolved(db, "anyone") is None, "nobody sees it before its first release"

    await lab.post("/adapters/acme~bent/releases", ALL)
    assert await _resolved(db, "anyone") == 1
    await lab.post("/adapters/acme~bent/releases", {"shares": [{"version": 2, "percent": 100}]})
    assert await _resolved(db, "anyone") == 2
    await lab.post("/adapters/acme~bent/rollback")
    assert await _resolved(db, "anyone") == 1
    await lab.post("/adapters/acme~bent/deprecate", {})
    versions = (await lab.get("/adapters/acme~bent/versions"))["versions"]
    assert [version["state"] for version in versions] == ["sunset", "validated"]
    await lab.post("/adapters/acme~bent/retire")
    assert await _resolved(db, "anyone") == "gone"
    async with db.sessions() as session:
        entries = [e for e in await history.read(session, owner="acme") if e.kind.startswith("adapter")]
    assert [entry.kind for entry in reversed(entries) if entry.kind != "adapter_version"] == [
        "adapter", *["adapter_release"] * 5,
    ]  # fmt: skip


async def test_a_launch_opens_at_its_second_for_whom_it_names(db: Database, lab: Lab, tmp_path: Path) -> None:
    await _upload(lab, _save(tmp_path / "one", 1))
    opens = await store.now(db) + timedelta(hours=1)
    early = opens - timedelta(minutes=30)
    window = {
        "preview_from": early.isoformat(),
        "preview_organizations": ["blue"],
        "public_from": opens.isoformat(),
    }
    await lab.post("/adapters/acme~bent/releases", ALL | {"window": window})
    second = timedelta(seconds=1)
    seen = [
        await _resolved(db, who, when)
        for who in ("blue", "red")
        for when in (early - second, early, opens - second, opens)
    ]
    assert seen == [None, 1, 1, 1, None, None, None, 1]


REFUSALS = [
    (Verdict(error="AdapterMismatchError", message="the adapter changes unet.x"), "AdapterMismatchError", "unet.x"),
    (Verdict(error="AdapterFormatError", message="the file holds a DoRA"), "AdapterFormatError", "a DoRA"),
]  # fmt: skip


@pytest.mark.parametrize(("verdict", "error", "says"), REFUSALS)
async def test_what_does_not_fit_its_base_is_refused_by_name(
    lab: Lab, judge: Judge, tmp_path: Path, verdict: Verdict, error: str, says: str
) -> None:
    judge.says = verdict
    version = await _upload(lab, _save(tmp_path / "one", 1))
    assert (version["state"], version["report"]["error"], says in version["report"]["message"]) == (
        "rejected", error, True,
    )  # fmt: skip
    answer = await lab.ask("POST", "/adapters/acme~bent/releases", ALL)
    assert answer.status_code == 409
    judge.says = Verdict(rank=4)
    await lab.post("/adapters/acme~bent/versions/1/validate")  # whoever mended it may ask again


async def test_several_files_need_a_name_and_a_folder_of_none_is_refused(lab: Lab, tmp_path: Path) -> None:
    folder = _save(_save(tmp_path / "two", 1, "a.safetensors"), 2, "b.safetensors")
    unsaid = await _upload(lab, folder)
    assert (unsaid["state"], unsaid["report"]["error"]) == ("rejected", "FolderError")
    assert "2 safetensors files" in unsaid["report"]["message"]
    named = await _upload(lab, folder, weight_name="b.safetensors")
    assert (named["state"], named["weight_name"]) == ("validated", "b.safetensors")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.json").write_text(json.dumps({}))
    assert (await _upload(lab, tmp_path / "none"))["state"] == "rejected"


async def test_edits_are_repeatable_and_collisions_caught(lab: Lab) -> None:
    tag = (await lab.ask("GET", "/adapters/acme~bent")).headers["etag"]
    edited = await lab.ask("PATCH", "/adapters/acme~bent", {"recommended_scale": 0.5}, if_match=tag)
    assert (edited.status_code, edited.json()["recommended_scale"]) == (200, 0.5)
    late = await lab.ask("PATCH", "/adapters/acme~bent", {"name": "Bent"}, if_match=tag)
    assert late.status_code == 412
    body = {"slug": "acme/other", "base": "acme/toys"}
    twice = [await lab.ask("POST", "/adapters", body, idempotency_key="one") for _ in range(2)]
    assert [answer.status_code for answer in twice] == [201, 201]
    assert (await lab.ask("POST", "/adapters", body)).status_code == 409


NONSENSE = [
    ({"slug": "acme/x", "base": "acme/nothing"}, 404, "no variant acme/nothing"),
    ({"slug": "blue/x", "base": "acme/toys"}, 403, "blue/ belongs to another organization"),
    ({"slug": "acme", "base": "acme/toys"}, 422, "slug: owner/name"),
    ({"slug": "acme/x", "base": "acme/toys", "recommended_scale": 99}, 422, "recommended_scale: from -10 to 10"),
    ({"slug": "acme/x", "base": "acme/toys", "rank": 4}, 422, "unknown field `rank`"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "says"), NONSENSE)
async def test_an_adapter_that_makes_no_sense_says_why(
    lab: Lab, body: dict[str, Any], status: int, says: str
) -> None:
    answer = await lab.ask("POST", "/adapters", body)
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text


async def test_what_is_called_cannot_be_deleted(db: Database, lab: Lab, tmp_path: Path) -> None:
    from registry import usage
    from tests.integration.test_usage import _record

    version = await _upload(lab, _save(tmp_path / "one", 1))
    record = _record(
        await store.now(db), organization=OrganizationName("blue"), adapters=(version["digest"],)
    )
    async with db.transaction() as connection:
        await usage.record(connection, [record])
    refused = await lab.ask("DELETE", "/adapters/acme~bent")
    assert (refused.status_code, refused.json()["detail"]) == (409, "acme/bent is still called by blue")
    base = await lab.ask("DELETE", "/variants/acme~toys")
    assert (base.status_code, "acme/bent" in base.json()["detail"]) == (409, True)
