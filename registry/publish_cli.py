"""The commands `marquee publish …`: the admin API for people. Process edge; talks HTTP, so it works from anywhere.

Address and key come from options, from MARQUEE_URL and MARQUEE_KEY, or from the `ready.json` of a server that runs
here. A refusal is one line on stderr and exit code 1.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich import progress
from rich.console import Console

from registry import account, publish_keeping, publish_openings
from registry.folders import PUBLISHED_SUFFIXES
from registry.publish_client import Client
from registry.publish_options import NAME, of_adapters

POLL_SECONDS = 0.5
SHOWN = 8  # of the files that are not sent
LAB_KEY = "lab_key"


@click.group()
@account.options("models:publish", LAB_KEY)
@click.pass_context
def publish(context: click.Context, url: str | None, key: str | None, home: Path) -> None:
    """Publish models: upload, validate, schedule, release, split, roll back, retire."""
    whose = "whose catalogue?"
    context.obj = context.with_resource(Client(lambda: account.find(url, key, home, LAB_KEY, whose)))


@publish.command()
@click.pass_obj
def me(client: Client) -> None:
    """Whose key this is, and what it may do."""
    found = client.get("/me")
    click.echo(f"{found['organization']}  {', '.join(found['scopes'])}")


@publish.command()
@click.argument("name", type=NAME)
@click.option("--title")
@click.option("--description")
@click.option("--licence")
@click.pass_obj
def model(client: Client, /, name: str, **facts: str | None) -> None:
    """Make a model (a family of variants): owner/name."""
    client.post("/models", {"name": name} | {key: value for key, value in facts.items() if value is not None})
    click.echo(f"model {name} made")


@publish.command()
@click.argument("slug", type=NAME)
@click.option("--model", required=True, help="The model (family) that it belongs to: owner/name.")
@click.option("--task", required=True, help="text-to-image, image-to-image, text-to-video…")
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


@publish.command(short_help="Make an adapter: a LoRA that callers name in `loras`.")
@click.argument("slug", type=NAME)
@click.option("--base", required=True, metavar="SLUG", help="The variant it was trained on.")
@click.option("--trigger-word", "trigger_words", multiple=True, metavar="WORD")
@click.option("--scale", "recommended_scale", type=float, help="What callers get who name none (default 1).")
@click.option("--name")
@click.option("--description")
@click.option("--licence")
@click.pass_obj
def adapter(client: Client, /, slug: str, **facts: Any) -> None:
    """Make an adapter (a LoRA that callers name in `loras`): owner/name."""
    client.post("/adapters", {"slug": slug} | {key: value for key, value in facts.items() if value})
    click.echo(f"adapter {slug} made; nobody sees it before its first release")


@publish.command()
@click.argument("place", type=click.Path(exists=True, path_type=Path), metavar="FOLDER|FILE")
@click.option("--resume", metavar="ID", help="Go on with an upload that was interrupted.")
@click.pass_obj
def upload(client: Client, place: Path, resume: str | None) -> None:
    """Upload a folder, or one file; prints the upload's id."""
    click.echo(_upload(client, place, resume))


def _upload(client: Client, place: Path, resume: str | None) -> str:
    folder = place if place.is_dir() else place.parent
    announced = list(_announce(folder, _chosen(place)))
    found = client.get(f"/uploads/{resume}") if resume else client.post("/uploads", {"files": announced})
    if [{name: file[name] for name in announced[0]} for file in found["files"]] != announced:
        raise click.ClickException(f"upload {resume} was begun with other files than {place} has now")
    click.echo(f"upload {found['id']}", err=True)
    total = sum(file["size_bytes"] for file in found["files"])
    with progress.Progress(console=Console(stderr=True)) as bar:
        sending = bar.add_task("sending", total=total)
        for file in found["files"]:
            bar.advance(sending, file["received_bytes"])
            for sent in client.send(found["id"], file, folder / file["path"]):
                bar.advance(sending, sent)
    return str(found["id"])


