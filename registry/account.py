"""Whom the commands talk to, and as whom: options, the environment, or the `ready.json` of a server that runs here.

Process edge. Every command that speaks to a gateway uses these three options.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import httpx
import msgspec
from rich.console import Console

from registry import addresses

TIMEOUT_SECONDS = 30.0
PIPED_WIDTH = 200  # columns, where no terminal says how many it has
Command = Callable[..., Any]


def options(scope: str, key_of_home: str) -> Callable[[Command], Command]:
    """`--url`, `--key` and `--home`. `scope`: what the key must be allowed; `key_of_home`: which one is taken there."""

    def decorate(command: Command) -> Command:
        for option in (
            click.option(
                "--home",
                type=click.Path(path_type=Path),
                envvar="MARQUEE_HOME",
                default=Path(".marquee"),
                show_default=True,
                help=f"Whose address and {key_of_home.replace('_', ' ')}, where the others are not given.",
            ),
            click.option(
                "--key", envvar="MARQUEE_KEY", show_envvar=True, help=f"A key with the scope {scope}."
            ),
            click.option("--url", envvar="MARQUEE_URL", show_envvar=True, help="The gateway's address."),
        ):
            command = option(command)
        return command

    return decorate


def find(url: str | None, key: str | None, home: Path, key_of_home: str, whose: str) -> tuple[str, str]:
    """Address and key, both such that they can be. Raises `click.ClickException`, which says what to set."""
    if url is not None and key is not None:
        return check(url, key)
    try:
        ready = json.loads((home / "ready.json").read_text())
        return check(url or str(ready["url"]), key or str(ready[key_of_home]))
    except (OSError, ValueError, KeyError, TypeError):
        given = "MARQUEE_KEY or --key" if url else "MARQUEE_URL or --url"
        if url is None and key is None:
            given = "MARQUEE_URL and MARQUEE_KEY"
        raise click.ClickException(f"{whose} No server runs in {home} (--home): set {given}") from None


def check(url: str, key: str) -> tuple[str, str]:
    """Before a library refuses them in its own words. Raises `click.ClickException`."""
    if not addresses.is_http(url):
        raise click.ClickException(f"{url!r} is no gateway's address, {addresses.LIKE}")
    if not addresses.is_token(key):
        raise click.ClickException("the key is none: it is one word that begins with mq_")
    return url, key


def ask(account: tuple[str, str], path: str, query: dict[str, str]) -> httpx.Response:
    """A GET. Raises `click.ClickException` with the refusal's own words."""
    url, key = account
    try:
        answer = httpx.get(
            f"{url.rstrip('/')}{path}",
            params=query,
            headers={"authorization": f"Key {key}"},
            timeout=TIMEOUT_SECONDS,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise click.ClickException(f"{url} cannot be asked: {error}") from error
    if answer.status_code != 200:
        raise click.ClickException(f"{url} answers {answer.status_code}: {_detail(answer)}")
    if "json" not in answer.headers.get("content-type", ""):
        raise click.ClickException(f"{url} is no gateway's address: what it answers is no JSON")
    return answer


def console() -> Console:
    """As wide as the terminal; into a pipe or a file wide enough that rows stay whole."""
    return Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)


def as_json(value: Any) -> str:
    """As `--json` prints it."""
    return msgspec.json.format(msgspec.json.encode(value)).decode()


def _detail(answer: httpx.Response) -> str:
    """Of a problem document, where it is one."""
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
