"""The commands over the ledger: `marquee demo-data`. Process edge: parses, calls one function, prints."""

import datetime as dt
from pathlib import Path

import click

from registry.cli import home_option, one_line_errors, open_database


@click.command("demo-data")
@home_option
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    default=200_000,
    show_default=True,
    help="About how many in the year.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Another seed, another year."
)
@click.option("--remove", is_flag=True, help="Take the made-up usage away again.")
@one_line_errors
async def demo_data(home: Path | None, requests: int, seed: int, remove: bool) -> None:  # noqa: FBT001  click passes flags so
    """Fill the ledger with a year of made-up usage, to look at dashboards with."""
    from registry import demo

    async with open_database(home) as db:
        if remove:
            click.echo(f"{await demo.remove(db):,} made-up rows are gone")
            return
        yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
        written = await demo.fill(db, requests=requests, last_day=yesterday, seed=seed)
        click.echo(
            f"{written:,} made-up requests over {demo.DAYS} days; `marquee demo-data --remove` takes them away"
        )
