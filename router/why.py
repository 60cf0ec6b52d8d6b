"""`marquee why REQUEST_ID`: why a request ran where it did, read from the database or asked of a gateway. Process edge."""

from pathlib import Path

import click
import msgspec

from registry.cli import home_option, one_line_errors, open_database
from router.explanation import Fate

TIMEOUT_SECONDS = 30.0


@click.command()
@click.argument("request_id")
@home_option
@click.option(
    "--url", envvar="MARQUEE_URL", show_envvar=True, help="Ask this gateway instead of reading the database."
)
@click.option(
    "--key", envvar="MARQUEE_KEY", show_envvar=True, help="The owner's or an operator's key, for --url."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@one_line_errors
async def why(request_id: str, home: Path | None, url: str | None, key: str | None, as_json: bool) -> None:  # noqa: FBT001  click passes flags so
    """Show each attempt of a request: the hosts' prices in seconds, the reason, and what really happened."""
    from registry import account
    from router import explanation

    fate = await (_read(request_id, home) if url is None else _ask(request_id, url, key))
    if as_json:
        click.echo(account.as_json(fate))
    else:
        account.console().print(explanation.render(fate))


async def _read(text: str, home: Path | None) -> Fate:
    """Raises `UnknownRequestError`."""
    from registry import store
    from router import fates, ids
    from router.errors import UnknownRequestError
    from router.queue import Queue

    async with open_database(home) as db:
        queue, request_id = Queue(db, origin="why"), ids.parse(text)
        status = None if request_id is None else await queue.status(request_id)
        if status is None:
            raise UnknownRequestError(text)
        attempts = tuple(await queue.attempts(status.request.id))
        rows = await store.load_catalog(db)
    names = fates.evicted_names(attempts, rows.versions, rows.adapters)
    return Fate(status=status, attempts=attempts, names=names)


async def _ask(request_id: str, url: str, key: str | None) -> Fate:
    import httpx

    from registry import account

    account.check(url, key or "none")
    headers = {} if key is None else {"Authorization": f"Key {key}"}
    try:
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_SECONDS) as client:
            answer = await client.get(f"/v1/requests/{request_id}", params={"explain": "1"})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise click.ClickException(f"{url} cannot be asked: {error}") from error
    if answer.status_code != 200:
        raise click.ClickException(f"{url} answers {answer.status_code}: {_problem(answer.content)}")
    try:
        return msgspec.json.decode(answer.content, type=Fate)
    except msgspec.MsgspecError as error:
        raise click.ClickException(f"{url} is no gateway that this command understands: {error}") from error


def _problem(body: bytes) -> str:
    """The detail of a problem document, where it is one."""
    try:
        shape = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError):
        return body[:200].decode(errors="replace")
    return str(shape.get("detail") or shape) if isinstance(shape, dict) else str(shape)
