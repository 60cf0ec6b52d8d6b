"""Files that inputs name are sent first: plainly, and in the ways of fal's and Replicate's clients."""

import io
from pathlib import Path

import pytest
import replicate

from router import files
from router.clients import uploads
from tests.live import Live

PICTURE = b"\x89PNG and the rest"

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_plain_body_becomes_an_address(live: Live) -> None:
    sent = await live.client.post("/v1/files", content=PICTURE, headers={"content-type": "image/png"})
    stored = sent.json()
    assert (sent.status_code, stored["content_type"], stored["size_bytes"]) == (
        201,
        "image/png",
        len(PICTURE),
    )
    got = await live.visit(None).get(stored["url"])
    assert (got.content, got.headers["content-type"]) == (PICTURE, "image/png")


@pytest.mark.parametrize(
    ("declared", "name", "served"),
    [
        ("image/webp", "a.png", "image/webp"),
        ("", "clip.mp4", "video/mp4"),
        ("application/octet-stream", "style.safetensors", files.WEIGHTS),
        ("text/html", "a.html", files.OPAQUE),  # nothing that a browser would run under our name
        ("image/svg+xml", "a.svg", files.OPAQUE),
    ],
)
async def test_what_it_is_served_as(live: Live, declared: str, name: str, served: str) -> None:
    headers = {"content-type": declared, "x-file-name": name}
    stored = (await live.client.post("/v1/files", content=b"abc", headers=headers)).json()
    assert stored["content_type"] == served
    assert (await live.client.get(stored["url"])).headers["content-type"].startswith(served)


async def test_who_has_no_key_stores_nothing(live: Live) -> None:
    stranger = live.visit(None)
    assert (await stranger.post("/v1/files", content=PICTURE)).status_code == 401
    assert (await stranger.post("/fal/rest/storage/upload/initiate", json={})).status_code == 401
    assert (await stranger.put("/fal/rest/storage/upload/made.up.00", content=PICTURE)).status_code == 401
    assert (await live.client.post("/v1/files", content=b"")).status_code == 400


async def test_what_is_too_large_leaves_nothing(
    live: Live, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "LIMIT_BYTES", 1000)
    refused = await live.client.post("/v1/files", content=b"x" * 1001)
    assert (refused.status_code, [*(home / "files" / "drafts").iterdir()]) == (413, [])


async def test_a_full_disk_is_told_by_name(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: files.Draft, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.Draft, "write", full)
    refused = await live.client.post("/v1/files", content=PICTURE)
    assert refused.status_code == 507
    assert "No space left on device" in refused.text


async def test_fals_clients_ask_for_an_address_and_send_without_a_key(live: Live) -> None:
    asked = {"file_name": "a.png", "content_type": "image/png"}
    told = (await live.client.post("/fal/rest/storage/upload/initiate", json=asked)).json()
    assert (await live.client.get(told["file_url"])).status_code == 404
    for content in (PICTURE, b"another"):  # files never change
        sent = await live.visit(None).put(told["upload_url"], content=content)
        assert (sent.status_code, sent.json()["url"]) == (200, told["file_url"])
    assert (await live.client.get(told["file_url"])).content == PICTURE
    bent = told["upload_url"][:-2] + ("00" if told["upload_url"][-2:] != "00" else "11")
    assert (await live.client.put(bent, content=PICTURE)).status_code == 401


async def test_replicates_client_sends_open_files_by_itself(live: Live) -> None:
    client = replicate.Client(api_token=live.key, base_url=f"{live.url}/replicate")
    stored = await client.files.async_create(io.BytesIO(PICTURE), filename="a.png", content_type="image/png")
    assert (stored.name, stored.size, stored.content_type) == ("a.png", len(PICTURE), "image/png")
    assert (await live.client.get(stored.urls["get"])).content == PICTURE
