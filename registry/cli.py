"""The commands `marquee catalog …` and `marquee key …`. Process edge: parses, calls one function, prints.

An error of ours is one line on stderr and exit code 1.
"""

import asyncio
import functools
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import click

from registry.catalog import Manifest, Scope, Source
from registry.errors import FolderError, NoDatabaseError, RegistryError
from registry.settings import Settings

CATALOG_FILE = Path("catalog.yaml")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
Command = Callable[..., Awaitable[None]]


def one_line_errors(command: Command) -> Callable[..., None]:
    """Runs an async command; our errors become one line, everything else is a bug and shows itself."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            asyncio.run(command(*args, **kwargs))  # type: ignore[arg-type]
        except RegistryError as error:
            notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
            raise click.ClickException(f"{error}{notes}") from error

    return run


home_option = click.option(
    "--home", type=click.Path(path_type=Path), help="Where all state lies (default .marquee)."
)
file_option = click.option(
    "--file",
    type=click.Path(path_type=Path),
    default=CATALOG_FILE,
    show_default=True,
    help="The catalogue file.",
)


@asynccontextmanager
async def open_database(home: Path | None) -> AsyncIterator[Any]:
    """The settings' database, migrated; the embedded one is started when needed and left running if it ran before.

    Raises `NoDatabaseError`: a mistyped home shall not become a new one, with keys that open nothing.
    """
    from registry import database, postgres

    settings = Settings.from_environment(os.environ, home=home)
    starts_one = settings.database_url is None and postgres.pid(settings.home) is None
    dsn = settings.database_url
    if dsn is None and not await asyncio.to_thread(postgres.exists, settings.home):
        raise NoDatabaseError(settings.home.expanduser().resolve())
    if dsn is None:
        dsn = await asyncio.to_thread(postgres.ensure, settings.home)
    try:
        await asyncio.to_thread(database.migrate, dsn)
        async with database.Database.open(dsn, connections=2) as db:
            yield db
    finally:
        if starts_one:
            await asyncio.to_thread(postgres.stop, settings.home)


@click.group()
def catalog() -> None:
    """The catalogue: what a file declares, made true."""


@catalog.command()
@file_option
@one_line_errors
async def check(file: Path) -> None:
    """Read the file and its folders; touch no database."""
    from registry import apply

    found = apply.read_file(file)
    click.echo(
        f"{file}: {len(found.models)} models, {len(found.variants)} variants, {len(found.adapters)} adapters: good"
    )


@catalog.command()
@file_option
@home_option
@one_line_errors
async def plan(file: Path, home: Path | None) -> None:
    """Show what `apply` would change."""
    from registry import apply, diff

    desired = apply.read_file(file)
    async with open_database(home) as db:
        for line in diff.describe(await apply.plan(db, desired)):
            click.echo(line)


@catalog.command("apply")
@file_option
@home_option
@click.option(
    "--remove", multiple=True, metavar="SLUG", help="Remove this variant even though it is still called."
)
@one_line_errors
async def apply_(file: Path, home: Path | None, remove: tuple[str, ...]) -> None:
    """Make the catalogue say what the file says, in one transaction."""
    from registry import apply, diff

    desired = apply.read_file(file)
    async with open_database(home) as db:
        for line in diff.describe(await apply.apply(db, desired, confirmed=remove)):
            click.echo(line)


@catalog.command()
@home_option
@one_line_errors
async def export(home: Path | None) -> None:
    """Print the whole catalogue as YAML, labs' entries included."""
    from registry import export as exporting

    async with open_database(home) as db:
        click.echo(await exporting.export(db), nl=False)


@catalog.command(short_help="Ask the Hub what its repositories hold.")
@file_option
@one_line_errors
async def pin(file: Path) -> None:
    """Ask the Hub for revisions, files, sizes and digests; `apply` then makes versions of them."""
    from rich import progress
    from rich.console import Console

    from registry import apply, hub, pinning

    settings = Settings.from_environment(os.environ)
    declared, known = apply.read_file(file), pinning.read(file)
    endpoint = hub.Endpoint(url=settings.hub_endpoint, token=settings.hub_token)
    with progress.Progress(console=Console(stderr=True)) as bar:
        asking = bar.add_task("pinning", total=sum(entry.source is not None for entry in declared.variants))
        _, outcome = await pinning.pin(
            declared,
            known,
            endpoint,
            keep=lambda pins: pinning.write(file, pins),
            tell=lambda slug: bar.advance(asking),
        )
    for slug, reason in outcome.failed.items():
        click.echo(f"! {slug}: {reason}", err=True)
    click.echo(f"{outcome.pinned} pinned, {outcome.known} known already, {len(outcome.failed)} not to be had")


