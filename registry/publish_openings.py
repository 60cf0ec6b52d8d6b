"""The commands of `marquee publish` that open and end: release, split, roll back, deprecate, retire, look. Process edge.

They work on variants and, with `--adapter`, on adapters.
"""

from datetime import datetime
from typing import Any

import click
import msgspec

from registry.publish_client import Client
from registry.publish_options import MOMENT, NAME, Percent, of_adapters

OPENINGS = ("preview_from", "exclusive_from", "public_from")
TIMES = ("prewarm", "preview", "exclusive", "public", "sunset", "retired")


@click.command()
@click.argument("slug", type=NAME)
@of_adapters
@click.argument("shares", nargs=-1, required=True, type=Percent())
@click.option(
    "--preview-from", type=MOMENT, help="When `--preview` organizations may call; 2026-12-01T09:00:00Z."
)
@click.option(
    "--preview",
    "preview_organizations",
    multiple=True,
    metavar="ORGANIZATION",
    help="Let in early; repeat it.",
)
@click.option("--exclusive-from", type=MOMENT, help="When `--exclusive` organizations alone may call.")
@click.option(
    "--exclusive", "exclusive_organizations", multiple=True, metavar="ORGANIZATION", help="Repeat it."
)
@click.option("--public-from", type=MOMENT, help="When everybody may call.")
@click.option(
    "--prewarm-from", type=MOMENT, help="When hosts begin to load; default: as early as the slowest needs."
)
@click.option(
    "--prewarm-replicas", type=int, help="On how many hosts the weights shall be warm at the opening."
)
@click.pass_obj
def release(
    client: Client, /, slug: str, goods: str, shares: tuple[dict[str, int], ...], **window: Any
) -> None:
    """Open versions to callers: now, or by the times given. Two versions with percents split the traffic: `1:90 2:10`."""
    given = {name: msgspec.to_builtins(value) for name, value in window.items() if value}
    body = {"shares": list(shares)} | ({"window": given} if given else {})
    _tell(client, slug, goods, client.post(f"{client.place(goods, slug)}/releases", body))


def _tell(client: Client, slug: str, goods: str, made: dict[str, Any]) -> None:
    click.echo(f"release {made['release']['id']}: {_describe(made['release'])}")
    _warn(client, slug, goods, made)


def _warn(client: Client, slug: str, goods: str, made: dict[str, Any]) -> None:
    """Of the releases that open later: each will answer instead of what was just made."""
    mine = made["release"]
    for entry in client.get(f"{client.place(goods, slug)}/releases")["releases"]:
        release = entry["release"]
        is_ahead = max(_opens(release)) > min(_opens(mine)) and "withdrawn_at" not in entry
        if is_ahead and release["id"] != mine["id"]:
            what = f"release {release['id']} takes over later ({_describe(release)})"
            click.echo(f"note: {what}, unless `marquee publish withdraw` takes it back", err=True)


def _opens(release: dict[str, Any]) -> list[datetime]:
    """When it lets callers in, or turns all away."""
    window = release["window"]
    given = [window[name] for name in OPENINGS if name in window] or [window["retired_from"]]
    return [datetime.fromisoformat(moment) for moment in given]


def _describe(release: dict[str, Any]) -> str:
    parts = " + ".join(f"version {share['version']} {share['percent']} %" for share in release["shares"])
    window = release["window"]
    times = [f"{name} from {window[f'{name}_from']}" for name in TIMES if f"{name}_from" in window]
    return f"{parts}; {', '.join(times)}"


@click.command()
@click.argument("slug", type=NAME)
@of_adapters
@click.pass_obj
def rollback(client: Client, slug: str, goods: str) -> None:
    """Make public again what was public before."""
    _tell(client, slug, goods, client.post(f"{client.place(goods, slug)}/rollback"))


