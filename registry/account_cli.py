"""The commands `marquee requests` and `marquee usage`: what an organization called, and what it cost. Process edge."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from registry import account

OPERATOR_KEY = "operator_key"
WHOSE = "whose requests?"
PAGE = 500
as_csv = click.option("--csv", "shape", flag_value="csv", help="Print CSV.")
as_json = click.option("--json", "shape", flag_value="json", help="Print JSON.")
of_organization = click.option("--organization", help="Whose: for operators.")
since = click.option("--since", help="From when on, like 2026-12-01 (UTC).")


@click.command()
@click.option("--status", help="queued, running, succeeded, failed, cancelled; several with commas.")
@click.option("--slug", help="Of this variant only.")
@since
@click.option("--until", help="Before when, like 2026-12-01T09:00:00Z.")
@of_organization
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many.")
@as_csv
@as_json
@account.options("run or usage:read", OPERATOR_KEY)
def requests(
    url: str | None, key: str | None, home: Path, limit: int, shape: str | None, **filters: str | None
) -> None:
    """List an organization's requests, newest first, with what they cost; operators see everybody's."""
    whom = account.find(url, key, home, OPERATOR_KEY, WHOSE)
    query = {name: value for name, value in filters.items() if value}
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None and len(found) < limit:
        more = {"limit": str(min(PAGE, limit - len(found)))} | ({"cursor": cursor} if cursor else {})
        page = account.ask(whom, "/v1/requests", query | more).json()
        found += page["requests"]
        cursor = page["next_cursor"]
    show("Requests", found, REQUEST_COLUMNS, shape)


@click.command()
@click.option("--by", default="day,variant", show_default=True, help="day, variant, or both with a comma.")
@since
@click.option("--until", help="To which day, it included; default: today.")
@of_organization
@as_csv
@as_json
@account.options("usage:read", OPERATOR_KEY)
def usage(url: str | None, key: str | None, home: Path, shape: str | None, **filters: str | None) -> None:
    """Show what an organization used and spent, by day and variant; operators see everybody's."""
    whom = account.find(url, key, home, OPERATOR_KEY, "whose usage?")
    query = {name: value for name, value in filters.items() if value}
    found = account.ask(whom, "/v1/usage", query).json()
    show(f"Usage from {found['since']} to {found['until']}", found["usage"], USAGE_COLUMNS, shape)


REQUEST_COLUMNS = (
    "created_at", "organization", "slug", "status", "error", "wait_seconds", "load_seconds", "run_seconds",
    "amount", "currency", "id",
)  # fmt: skip
USAGE_COLUMNS = ("day", "slug", "requests", "failed", "images", "run_seconds", "amount", "currency")
NUMBERS = frozenset({"requests", "failed", "images", "amount"})


def show(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], shape: str | None) -> None:
    """Columns that no row fills are left out of the table for people; CSV and JSON keep them."""
    if shape == "json":
        click.echo(account.as_json(rows))
        return
    if shape == "csv":
        click.echo(_csv(rows, columns), nl=False)
        return
    filled = [name for name in columns if any(row.get(name) not in {None, ""} for row in rows)]
    table = Table(title=title, title_justify="left", box=None, header_style="dim")
    for name in filled:
        is_number = name in NUMBERS or name.endswith("_seconds")
        table.add_column(name.removesuffix("_at").replace("_", " "), justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(_cell(name, row.get(name)) for name in filled))
    account.console().print(table if rows else f"{title}: none")


def _csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.endswith("_at"):
        return str(value)[:19].replace("T", " ")
    if name.endswith("_seconds"):
        return f"{float(value):,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
