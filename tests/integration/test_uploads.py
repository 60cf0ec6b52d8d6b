"""Uploads go on where they stopped, are believed when they match, and refuse a pickle at its first chunk."""

import hashlib
import pickle
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from registry import upload_space, uploads
from registry.catalog import FileRef
from registry.database import Database
from registry.errors import UploadError
from tests import admin
from tests.admin import Lab


@pytest.fixture
async def lab(db: Database, tmp_path: Path):
    async with admin.opened(db, tmp_path / "home") as office:
        yield await office.lab("acme")


def _announce(path: str, content: bytes) -> dict[str, Any]:
    return {"path": path, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


async def test_an_interrupted_upload_goes_on_where_it_stopped(lab: Lab, toys: Path) -> None:
    content = (toys.parent / "toys" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    path = "vae/diffusion_pytorch_model.safetensors"
    upload = await lab.post("/uploads", {"files": [_announce(path, content)]})
    place = f"/uploads/{upload['id']}/files?path={path}"
    first = await lab.ask("PUT", place, content[:1000])
    assert (first.json()["received_bytes"], first.json()["verified"]) == (1000, False)

    repeated = await lab.ask("PUT", place, content[:1000])
    assert (repeated.status_code, "goes on at byte 1000" in repeated.json()["detail"]) == (409, True)
    seen = (await lab.get(f"/uploads/{upload['id']}"))["files"][0]
    assert seen["received_bytes"] == 1000

    rest = await lab.ask("PUT", f"{place}&offset=1000", content[1000:])
    assert (rest.json()["received_bytes"], rest.json()["verified"]) == (len(content), True)
    assert (await lab.get(f"/uploads/{upload['id']}"))["complete"] is True
    again = await lab.ask("PUT", place, content)
    assert again.json()["verified"] is True, "what is there already is not sent twice"


@pytest.mark.parametrize(
    ("path", "content", "announced", "title"),
    [
        ("a.safetensors", pickle.dumps(list(range(100))), None, "this is a pickle, not safetensors"),
        ("a.json", b"{}", b"[]", "announced sha256"),
        ("a.safetensors", b"\2\0\0\0\0\0\0\0{}tail", None, "4 bytes follow the last tensor"),
    ],
)
async def test_what_is_not_believed_is_deleted(
    lab: Lab, path: str, content: bytes, announced: bytes | None, title: str
) -> None:
    upload = await lab.post(
        "/uploads", {"files": [_announce(path, content if announced is None else announced)]}
    )
    answer = await lab.ask("PUT", f"/uploads/{upload['id']}/files?path={path}", content)
    assert (answer.status_code, title in answer.json()["detail"]) == (422, True)
    assert (await lab.get(f"/uploads/{upload['id']}"))["files"][0]["received_bytes"] == 0


async def test_more_than_was_announced_is_refused(lab: Lab) -> None:
    upload = await lab.post("/uploads", {"files": [_announce("a.json", b"{}")]})
    answer = await lab.ask("PUT", f"/uploads/{upload['id']}/files?path=a.json", b"{} and more")
    assert answer.status_code == 409


@pytest.mark.parametrize(
    "path",
    ["../a.json", "/etc/a.json", "a//b.json", "./a.json", "a.bin", "a.safetensors.pt", "x/../../a.json", ""],
)
async def test_paths_that_lead_elsewhere_are_refused(lab: Lab, path: str) -> None:
    answer = await lab.ask("POST", "/uploads", {"files": [_announce(path, b"{}")]})
    assert (answer.status_code, answer.json()["detail"].startswith("files.path")) == (422, True)


@pytest.mark.parametrize(
    ("first", "second"),
    [("a.json", "a.json/b.json"), ("a.json", "a.json.part/b.json"), ("x/a.json", "x/a.json/y/b.txt")],
)
async def test_no_file_is_another_ones_folder(lab: Lab, first: str, second: str) -> None:
    """A folder that lies where a file should would pass for the file, unread."""
    answer = await lab.ask("POST", "/uploads", {"files": [_announce(first, b"{}"), _announce(second, b"{}")]})
    assert (answer.status_code, answer.json()["detail"].endswith("would be a file and a folder")) == (
        422,
        True,
    )


async def test_a_name_that_no_file_system_holds_is_refused(lab: Lab) -> None:
    answer = await lab.ask("POST", "/uploads", {"files": [_announce("é" * 130 + ".json", b"{}")]})
    assert answer.status_code == 422


async def test_a_full_disk_is_named_and_what_arrived_stays(db: Database, tmp_path: Path) -> None:
    async with admin.opened(db, tmp_path / "home") as office:
        lab = await office.lab("acme")
        upload = await lab.post("/uploads", {"files": [_announce("a.json", b"[1, 2]")]})
        place = f"/uploads/{upload['id']}/files?path=a.json"
        assert (await lab.ask("PUT", place, b"[1,")).status_code == 200
        part = tmp_path / "home" / "uploads" / upload["id"] / "a.json.part"
        aside = part.rename(part.with_name("aside"))
        part.symlink_to("/dev/full")
        full = await lab.ask("PUT", place, b"[1,")
        told = (
            "a.json cannot be stored: No space left on device; what arrived is kept, go on when there is room"
        )
        assert (full.status_code, full.json()["detail"]) == (507, told)
        aside.rename(part)
        rest = await lab.ask("PUT", f"{place}&offset=3", b" 2]")
        assert rest.json()["verified"] is True


async def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    file = FileRef(path="a.json", size_bytes=4, sha256=hashlib.sha256(b"{  }").hexdigest())

    async def chunks() -> AsyncIterator[bytes]:
        yield b"{ "
        with pytest.raises(UploadError, match="another request is writing this file"):
            await uploads.receive(tmp_path, "u", file, 2, _nothing())
        yield b" }"

    assert (await uploads.receive(tmp_path, "u", file, 0, chunks())).verified


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def test_uploads_have_a_quota_and_room_is_made_by_removing(
    db: Database, tmp_path: Path, toys: Path
) -> None:
    folder, home = toys.parent / "toys", tmp_path / "home"
    size = sum(file["size_bytes"] for file in admin.announced(folder))
    async with admin.opened(db, home, upload_bytes=size + 10) as office:
        lab, other = await office.lab("acme"), await office.lab("blue")
        kept = await admin.send_folder(lab, folder)
        await lab.post("/models", {"name": "acme/toys"})
        await lab.post(
            "/variants",
            {"slug": "acme/toys", "model": "acme/toys", "task": "t", "input_schema": {"type": "object"}},
        )
        await admin.validated(lab, "acme/toys", {"kind": "upload", "location": kept})
        small = (await lab.post("/uploads", {"files": [_announce("a.json", b"[1, 2]")]}))["id"]
        body = {"files": [_announce("b.json", b"[1, 2]")]}
        refused = await lab.ask("POST", "/uploads", body)
        assert (refused.status_code, refused.json()["error"]) == (413, "QuotaError")
        assert refused.json()["detail"] == (
            f"the uploads of acme hold {size + 6:,} of {size + 10:,} bytes, and this one is 6: remove what no version"
            " needs (`marquee publish uploads`), or have the operator raise MARQUEE_UPLOAD_BYTES"
        )
        await other.post("/uploads", body)
        found = await lab.get("/uploads")
        assert found["space"] == {"used_bytes": size + 6, "allowed_bytes": size + 10}
        assert [(one["id"], one["size_bytes"], one["versions"]) for one in found["uploads"]] == [
            (kept, size, ["acme/toys@1"]),
            (small, 6, []),
        ]
        in_use = await lab.ask("DELETE", f"/uploads/{kept}")
        assert (in_use.status_code, "acme/toys@1" in in_use.json()["detail"]) == (409, True)
        await lab.ask("PUT", f"/uploads/{small}/files?path=a.json", b"[1, 2]")
        assert (await lab.ask("DELETE", f"/uploads/{small}")).status_code == 200
        assert [path.name for path in (home / "uploads").iterdir()] == [kept]
        assert (await lab.ask("POST", "/uploads", body)).status_code == 201


async def test_uploads_that_nothing_is_made_of_are_forgotten_after_a_while(
    db: Database, lab: Lab, tmp_path: Path, toys: Path
) -> None:
    home = tmp_path / "home"
    used = await admin.send_folder(lab, toys.parent / "toys")
    await lab.post("/models", {"name": "acme/toys"})
    await lab.post(
        "/variants",
        {"slug": "acme/toys", "model": "acme/toys", "task": "t", "input_schema": {"type": "object"}},
    )
    await admin.validated(lab, "acme/toys", {"kind": "upload", "location": used})
    given_up, fresh = [
        (await lab.post("/uploads", {"files": [_announce("a.json", b"[1]")]}))["id"] for _ in range(2)
    ]
    await lab.ask("PUT", f"/uploads/{given_up}/files?path=a.json", b"[1]")
    async with db.pool.connection() as connection:
        await connection.execute(
            "UPDATE uploads SET created_at = now() - interval '31 days' WHERE id <> %s", [fresh]
        )
    async with db.sessions.begin() as session:
        assert await upload_space.forget(session, home, timedelta(days=30)) == 1
    assert [one["id"] for one in (await lab.get("/uploads"))["uploads"]] == [used, fresh]
    assert [path.name for path in (home / "uploads").iterdir()] == [used]
