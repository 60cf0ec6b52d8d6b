"""The command `marquee gateway`: one gateway by itself, where `marquee up` is outgrown. Process edge."""

import os
from pathlib import Path

import click

from registry.settings import Settings


@click.command()
@click.option("--home", type=click.Path(path_type=Path), help="Files and secrets; all gateways share it.")
@click.option("--host", "bind", help="Address to listen on (default 127.0.0.1).")
@click.option("--port", type=click.IntRange(1, 65535), help="Default 8080.")
@click.pass_context
def gateway(context: click.Context, home: Path | None, bind: str | None, port: int | None) -> None:
    """Serve calls, pages and hosts until stopped; of a pool's gateways one dispatches, the others stand by."""
    from registry import database, postgres
    from router import gateway as process

    settings = Settings.from_environment(os.environ, home=home, host=bind, port=port)
    database.check_schema(settings.database_url or postgres.ensure(settings.home))
    context.exit(process.serve(settings))
