"""A lab publishes without help: from a model to a release, a split, a rollback, a deprecation and a retirement."""

import asyncio
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from registry import history, store, validation, windows
from registry.catalog import OrganizationName
from registry.database import Database
from tests import admin
from tests.admin import Lab, Office

SCHEMA = {"type": "object", "required": ["prompt"], "properties": {"prompt": {"type": "string"}}}
ANYONE = OrganizationName("anyone")


@pytest.fixture
async def office(db: Database, tmp_path: Path):
    async with admin.opened(db, tmp_path / "home") as office:
        yield office


@pytest.fixture
async def lab(office: Office) -> Lab:
    lab = await office.lab("acme")
    await lab.post("/models", {"name": "acme/toys", "title": "Toys"})
    await lab.post(
        "/variants",
        {"slug": "acme/toys", "model": "acme/toys", "task": "text-to-image", "input_schema": SCHEMA},
    )
    return lab


@pytest.fixture
async def two_versions(lab: Lab, toys: Path) -> Lab:
    for name in ("toys", "toys-late"):
        upload = await admin.send_folder(lab, toys.parent / name)
        version = await admin.validated(lab, "acme/toys", {"kind": "upload", "location": upload})
        assert version["state"] == "validated", version
    return lab


async def _resolution(db: Database, who: OrganizationName = ANYONE) -> windows.Resolution:
    rows = await store.load_catalog(db)
    return windows.resolve(rows.releases, who, await store.now(db))


async def _state(lab: Lab, number: int) -> str:
    return (await lab.get(f"/variants/acme~toys/versions/{number}"))["state"]


async def test_from_upload_to_a_split_a_rollback_and_the_end(db: Database, two_versions: Lab) -> None:
    lab = two_versions
    second = await lab.get("/variants/acme~toys/versions/2")
    assert second["report"]["components"] == 4
    assert 0 < second["report"]["shared_bytes"] < second["report"]["total_bytes"], (
        "all but the transformer is shared"
    )
    assert await _resolution(db) == windows.Hidden(until=None)

    await lab.post("/variants/acme~toys/releases", {"shares": [{"version": 1, "percent": 100}]})
    assert (await _state(lab, 1), await _state(lab, 2)) == ("live", "validated")
    split = [{"version": 1, "percent": 90}, {"version": 2, "percent": 10}]
    await lab.post("/variants/acme~toys/releases", {"shares": split})
    assert (await _state(lab, 1), await _state(lab, 2)) == ("live", "live")
    await lab.post("/variants/acme~toys/releases", {"shares": [{"version": 2, "percent": 100}]})
    back = await lab.post("/variants/acme~toys/rollback")
    assert back["release"]["shares"] == split
    await lab.post("/variants/acme~toys/deprecate", {})
    assert await _state(lab, 1) == "sunset"
    answer = await _resolution(db)
    assert isinstance(answer, windows.Open)
    assert answer.phase is windows.Phase.SUNSET
    await lab.post("/variants/acme~toys/retire")
    assert isinstance(await _resolution(db), windows.Gone)
    assert await _state(lab, 1) == "retired"
    again = await lab.post("/variants/acme~toys/rollback")
    assert again["release"]["shares"] == split, "a retirement is taken back"
    assert await _state(lab, 1) == "live"


async def test_a_scheduled_version_is_hidden_until_its_second_and_can_be_withdrawn(
    db: Database, two_versions: Lab
) -> None:
    lab = two_versions
    await lab.post("/variants/acme~toys/releases", {"shares": [{"version": 1, "percent": 100}]})
    opens = await store.now(db) + timedelta(hours=1)
    window = {
        "preview_from": (opens - timedelta(minutes=30)).isoformat(),
        "preview_organizations": ["blue"],
        "public_from": opens.isoformat(),
        "prewarm_replicas": 2,
    }
    made = await lab.post(
        "/variants/acme~toys/releases", {"shares": [{"version": 2, "percent": 100}], "window": window}
    )
    assert await _state(lab, 2) == "scheduled"
    rows = await store.load_catalog(db)

    def version_at(who: str, when: Any) -> int:
        answer = windows.resolve(rows.releases, OrganizationName(who), when)
        assert isinstance(answer, windows.Open)
        return answer.release.shares[0].version

    assert version_at("blue", opens - timedelta(minutes=31)) == 1
    assert (
        version_at("blue", opens - timedelta(minutes=1)),
        version_at("red", opens - timedelta(minutes=1)),
    ) == (2, 1)
    assert version_at("red", opens) == 2

    gone = await lab.ask("DELETE", f"/variants/acme~toys/releases/{made['release']['id']}")
    assert gone.status_code == 200
    assert await _state(lab, 2) == "validated"
    again = await lab.ask("DELETE", f"/variants/acme~toys/releases/{made['release']['id']}")
    assert again.status_code == 404


