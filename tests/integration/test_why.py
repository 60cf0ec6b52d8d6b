"""`marquee why` from the database and through a gateway: for the owner and operators, nobody else."""

import asyncio
from pathlib import Path

import msgspec
from click.testing import CliRunner, Result

from registry import keys
from registry.database import Database
from router.cli import marquee
from router.explanation import Fate
from tests.live import furnish, serving

PROMPT = {"prompt": "a red circle on white", "seed": 7}


async def why(*arguments: str, dsn: str = "", **settings: str) -> Result:
    environment = {"MARQUEE_DATABASE_URL": dsn, "MARQUEE_TEST_CLUSTER": None, "COLUMNS": "140"} | settings
    return await asyncio.to_thread(CliRunner().invoke, marquee, ["why", *arguments], env=environment)


def told(result: Result) -> str:
    """Without what the gateway in this process logged meanwhile."""
    return result.output[result.output.index("acme/toys for customer") :]


async def test_why_tells_owner_and_operator(dsn: str, tmp_path: Path) -> None:
    tokens = await furnish(dsn)
    async with Database.open(dsn, connections=2) as db:
        operator = (await keys.create(db, "operator", ["operate"])).token
        reader = (await keys.create(db, "customer", ["usage:read"])).token
    async with serving(dsn, tmp_path, tokens) as live, live.host("one").linked(), live.host("two").linked():
        answer = await live.client.post("/fal/run/acme/toys", json=PROMPT)
        request_id = answer.headers["x-fal-request-id"]
        read = await why(request_id, "--home", str(tmp_path), dsn=dsn)
        for text in (read.output, (await why(request_id, "--url", live.url, "--key", live.key)).output):
            assert "acme/toys for customer" in text
            assert "Why there: the cheapest host, and it can take it" in text
            assert "really" in text
        asked = await why(request_id, "--url", live.url, "--key", operator)
        assert told(asked) == told(read)
        named = await why(request_id, "--json", MARQUEE_URL=live.url, MARQUEE_KEY=operator)
        fate = msgspec.json.decode(named.output[named.output.index("{\n") :], type=Fate)
        assert (fate.status.request.id, len(fate.attempts or ())) == (request_id, 1)
        for key, code in ((live.stranger, 404), (reader, 403), ("mq_nobody", 401)):
            refused = await why(request_id, "--url", live.url, "--key", key)
            assert (refused.exit_code, f"answers {code}" in refused.output) == (1, True), refused.output
    missing = await why("not-an-id", "--home", str(tmp_path), dsn=dsn)
    assert "no request not-an-id" in str(missing.exception)