@click.command()
@click.argument("place", metavar="PATH|OWNER/REPO[@REVISION]")
@click.option("--home", type=click.Path(path_type=Path), help="Compare with the catalogue that lies here.")
@one_line_errors
async def inspect(place: str, home: Path | None) -> None:
    """Print a pipeline's manifest: architecture, components, sizes, and what the catalogue has already."""
    settings = Settings.from_environment(os.environ, home=home)
    found = await asyncio.to_thread(_manifest, place, settings)
    known = await _known_digests(home) if home is not None else frozenset()
    click.echo(f"{found.pipeline_class}  {found.digest}\narchitecture {found.architecture}")
    for part in found.components:
        share = "  (in the catalogue already)" if part.digest in known else ""
        click.echo(
            f"  {part.name:<18} {part.class_name:<32} {part.dtype or '':<9} {part.size_bytes:>15,}{share}"
        )
    click.echo(f"  {'total':<61} {found.size_bytes:>15,}")


def _manifest(place: str, settings: Settings) -> Manifest:
    """Needs no server's packages: labs look at their folders with it. Raises `CatalogError`s, `WeightsError`s."""
    from registry import folders, hub

    source = _source(place)
    if source.kind == "path":
        tree: folders.Tree = folders.Folder(Path(place))
    else:
        tree = hub.Repository(hub.Endpoint(url=settings.hub_endpoint, token=settings.hub_token), source)
    found = folders.read_tree(tree, source)
    folders.parts_of(tree, found)  # its configs are JSON, its headers are sound
    return found


def _source(place: str) -> Source:
    """Whatever is no folder and cannot be a repository is a folder mistyped. Raises `FolderError`."""
    if Path(place).is_dir():
        return Source(kind="path", location=place)
    repository, _, revision = place.partition("@")
    if Path(place).exists() or not REPOSITORY.fullmatch(repository):
        raise FolderError(place, "no folder, and no repository on the Hub (owner/repo)")
    return Source(kind="hub", location=repository, revision=revision or None)


async def _known_digests(home: Path) -> frozenset[str]:
    from registry import store

    async with open_database(home) as db:
        rows = await store.load_catalog(db)
    return frozenset(part.digest for version in rows.versions for part in version.manifest.components)


@click.command()
@home_option
@one_line_errors
async def migrate(home: Path | None) -> None:
    """Bring the database up to date with this release; `marquee up` does so by itself."""
    async with open_database(home):
        click.echo("the database is up to date")


@click.group()
def key() -> None:
    """API keys."""


@key.command("create")
@click.argument("organization")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(get_args(Scope)), required=True)
@click.option("--title", help="What the key is for.")
@home_option
@one_line_errors
async def create_key(
    organization: str, scopes: tuple[Scope, ...], title: str | None, home: Path | None
) -> None:
    """Make a key and print it, this once."""
    from registry import keys

    async with open_database(home) as db:
        made = await keys.create(db, organization, scopes, title=title)
    click.echo(made.token)


@key.command("list")
@click.option("--organization")
@home_option
@one_line_errors
async def list_keys(organization: str | None, home: Path | None) -> None:
    """Print all keys without their secrets."""
    from registry import keys

    async with open_database(home) as db:
        for row in await keys.listing(db, organization):
            state = f"revoked {row.revoked_at:%Y-%m-%d %H:%M}" if row.revoked_at else "valid"
            click.echo(
                f"{row.id}  {row.organization}  {','.join(row.scopes)}  {state}  {row.title or ''}".rstrip()
            )


@key.command("revoke")
@click.argument("key_id")
@home_option
@one_line_errors
async def revoke_key(key_id: str, home: Path | None) -> None:
    """Make a key invalid everywhere."""
    from registry import keys

    async with open_database(home) as db:
        await keys.revoke(db, key_id)
    click.echo(f"{key_id} is revoked")