async def test_what_was_live_then_agrees_with_a_replay_of_the_history(
    db: Database, two_versions: Lab
) -> None:
    lab = two_versions
    moments = [await store.now(db)]
    for shares in ([(1, 100)], [(1, 50), (2, 50)], [(2, 100)], [(1, 100)]):
        body = {"shares": [{"version": number, "percent": percent} for number, percent in shares]}
        await lab.post("/variants/acme~toys/releases", body)
        moments.append(await store.now(db))
    await lab.post("/variants/acme~toys/rollback")
    moments.append(await store.now(db))
    await lab.post("/variants/acme~toys/retire")
    moments.append(await store.now(db))
    async with db.sessions() as session:
        entries = [e for e in await history.read(session, subject="acme/toys") if e.kind == "release"]
    for when in moments:
        past = [entry.after for entry in entries if entry.at is not None and entry.at <= when]  # newest first
        expected = past[0] if past else None
        told = await lab.get(f"/variants/acme~toys/live?at={when.isoformat().replace('+', '%2B')}")
        if expected is None:
            assert told["phase"] == "embargo"
        elif "retired_from" in expected["window"]:
            assert told["phase"] == "retired"
        else:
            assert (told["phase"], told["shares"]) == ("public", expected["shares"])


NONSENSE: list[tuple[Any, int, str]] = [
    ({"shares": []}, 422, "shares: one version, or two different ones"),
    ({"shares": [{"version": 1, "percent": 60}]}, 422, "shares: percents are from 0 to 100 and add up to 100"),
    ({"shares": [{"version": 9, "percent": 100}]}, 422, "shares: version 9 does not exist or is not validated"),
    ({"shares": [{"version": 1, "percent": 100}], "window": {"public_from": "2020-01-01T00:00:00Z"}}, 422, "window.public_from: lies in the past"),
    ({"shares": [{"version": 1, "percent": 100}], "window": {"public_from": "2120-01-01T00:00:00"}}, 422, "window: public has no time zone"),
    ({"shares": [{"version": 1, "percent": 100}], "window": {"public_from": "2120-01-01T00:00:00Z", "prewarm_from": "2119-01-01T00:00:00", "prewarm_replicas": 1}}, 422, "window: prewarm_from has no time zone"),
    ({"shares": [{"version": 1, "percent": 100}], "window": {}}, 422, "window: it never opens"),
    ({"shares": [{"version": 1, "percent": 100}], "open": True}, 422, "body: Object contains unknown field `open`"),
    ({"shares": "all"}, 422, "shares: Expected `array`, got `str`"),
]  # fmt: skip


async def test_a_release_that_makes_no_sense_says_why(two_versions: Lab) -> None:
    for body, status, detail in NONSENSE:
        answer = await two_versions.ask("POST", "/variants/acme~toys/releases", body)
        assert answer.status_code == status, body
        assert detail in answer.json()["detail"]


async def test_an_organization_keeps_its_title_when_it_is_named_again(office: Office) -> None:
    operator = await office.lab("ops", "operate")
    made = [
        await operator.post("/organizations", body)
        for body in ({"name": "blue", "title": "Blue"}, {"name": "blue"}, {"name": "blue", "title": None})
    ]
    assert made == [{"name": "blue", "title": "Blue"}, {"name": "blue", "title": "Blue"}, {"name": "blue"}]
    changes = (await operator.get("/history?subject=blue"))["changes"]
    assert [
        (entry.get("before"), entry["after"]) for entry in changes if entry["kind"] == "organization"
    ] == [
        ({"name": "blue", "title": "Blue"}, {"name": "blue"}),
        (None, {"name": "blue", "title": "Blue"}),
    ]


