"""The commands `marquee publish …`: the admin API for people. Process edge; talks HTTP, so it works from anywhere.

Address and key come from options, from MARQUEE_URL and MARQUEE_KEY, or from the `ready.json` of a server that runs
here. A refusal is one line on stderr and exit code 1.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from rich import progress
from rich.console import Console

from registry.publish_client import Client

POLL_SECONDS = 0.5


class Moment(click.ParamType[datetime]):
    """A time with its zone; without one the question would be whose morning was meant."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time like 2026-12-01T09:00:00+01:00", param, ctx)
        if when.tzinfo is None:
            self.fail(f"{value!r} needs a zone, like Z or +01:00", param, ctx)
        return when


MOMENT = Moment()


class Percent(click.ParamType[dict[str, int]]):
    """`3` is all of it, `3:10` is ten percent."""

    name = "version[:percent]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int]:
        number, _, percent = str(value).partition(":")
        if not number.isdigit() or not (percent or "100").isdigit():
            self.fail(f"{value!r} is no version like 3 or 3:10", param, ctx)
        return {"version": int(number), "percent": int(percent or 100)}


@click.group()
@click.option("--url", envvar="MARQUEE_URL", help="The gateway's address.")
@click.option("--key", envvar="MARQUEE_KEY", help="A key with the scope models:publish.")
@click.option("--home", type=click.Path(path_type=Path), default=Path(".marquee"), show_default=True)
@click.pass_context
def publish(context: click.Context, url: str | None, key: str | None, home: Path) -> None:
    """Publish models: upload, validate, schedule, release, split, roll back, retire."""
    if url is None or key is None:
        try:
            ready = json.loads((home / "ready.json").read_text())
        except (OSError, ValueError):
            raise click.UsageError(f"no --url and --key, and no server runs in {home}") from None
        url, key = url or ready["url"], key or ready["lab_key"]
    context.obj = context.with_resource(Client(str(url), str(key)))


@publish.command()
@click.pass_obj
def me(client: Client) -> None:
    """Whose key this is, and what it may do."""
    found = client.get("/me")
    click.echo(f"{found['organization']}  {', '.join(found['scopes'])}")


@publish.command()
@click.argument("name")
@click.option("--title")
@click.option("--description")
@click.option("--licence")
@click.pass_obj
def model(client: Client, /, name: str, **facts: str | None) -> None:
    """Make a model (a family of variants): owner/name."""
    client.post("/models", {"name": name} | {key: value for key, value in facts.items() if value is not None})
    click.echo(f"model {name} made")


@publish.command()
@click.argument("slug")
@click.option("--model", required=True)
@click.option("--task", required=True)
@click.option("--schema", type=click.File("rb"), required=True, help="The input's JSON Schema.")
@click.option("--name")
@click.option("--description")
@click.option("--licence")
@click.pass_obj
def variant(client: Client, /, slug: str, model: str, task: str, schema: Any, **facts: str | None) -> None:
    """Make a variant (what customers call): owner/name."""
    try:
        body = {"slug": slug, "model": model, "task": task, "input_schema": json.load(schema)}
    except ValueError as error:
        raise click.ClickException(f"{schema.name} is not JSON: {error}") from error
    client.post("/variants", body | {key: value for key, value in facts.items() if value is not None})
    click.echo(f"variant {slug} made; nobody sees it before its first release")


@publish.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--resume", metavar="ID", help="Go on with an upload that was interrupted.")
@click.pass_obj
def upload(client: Client, folder: Path, resume: str | None) -> None:
    """Upload a folder; prints the upload's id."""
    click.echo(_upload(client, folder, resume))


def _upload(client: Client, folder: Path, resume: str | None) -> str:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    found = (
        client.get(f"/uploads/{resume}")
        if resume
        else client.post("/uploads", {"files": list(_announce(folder, files))})
    )
    click.echo(f"upload {found['id']}", err=True)
    total = sum(file["size_bytes"] for file in found["files"])
    with progress.Progress(console=Console(stderr=True)) as bar:
        sending = bar.add_task("sending", total=total)
        for file in found["files"]:
            bar.advance(sending, file["received_bytes"])
            for sent in client.send(found["id"], file, folder / file["path"]):
                bar.advance(sending, sent)
    return str(found["id"])


