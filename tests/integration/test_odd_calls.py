"""Calls that nobody in their right mind makes: each is refused by name, and costs nobody else anything."""

from typing import Any

import pytest

from tests.live import Live

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROMPT = {"prompt": "a red circle on white"}


@pytest.mark.parametrize(
    ("more", "location"),
    [
        ({"seed": 1 << 64}, ["body", "seed"]),
        ({"loras": [{"path": "acme/toys-bent", "scale": 10**400}]}, ["body", "loras"]),
    ],
    ids=["seed", "scale"],
)
async def test_integers_that_the_link_cannot_carry_are_refused(
    live: Live, more: dict[str, Any], location: list[str]
) -> None:
    async with live.host().linked():
        answer = await live.client.post("/fal/run/acme/toys", json=PROMPT | more)
        detail = [{"loc": location, "msg": "integers have at most 64 bits", "type": "value_error"}]
        assert (answer.status_code, answer.json()) == (422, {"detail": detail})


async def test_what_cannot_be_sent_fails_and_holds_no_host(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    term = live.gateway.dispatcher.term
    async with live.host(slots=1).linked():
        with monkeypatch.context() as patch:
            patch.setattr(term.starts, "_send", None)
            answer = await live.client.post("/fal/run/acme/toys", json=PROMPT)
        assert (answer.status_code, answer.json()["error_type"]) == (500, "not_sent")
        assert (await live.client.post("/fal/run/acme/toys", json=PROMPT)).status_code == 200
        assert term.attempts == {}
