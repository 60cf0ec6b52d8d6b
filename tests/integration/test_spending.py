"""`GET /v1/usage`, `marquee usage` and `marquee requests`: sums of the ledger, of one's own organization only."""

import asyncio
import csv
import datetime as dt
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from registry import keys, rollups, spending
from registry.catalog import Caller, OrganizationName, Scope
from registry.database import Database
from registry.errors import AccessError, InvalidRequestError
from router.cli import marquee
from tests.integration.test_rollups import ledger, write
from tests.live import Live, furnish, serving

TODAY = dt.date(2026, 11, 23)  # of `ledger`
EVERYTHING = {"since": "2026-11-01", "until": "2026-11-30"}


def caller(organization: str, *scopes: Scope) -> Caller:
    return Caller(organization=OrganizationName(organization), key_id="k", scopes=frozenset(scopes))


@pytest.mark.parametrize("by", ["day,variant", "day", "variant"])
@pytest.mark.parametrize(
    ("who", "given", "where"),
    [
        (caller("acme", "usage:read"), {}, "organization = 'acme'"),
        (caller("ops", "operate"), {}, "true"),
        (caller("ops", "operate"), {"organization": "blue"}, "organization = 'blue'"),
        (caller("nobody", "usage:read"), {}, "false"),
    ],
)
async def test_lines_are_sums_of_the_ledger(
    db: Database, who: Caller, given: dict[str, str], where: str, by: str
) -> None:
    await write(db, ledger(21, 150))
    await rollups.fold(db)
    found = await spending.lines(db, spending.question(who, given | EVERYTHING | {"by": by}, TODAY))
    keys_of = {"day": "finished_at::date", "variant": "slug"}
    columns = ", ".join(f"{keys_of[name] if name in by else 'NULL'} AS {name}" for name in keys_of)
    query = (
        f"SELECT {columns}, count(*) AS requests, count(*) FILTER (WHERE state = 'failed') AS failed, sum(amount), 'USD' AS currency"
        f" FROM usage_records WHERE {where} GROUP BY 1, 2 HAVING count(*) > 0"
    )
    async with db.pool.connection() as connection:
        rows = await (await connection.execute(query.encode())).fetchall()
    expected = {tuple(row.values()) for row in rows}
    told = {
        (line.day, line.variant, line.requests, line.failed, line.amount, line.currency) for line in found
    }
    assert (told, len(found)) == (expected, len(expected))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"days": "3"}, "days"),
        ({"by": "hour"}, "by"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-11-24", "until": "2026-11-23"}, "since"),
        ({"since": "2020-01-01"}, "since"),
        ({"until": "0001-01-05"}, "until"),
    ],
)
def test_a_question_that_says_nothing_is_refused(given: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        spending.question(caller("acme", "usage:read"), given, TODAY)
    assert refused.value.field == field


def test_only_operators_ask_for_others() -> None:
    with pytest.raises(AccessError):
        spending.question(caller("acme", "usage:read"), {"organization": "blue"}, TODAY)


async def command(live: Live, key: str, *arguments: str) -> Result:
    environment = {"MARQUEE_URL": live.url, "MARQUEE_KEY": key}
    return await asyncio.to_thread(CliRunner().invoke, marquee, arguments, env=environment)


def shaped(result: Result) -> list[dict[str, Any]]:
    """Without what the gateway in this process logged meanwhile."""
    assert result.exit_code == 0, result.output
    return list(json.loads(result.stdout[result.stdout.index("[\n") :]))


async def test_commands_tell_customers_their_own_and_operators_everything(dsn: str, tmp_path: Path) -> None:
    tokens = await furnish(dsn)
    async with Database.open(dsn, connections=2) as db:
        operator = (await keys.create(db, "operator", ["operate"])).token
        reader = (await keys.create(db, "customer", ["usage:read"])).token
        async with serving(dsn, tmp_path, tokens) as live, live.host().linked():
            await live.client.post("/fal/run/acme/toys", json={"prompt": "a"})
            async with live.visit(live.stranger) as stranger:
                await stranger.post("/fal/run/acme/toys", json={"prompt": "b"})
            await rollups.fold(db)
            for key, organizations, amount in (
                (reader, ["customer"], "0.01"),
                (operator, ["stranger", "customer"], "0.02"),
            ):
                requests = shaped(await command(live, key, "requests", "--json"))
                assert [line["organization"] for line in requests] == organizations
                (line,) = shaped(await command(live, key, "usage", "--by", "variant", "--json"))
                told = {name: line.get(name) for name in ("slug", "amount", "currency", "day")}
                assert told == {"slug": "acme/toys", "amount": amount, "currency": "USD", "day": None}
            text = (await command(live, reader, "usage")).output
            assert ("acme/toys" in text, "0.01" in text, "organization" in text) == (True, True, False)
            table = (await command(live, reader, "requests", "--csv", "--limit", "1")).stdout
            (row,) = csv.DictReader(io.StringIO(table[table.index("created_at,") :]))
            assert (row["organization"], row["status"], row["amount"]) == ("customer", "succeeded", "0.01")
            exported = await live.client.get("/v1/usage", params={"format": "csv"})
            assert exported.status_code == 403  # the key may run, not read figures
            refused = await command(live, reader, "usage", "--organization", "stranger")
            assert (refused.exit_code, "only operators act for another" in refused.output) == (1, True)
            async with live.visit(reader) as own:
                exported = await own.get("/v1/usage", params={"format": "csv", "by": "day"})
            (line,) = csv.DictReader(io.StringIO(exported.text))
            assert (line["requests"], line["amount"], line["variant"]) == ("1", "0.01", "")