def _announce(folder: Path, files: list[Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        yield {
            "path": file.relative_to(folder).as_posix(),
            "size_bytes": file.stat().st_size,
            "sha256": digest,
        }


@publish.command()
@click.argument("slug")
@click.option(
    "--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Upload this first."
)
@click.option("--upload", "upload_id", metavar="ID", help="An upload that is complete.")
@click.option("--hub", metavar="OWNER/REPO[@REVISION]", help="A repository on the Hub.")
@click.pass_obj
def version(client: Client, slug: str, folder: Path | None, upload_id: str | None, hub: str | None) -> None:
    """Add a version, validate it, and wait for the result."""
    if sum(given is not None for given in (folder, upload_id, hub)) != 1:
        raise click.UsageError("one of --folder, --upload and --hub")
    if hub is not None:
        repository, _, revision = hub.partition("@")
        source = {"kind": "hub", "location": repository} | ({"revision": revision} if revision else {})
    else:
        source = {"kind": "upload", "location": upload_id or _upload(client, folder or Path(), None)}
    made = client.post(f"/variants/{client.address(slug)}/versions", {"source": source})
    place = f"/variants/{client.address(slug)}/versions/{made['number']}"
    client.post(f"{place}/validate")
    while (found := client.get(place))["state"] in {"draft", "validating"}:
        time.sleep(POLL_SECONDS)
    report = found["report"]
    if found["state"] == "rejected":
        raise click.ClickException(
            f"version {made['number']} is rejected: {report['error']}: {report['message']}"
        )
    shared = report.get("shared_bytes", 0) / max(report["total_bytes"], 1)
    click.echo(
        f"version {made['number']} is {found['state']}: {report['components']} components,"
        f" {report['total_bytes']:,} bytes, {shared:.0%} of them known already"
    )


@publish.command()
@click.argument("slug")
@click.argument("shares", nargs=-1, required=True, type=Percent())
@click.option("--preview-from", type=MOMENT)
@click.option("--preview", "preview_organizations", multiple=True, metavar="ORGANIZATION")
@click.option("--exclusive-from", type=MOMENT)
@click.option("--exclusive", "exclusive_organizations", multiple=True, metavar="ORGANIZATION")
@click.option("--public-from", type=MOMENT)
@click.option("--prewarm-from", type=MOMENT)
@click.option("--prewarm-replicas", type=int)
@click.pass_obj
def release(client: Client, /, slug: str, shares: tuple[dict[str, int], ...], **window: Any) -> None:
    """Open versions to callers: now, or by the times given. Two versions with percents split the traffic."""
    given = {name: msgspec.to_builtins(value) for name, value in window.items() if value}
    body = {"shares": list(shares)} | ({"window": given} if given else {})
    made = client.post(f"/variants/{client.address(slug)}/releases", body)
    click.echo(f"release {made['release']['id']}: {_describe(made['release'])}")


def _describe(release: dict[str, Any]) -> str:
    parts = " + ".join(f"version {share['version']} {share['percent']} %" for share in release["shares"])
    times = [
        f"{name.removesuffix('_from')} from {when}"
        for name, when in release["window"].items()
        if name.endswith("_from")
    ]
    return f"{parts}; {', '.join(times)}"


@publish.command()
@click.argument("slug")
@click.pass_obj
def rollback(client: Client, slug: str) -> None:
    """Make public again what was public before."""
    made = client.post(f"/variants/{client.address(slug)}/rollback")
    click.echo(f"release {made['release']['id']}: {_describe(made['release'])}")


@publish.command()
@click.argument("slug")
@click.option("--successor", metavar="SLUG")
@click.option("--sunset-from", type=MOMENT)
@click.option("--retired-from", type=MOMENT)
@click.pass_obj
def deprecate(client: Client, /, slug: str, **facts: Any) -> None:
    """Announce the end: answers go on, with a warning, a date and the successor."""
    given = {name: msgspec.to_builtins(value) for name, value in facts.items() if value is not None}
    made = client.post(f"/variants/{client.address(slug)}/deprecate", given)
    click.echo(f"release {made['release']['id']}: {_describe(made['release'])}")


@publish.command()
@click.argument("slug")
@click.option("--successor", metavar="SLUG")
@click.pass_obj
def retire(client: Client, slug: str, successor: str | None) -> None:
    """End it now: callers get 410 and the successor's name."""
    client.post(f"/variants/{client.address(slug)}/retire", {"successor": successor} if successor else {})
    click.echo(f"{slug} is retired")


@publish.command()
@click.argument("slug")
@click.argument("release_id", type=int)
@click.pass_obj
def withdraw(client: Client, slug: str, release_id: int) -> None:
    """Take back a release that did not open yet."""
    client.delete(f"/variants/{client.address(slug)}/releases/{release_id}")
    click.echo(f"release {release_id} is withdrawn")


@publish.command()
@click.argument("slug")
@click.pass_obj
def status(client: Client, slug: str) -> None:
    """A variant's versions and releases."""
    for found in client.get(f"/variants/{client.address(slug)}/versions")["versions"]:
        size = f"{found['size_bytes']:,} bytes" if found.get("size_bytes") else ""
        click.echo(f"version {found['number']}  {found['state']:<10} {size}")
    for entry in client.get(f"/variants/{client.address(slug)}/releases")["releases"]:
        ended = "  (withdrawn)" if entry.get("withdrawn_at") else ""
        click.echo(f"release {entry['release']['id']}  {_describe(entry['release'])}{ended}")


@publish.command()
@click.argument("slug")
@click.option("--at", "when", type=MOMENT, required=True)
@click.pass_obj
def live(client: Client, slug: str, when: datetime) -> None:
    """What answered the public at a moment."""
    found = client.get(f"/variants/{client.address(slug)}/live", at=when.isoformat())
    shares = " + ".join(
        f"version {share['version']} {share['percent']} %" for share in found.get("shares", [])
    )
    click.echo(f"{found['phase']}  {shares}".rstrip())


@publish.command()
@click.argument("subject", required=False)
@click.pass_obj
def history(client: Client, subject: str | None) -> None:
    """Who changed what, newest first."""
    for entry in client.get("/history", **({"subject": subject} if subject else {}))["changes"]:
        action = "added" if "before" not in entry else "removed" if "after" not in entry else "changed"
        click.echo(f"{entry['at'][:19]}  {entry['actor']:<10} {action:<8} {entry['kind']} {entry['subject']}")