async def test_a_price_is_checked_at_every_edit(lab: Lab) -> None:
    edits = ({"price": {"unit": "image", "amount": "NaN"}}, {"defaults": {"result_cache_price": "free"}})
    for edit in edits:
        answer = await lab.ask("PATCH", "/variants/acme~toys", edit, if_match='"1"')
        assert (answer.status_code, answer.json()["error"]) == (422, "InvalidRequestError")
    fresh = {"slug": "acme/dear", "model": "acme/toys", "task": "text-to-image", "input_schema": SCHEMA}
    answer = await lab.ask("POST", "/variants", fresh | {"price": {"unit": "image", "amount": "-1"}})
    assert answer.status_code == 422
    assert (await lab.get("/variants/acme~toys")).get("price") is None


async def test_what_no_column_holds_is_the_askers_fault(lab: Lab) -> None:
    assert (await lab.ask("POST", "/models", {"name": "acme/nul", "description": "a\0b"})).status_code == 422
    assert (await lab.ask("GET", "/variants/acme~toys/versions/99999999999")).status_code == 422
    assert (await lab.ask("GET", f"/history?below={10**30}")).status_code == 422
    for revision in ("²".encode("latin-1"), b"9" * 5000, b"-1"):
        answer = await lab.ask("PATCH", "/models/acme~toys", {"title": "x"}, if_match=revision)  # type: ignore[arg-type]
        assert answer.status_code == 428


async def test_a_draft_cannot_be_released(lab: Lab, toys: Path) -> None:
    upload = await admin.send_folder(lab, toys.parent / "toys")
    await lab.post("/variants/acme~toys/versions", {"source": {"kind": "upload", "location": upload}})
    answer = await lab.ask(
        "POST", "/variants/acme~toys/releases", {"shares": [{"version": 1, "percent": 100}]}
    )
    assert (answer.status_code, answer.json()["detail"]) == (
        409,
        "a version that is draft cannot become live",
    )


async def test_a_repeated_write_is_answered_and_not_repeated(lab: Lab) -> None:
    first = await lab.ask("POST", "/models", {"name": "acme/one"}, idempotency_key="k1")
    second = await lab.ask("POST", "/models", {"name": "acme/one"}, idempotency_key="k1")
    assert (first.status_code, second.status_code, first.json()) == (201, 201, second.json())
    other = await lab.ask("POST", "/models", {"name": "acme/two"}, idempotency_key="k1")
    assert (other.status_code, other.json()["title"]) == (422, "Idempotency-Key reused")
    taken = await lab.ask("POST", "/models", {"name": "acme/one"}, idempotency_key="k2")
    assert taken.status_code == 409
    assert (await lab.ask("POST", "/models", {"name": "acme/x"}, idempotency_key="")).status_code == 428


async def test_a_keys_token_is_shown_once(office: Office, lab: Lab) -> None:
    first = (await lab.ask("POST", "/keys", {"scopes": ["models:read"]}, idempotency_key="k")).json()
    second = (await lab.ask("POST", "/keys", {"scopes": ["models:read"]}, idempotency_key="k")).json()
    assert first["token"].startswith("mq_")
    assert second == first | {"token": None}
    rotated = await lab.post(f"/keys/{first['id']}/rotate")
    assert (await Lab(office.http, first["token"]).ask("GET", "/models")).status_code == 401
    assert (await Lab(office.http, rotated["token"]).ask("GET", "/models")).status_code == 200
    too_much = await lab.ask("POST", "/keys", {"scopes": ["operate"]})
    assert (too_much.status_code, too_much.json()["detail"]) == (403, "a key can give only the scopes it has")


