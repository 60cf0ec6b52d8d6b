"""What a gateway has beside its doors: links that need a key, files, health, the page. A real server and real hosts' links."""

import asyncio

import pytest

from tests.live import Live

PROMPT = {"prompt": "a red circle on white", "seed": 7}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(("key", "code"), [("mq_wrong", 4401), (None, 4401)])
async def test_links_need_a_hosts_key(live: Live, key: str | None, code: int) -> None:
    host = live.host()
    host.key = key or live.key
    async with host.linked():
        for _ in range(100):
            if host.close_code is not None:
                break
            await asyncio.sleep(0.01)
    assert host.close_code == code


async def test_files_serve_ranges_and_revalidate(live: Live) -> None:
    async with live.host().linked():
        answer = await live.client.post("/fal/run/acme/toys", json=PROMPT)
    url = answer.json()["images"][0]["url"]
    whole = await live.client.get(url)
    assert (whole.headers["content-type"], whole.headers["x-content-type-options"]) == (
        "image/png",
        "nosniff",
    )
    part = await live.client.get(url, headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, b"PNG")
    assert part.headers["content-range"] == f"bytes 1-3/{len(whole.content)}"
    assert (await live.client.get(url, headers={"Range": "bytes=999999-"})).status_code == 416
    again = await live.client.get(url, headers={"If-None-Match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await live.client.get("/files/20260101-0")).status_code == 404


async def test_health_counts_hosts(live: Live) -> None:
    async with live.host().linked():
        health = (await live.client.get("/healthz")).json()
    assert (health["status"], health["dispatcher"], health["hosts"]) == ("ok", "active", 1)


async def test_page_opens(live: Live) -> None:
    answer = await live.client.get("/")
    assert answer.status_code == 200
    assert "acme/toys" in answer.text