@click.command(short_help="Announce the end; answers go on, with a warning.")
@click.argument("slug", type=NAME)
@of_adapters
@click.option("--successor", metavar="SLUG")
@click.option("--sunset-from", type=MOMENT)
@click.option("--retired-from", type=MOMENT)
@click.pass_obj
def deprecate(client: Client, /, slug: str, goods: str, **facts: Any) -> None:
    """Announce the end: answers go on, with a warning, a date and the successor."""
    given = {name: msgspec.to_builtins(value) for name, value in facts.items() if value is not None}
    _tell(client, slug, goods, client.post(f"{client.place(goods, slug)}/deprecate", given))


@click.command()
@click.argument("slug", type=NAME)
@of_adapters
@click.option("--successor", metavar="SLUG")
@click.pass_obj
def retire(client: Client, slug: str, goods: str, successor: str | None) -> None:
    """End it now: callers get 410 and the successor's name."""
    made = client.post(f"{client.place(goods, slug)}/retire", {"successor": successor} if successor else {})
    click.echo(f"{slug} is retired")
    _warn(client, slug, goods, made)


@click.command()
@click.argument("slug", type=NAME)
@of_adapters
@click.argument("release_id", type=int)
@click.pass_obj
def withdraw(client: Client, slug: str, goods: str, release_id: int) -> None:
    """Take back a release that did not open yet."""
    client.delete(f"{client.place(goods, slug)}/releases/{release_id}")
    click.echo(f"release {release_id} is withdrawn")


@click.command()
@click.argument("slug", type=NAME)
@of_adapters
@click.pass_obj
def status(client: Client, slug: str, goods: str) -> None:
    """A variant's versions and releases."""
    for found in client.get(f"{client.place(goods, slug)}/versions")["versions"]:
        size = f"{found['size_bytes']:,} bytes" if found.get("size_bytes") else ""
        reason = (found.get("report") or {}).get("message") or ""
        click.echo(f"version {found['number']}  {found['state']:<10} {size or reason}".rstrip())
    for entry in client.get(f"{client.place(goods, slug)}/releases")["releases"]:
        ended = "  (withdrawn)" if entry.get("withdrawn_at") else ""
        click.echo(f"release {entry['release']['id']}  {_describe(entry['release'])}{ended}")


@click.command()
@click.argument("slug", type=NAME)
@of_adapters
@click.option("--at", "when", type=MOMENT, help="Default: now.")
@click.pass_obj
def live(client: Client, slug: str, goods: str, when: datetime | None) -> None:
    """What answers the public, or answered it at a moment."""
    found = client.get(
        f"{client.place(goods, slug)}/live", **({} if when is None else {"at": when.isoformat()})
    )
    shares = " + ".join(
        f"version {share['version']} {share['percent']} %" for share in found.get("shares", [])
    )
    click.echo(f"{found['phase']}  {shares}".rstrip())


@click.command()
@click.argument("subject", required=False)
@click.pass_obj
def history(client: Client, subject: str | None) -> None:
    """Who changed what, newest first."""
    changes = client.get("/history", **({"subject": subject} if subject else {}))["changes"]
    if not changes:
        raise click.ClickException(f"of {subject or 'your organization'} no change is known")
    for entry in changes:
        action = "added" if "before" not in entry else "removed" if "after" not in entry else "changed"
        told = f"{entry['at'][:19]}  {entry['actor']:<10} {action:<8} {entry['kind']} {entry['subject']}"
        click.echo(f"{told}  {_told(entry)}".rstrip())


def _told(entry: dict[str, Any]) -> str:
    """What a change was about, as far as a line can say it."""
    before: dict[str, Any] = entry.get("before") or {}
    after: dict[str, Any] = entry.get("after") or {}
    match after or before:
        case {"shares": _, "window": _, "id": number} as found:
            return f"{number}: {_describe(found)}"
        case {"state": state, **rest}:
            report = rest.get("report") or {}
            return f"{state}: {report['message']}" if report.get("message") else state
        case _ if before and after:
            return ", ".join(sorted(name for name in before | after if before.get(name) != after.get(name)))
        case _:
            return ""


COMMANDS = (release, rollback, deprecate, retire, withdraw, status, live, history)