async def test_a_weak_key_ends_no_stronger_one(office: Office, lab: Lab) -> None:
    """Who took the one could else shut out the others."""
    weak = await lab.post("/keys", {"scopes": ["models:publish"]})
    strong = await lab.post("/keys", {"scopes": ["models:publish", "models:read"]})
    thief = Lab(office.http, weak["token"])
    refused = await thief.ask("DELETE", f"/keys/{strong['id']}")
    assert (refused.status_code, refused.json()["detail"]) == (
        403,
        "a key can end only keys whose scopes it has",
    )
    assert (await Lab(office.http, strong["token"]).ask("GET", "/models")).status_code == 200
    assert (await thief.ask("DELETE", f"/keys/{weak['id']}")).status_code == 200


async def test_a_key_is_rotated_once_and_never_after_its_end(lab: Lab) -> None:
    first = await lab.post("/keys", {"scopes": ["models:read"]})
    both = await asyncio.gather(*(lab.ask("POST", f"/keys/{first['id']}/rotate") for _ in range(2)))
    assert sorted(answer.status_code for answer in both) == [201, 404]
    assert (await lab.ask("DELETE", f"/keys/{first['id']}")).status_code == 200
    assert (await lab.ask("POST", f"/keys/{first['id']}/rotate")).status_code == 404


async def test_concurrent_edits_are_caught(lab: Lab) -> None:
    tag = (await lab.ask("GET", "/variants/acme~toys")).headers["etag"]
    edited = await lab.ask("PATCH", "/variants/acme~toys", {"name": "Toys!"}, if_match=tag)
    assert (edited.status_code, edited.json()["name"]) == (200, "Toys!")
    late = await lab.ask("PATCH", "/variants/acme~toys", {"name": "Toys?"}, if_match=tag)
    assert late.status_code == 412
    assert (await lab.ask("PATCH", "/variants/acme~toys", {"name": "x"})).status_code == 428
    again = await lab.ask("PATCH", "/variants/acme~toys", {"name": None}, if_match=edited.headers["etag"])
    assert again.status_code == 200
    assert "name" not in again.json()


async def test_what_is_called_cannot_be_deleted(db: Database, two_versions: Lab) -> None:
    from registry import usage
    from registry.catalog import Slug
    from tests.integration.test_usage import _record

    record = _record(await store.now(db), slug=Slug("acme/toys"), organization=OrganizationName("blue"))
    async with db.transaction() as connection:
        await usage.record(connection, [record])
    refused = await two_versions.ask("DELETE", "/variants/acme~toys")
    assert (refused.status_code, refused.json()["detail"]) == (409, "acme/toys is still called by blue")
    assert (await two_versions.ask("DELETE", "/models/acme~toys")).status_code == 409


async def test_a_refused_version_says_why_and_can_be_validated_again(
    db: Database, office: Office, tmp_path: Path, toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "REPORT_SECONDS", 0.0)  # as if the end came at the time of a report
    lab = await office.lab("acme", "operate")
    await lab.post("/models", {"name": "acme/toys"})
    await lab.post(
        "/variants", {"slug": "acme/toys", "model": "acme/toys", "task": "t", "input_schema": SCHEMA}
    )
    folder = shutil.copytree(toys.parent / "toys", tmp_path / "bad")
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good + b"hidden")
    version = await admin.validated(lab, "acme/toys", {"kind": "path", "location": str(folder)})
    assert version["state"] == "rejected"
    assert version["report"]["error"] == "TrailingBytesError"
    assert (
        version["report"]["message"] == "6 bytes follow the last tensor (diffusion_pytorch_model.safetensors)"
    )
    weights.write_bytes(good)
    await lab.post("/variants/acme~toys/versions/1/validate")
    for _ in range(200):
        if await _state(lab, 1) == "validated":
            return
    raise AssertionError("not validated")


async def test_labs_name_no_folders_of_the_server(lab: Lab, toys: Path) -> None:
    source = {"kind": "path", "location": str(toys.parent / "toys")}
    answer = await lab.ask("POST", "/variants/acme~toys/versions", {"source": source})
    assert answer.status_code == 403