def _chosen(place: Path) -> list[Path]:
    """What a version is made of; a repository's README and pictures stay here, and so do pickles."""
    if not place.is_dir():
        return [place]
    files = [file for file in sorted(place.rglob("*")) if file.is_file() and not _is_hidden(place, file)]
    chosen = [file for file in files if file.suffix in PUBLISHED_SUFFIXES]
    left = [file.relative_to(place).as_posix() for file in files if file not in chosen]
    if left:
        click.echo(f"not sent: {', '.join(left[:SHOWN])}{', …' if left[SHOWN:] else ''}", err=True)
    if not chosen:
        raise click.ClickException(f"{place} holds nothing that is published: no weights, no configs")
    return chosen


def _is_hidden(folder: Path, file: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


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
@click.argument("slug", type=NAME)
@of_adapters
@click.option("--folder", "place", type=click.Path(exists=True, path_type=Path), help="Upload this first.")
@click.option("--upload", "upload_id", metavar="ID", help="An upload that is complete.")
@click.option("--hub", metavar="OWNER/REPO[@REVISION]", help="A repository on the Hub.")
@click.option(
    "--from", "address", metavar="URL", help="The address of the folder, or of an adapter's one file."
)
@click.option(
    "--weights", "weight_name", metavar="FILE", help="Which file is the adapter, where several are."
)
@click.pass_obj
def version(client: Client, /, slug: str, goods: str, weight_name: str | None, **places: Any) -> None:
    """Add a version, validate it, and wait for the result."""
    client.get(client.place(goods, slug))  # a typo shall not cost an upload
    body: dict[str, Any] = {"source": _source(client, places)}
    if weight_name is not None:
        body["weight_name"] = weight_name
    made = client.post(f"{client.place(goods, slug)}/versions", body)
    place = f"{client.place(goods, slug)}/versions/{made['number']}"
    click.echo(_validated(client, place))


@publish.command()
@click.argument("slug", type=NAME)
@of_adapters
@click.argument("number", type=int)
@click.pass_obj
def validate(client: Client, slug: str, goods: str, number: int) -> None:
    """Validate a version (again), and wait for the result."""
    click.echo(_validated(client, f"{client.place(goods, slug)}/versions/{number}"))


def _validated(client: Client, place: str) -> str:
    began = client.get(place)["revision"]
    client.post(f"{place}/validate")
    with Console(stderr=True).status("validating") as shown:  # minutes, where a repository is large
        while (found := client.get(place))["state"] in {"draft", "validating"}:
            if found["state"] == "draft" and found["revision"] > began:
                raise click.ClickException(
                    "the validation was interrupted; `marquee publish validate` repeats it"
                )
            read = (found.get("report") or {}).get("checked_bytes", 0)
            shown.update(f"validating, {read:,} bytes read")
            time.sleep(POLL_SECONDS)
    return _outcome(found)


def _source(client: Client, places: dict[str, Any]) -> dict[str, str]:
    if sum(given is not None for given in places.values()) != 1:
        raise click.UsageError("one of --folder, --upload, --hub and --from")
    match next((name, given) for name, given in places.items() if given is not None):
        case "hub", given:
            repository, _, revision = given.partition("@")
            return {"kind": "hub", "location": repository} | ({"revision": revision} if revision else {})
        case "address", given:
            return {"kind": "url", "location": given}
        case "upload_id", given:
            return {"kind": "upload", "location": given}
        case _, given:
            return {"kind": "upload", "location": _upload(client, given, None)}


def _outcome(found: dict[str, Any]) -> str:
    """One line; a refusal is an error."""
    report, number = found["report"], found["number"]
    if found["state"] == "rejected":
        raise click.ClickException(f"version {number} is rejected: {report['error']}: {report['message']}")
    told = f"version {number} is {found['state']}: {report['total_bytes']:,} bytes"
    if "components" in report:
        shared = report.get("shared_bytes", 0) / max(report["total_bytes"], 1)
        told += f" in {report['components']} components, {shared:.0%} of them known already"
    if unexamined := report.get("unexamined"):
        told += f"; shapes not compared: {', '.join(unexamined)}"
    return told


for command in (*publish_openings.COMMANDS, *publish_keeping.COMMANDS):
    publish.add_command(command)
