"""fal's own Python client against the gateway: only its address is changed, no code of it."""

import asyncio

import fal_client
import fal_client.client
import pytest

from tests.live import Live

pytestmark = pytest.mark.asyncio(loop_scope="module")
ARGUMENTS = {"prompt": "a red circle on white", "seed": 7}


@pytest.fixture
def client(live: Live, monkeypatch: pytest.MonkeyPatch) -> fal_client.AsyncClient:
    monkeypatch.setattr(fal_client.client, "RUN_URL_FORMAT", f"{live.url}/fal/run/")
    monkeypatch.setattr(fal_client.client, "QUEUE_URL_FORMAT", f"{live.url}/fal/queue/")
    return fal_client.AsyncClient(key=live.key)


async def test_run(live: Live, client: fal_client.AsyncClient) -> None:
    async with live.host().linked():
        answer = await client.run("acme/toys/late", arguments=ARGUMENTS)
    assert answer["seed"] == 7


async def test_submit_status_result(live: Live, client: fal_client.AsyncClient) -> None:
    handle = await client.submit("acme/toys", arguments=ARGUMENTS)
    assert await client.get_handle("acme/toys", handle.request_id) == handle
    assert await handle.status() == fal_client.Queued(position=0)
    async with live.host().linked():
        assert (await handle.get())["seed"] == 7
        assert isinstance(await handle.status(), fal_client.Completed)


async def test_stream_gives_the_answer_as_its_event(live: Live, client: fal_client.AsyncClient) -> None:
    async with live.host().linked():
        events = [event async for event in client.stream("acme/toys", arguments=ARGUMENTS)]
    assert [event["seed"] for event in events] == [7]


async def test_subscribe_sees_events(live: Live, client: fal_client.AsyncClient) -> None:
    seen: list[object] = []
    async with live.host().linked() as host:
        host.release.clear()
        asyncio.get_running_loop().call_later(0.5, host.release.set)
        answer = await client.subscribe(
            "acme/toys", arguments=ARGUMENTS, with_logs=True, on_queue_update=seen.append
        )
    assert answer["seed"] == 7
    assert any(isinstance(event, fal_client.InProgress) for event in seen)


async def test_cancel(live: Live, client: fal_client.AsyncClient) -> None:
    handle = await client.submit("acme/toys", arguments=ARGUMENTS)
    await handle.cancel()
    with pytest.raises(fal_client.FalClientHTTPError) as error:
        await handle.get()
    assert error.value.status_code == 499


async def test_bad_input_names_the_field(live: Live, client: fal_client.AsyncClient) -> None:
    with pytest.raises(fal_client.FalClientHTTPError) as error:
        await client.run("acme/toys", arguments={"prompt": ""})
    assert error.value.status_code == 422
    assert "prompt" in str(error.value.message)
