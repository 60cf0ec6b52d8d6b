"""Work beside the calls begins anew when it fails, and ends with its process."""

import asyncio

import pytest

from router import background


async def test_what_fails_begins_anew_and_nothing_else_is_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PAUSE_SECONDS", 0.0)
    seen: list[str] = []
    again = asyncio.Event()

    async def failing() -> None:
        seen.append("began")
        if len(seen) == 2:
            again.set()
            await asyncio.Event().wait()
        raise RuntimeError("the database was away for longer than anybody waits")

    async def steady() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")

    async with background.going_on(failing, steady):
        await asyncio.wait_for(again.wait(), 5)
    assert seen == ["began", "began", "ended"]
