"""The commands of `marquee publish` that keep house: edit, remove, and the organization's own keys. Process edge."""

import json
from pathlib import Path
from typing import Any, get_args

import click

from registry.catalog import Scope
from registry.publish_client import Client
from registry.publish_options import NAME

KINDS = {"model": "models", "variant": "variants", "adapter": "adapters"}
REMOVABLE = KINDS | {"upload": "uploads"}


class _Field(click.ParamType[tuple[str, Any]]):
    """`name=value`; a value that is JSON counts as what it says, everything else as text; `@FILE` as the file's."""

    name = "field=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        field, sign, text = str(value).partition("=")
        if not sign or not field:
            self.fail(f"{value!r} is no field=value", param, ctx)
        if text.startswith("@"):
            text = self._read(text[1:], param, ctx)
        try:
            return field, json.loads(text)
        except ValueError:
            return field, text

    def _read(self, file: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return Path(file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"{file} cannot be read: {error}", param, ctx)


@click.command(short_help="Change what is said of a model, variant or adapter.")
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("name", type=NAME)
@click.argument("fields", nargs=-1, required=True, type=_Field())
@click.pass_obj
def edit(client: Client, kind: str, name: str, fields: tuple[tuple[str, Any], ...]) -> None:
    """Change what is said of a model, a variant or an adapter: `licence=mit`, `tags='["fast"]'`, `name=null`, `input_schema=@FILE`."""
    client.patch(client.place(KINDS[kind], name), dict(fields))
    click.echo(f"{kind} {name} changed")


@click.command()
@click.argument("kind", type=click.Choice(list(REMOVABLE)))
@click.argument("name")
@click.pass_obj
def remove(client: Client, kind: str, name: str) -> None:
    """Remove what nobody calls, or an upload of no version."""
    if kind != "upload":
        NAME.convert(name, None, None)
    client.delete(client.place(REMOVABLE[kind], name))
    click.echo(f"{kind} {name} removed")


@click.command()
@click.pass_obj
def uploads(client: Client) -> None:
    """What was uploaded, and which versions are made of it."""
    found = client.get("/uploads")
    for one in found["uploads"]:
        users = ", ".join(one["versions"]) or "no version"
        click.echo(f"{one['id']}  {one['created_at'][:16]}  {one['size_bytes']:,} bytes  {users}")
    room = found["space"]
    of = f" of {room['allowed_bytes']:,}" if room.get("allowed_bytes") else ""
    click.echo(f"{room['used_bytes']:,}{of} bytes in all")


@click.group("key")
def keys() -> None:
    """Your organization's API keys."""


@keys.command("list")
@click.pass_obj
def list_keys(client: Client) -> None:
    """All keys without their secrets."""
    for key in client.get("/keys")["keys"]:
        state = f"revoked {key['revoked_at'][:16]}" if key.get("revoked_at") else "valid"
        click.echo(f"{key['id']}  {','.join(key['scopes'])}  {state}  {key.get('title') or ''}".rstrip())


@keys.command("create")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(get_args(Scope)), required=True)
@click.option("--title", help="What the key is for.")
@click.pass_obj
def create_key(client: Client, scopes: tuple[str, ...], title: str | None) -> None:
    """Make a key and print it, this once. It can give no more than the key that makes it."""
    body: dict[str, Any] = {"scopes": list(scopes)} | ({"title": title} if title else {})
    click.echo(client.post("/keys", body)["token"])


@keys.command("rotate")
@click.argument("key_id")
@click.pass_obj
def rotate_key(client: Client, key_id: str) -> None:
    """A new key with the old one's rights; the old one ends at once."""
    click.echo(client.post(f"/keys/{key_id}/rotate")["token"])


@keys.command("revoke")
@click.argument("key_id")
@click.pass_obj
def revoke_key(client: Client, key_id: str) -> None:
    """Make a key invalid everywhere."""
    client.delete(f"/keys/{key_id}")
    click.echo(f"{key_id} is revoked")


COMMANDS = (edit, remove, uploads, keys)
