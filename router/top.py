"""`marquee top`: the fleet in a terminal, refreshed until Ctrl-C; and the address it reads, `GET /v1/fleet`. Process edge."""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import httpx
import msgspec
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from registry import account
from registry.dashboard.live import FleetState, HostState
from router.errors import RouterError

GIB = 1 << 30
PARTS_SHOWN = 12
OPERATOR_KEY = "operator_key"


class TopError(RouterError):
    """The gateway does not answer or refuses the key; its text says which."""


@click.command()
@click.option(
    "--every",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Look once and end; so it does wherever no terminal shows it.")
@click.option("--json", "as_json", is_flag=True, help="Look once and print JSON.")
@account.options("operate", OPERATOR_KEY)
def top(url: str | None, key: str | None, home: Path, every: float, once: bool, as_json: bool) -> None:  # noqa: FBT001  click passes flags so
    """Hosts, queue, warm models and rates, live."""
    look = _looker(*account.find(url, key, home, OPERATOR_KEY, "whose fleet?"))
    if as_json:
        click.echo(account.as_json(look()))
        return
    if once or not sys.stdout.isatty():
        account.console().print(screen(look(), None, 0.0))
        return
    before: Mapping[str, float] | None = None
    with contextlib.suppress(KeyboardInterrupt), Live(screen=True, auto_refresh=False) as live:
        while True:
            seen = look()
            live.update(screen(seen, before, every), refresh=True)
            before = seen.ended
            time.sleep(every)


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One look: the fleet, and how many requests have ended so far by state."""

    fleet: FleetState
    ended: Mapping[str, float] = {}


def _looker(url: str, key: str) -> Callable[[], Seen]:
    client = httpx.Client(base_url=url, headers={"Authorization": f"Key {key}"}, timeout=10)

    def look() -> Seen:
        try:
            answer = client.get("/v1/fleet").raise_for_status()
            metrics = client.get("/metrics").raise_for_status()
        except httpx.HTTPStatusError as error:
            code = error.response.status_code
            hint = "an operator's key is needed" if code in {401, 403} else "is it a gateway's address?"
            raise TopError(f"{url} answered {code}: {hint}") from error
        except httpx.HTTPError as error:
            raise TopError(f"{url} does not answer: {error}") from error
        try:
            return Seen(fleet=msgspec.json.decode(answer.content, type=FleetState), ended=ended(metrics.text))
        except (msgspec.MsgspecError, ValueError) as error:
            raise TopError(f"{url} is no gateway that this command understands: {error}") from error

    return look


def ended(metrics: str) -> Mapping[str, float]:
    """Requests that ended, by state, from Prometheus text. Pure."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name == "marquee_requests_total":
                found[sample.labels["state"]] = found.get(sample.labels["state"], 0.0) + sample.value
    return found


def screen(seen: Seen, before: Mapping[str, float] | None, seconds: float) -> Group:
    """Pure."""
    fleet = seen.fleet
    return Group(_headline(seen, before, seconds), Text(), _hosts(fleet), Text(), _warm(fleet))


def _headline(seen: Seen, before: Mapping[str, float] | None, seconds: float) -> Text:
    fleet = seen.fleet
    line = Text.assemble(
        ("Marquee ", "bold yellow"),
        f"pool {fleet.pool or '-'}   ",
        (f"{len(fleet.hosts)} hosts   ", "bold"),
        f"{fleet.waiting} waiting   {fleet.running} on hosts",
    )
    if before is not None and seconds > 0:
        rate = (sum(seen.ended.values()) - sum(before.values())) / seconds
        line.append(f"   {rate:.1f} ended a second")
    line.append(f"   {int(seen.ended.get('failed', 0))} failed since its start", "dim")
    return line


def _hosts(fleet: FleetState) -> Table:
    table = Table(title="Hosts", title_justify="left", expand=True, box=None, header_style="dim")
    for name in ("host", "device", "state", "running", "staged", "weights", ""):
        table.add_column(name)
    for host in fleet.hosts:
        table.add_row(*_host(host))
    return table


def _host(host: HostState) -> tuple[str | Text | ProgressBar, ...]:
    state = (
        ("draining", "yellow") if host.draining else ("busy", "green") if host.running else ("free", "dim")
    )
    weights = f"{host.used_bytes / GIB:.1f} of {host.budget_bytes / GIB:.1f} GiB"
    bar = ProgressBar(total=max(host.budget_bytes, 1), completed=host.used_bytes, width=24)
    return (host.name, host.device, Text(*state), str(host.running), str(host.staged), weights, bar)


def _warm(fleet: FleetState) -> Table:
    table = Table(title="Warm on a device", title_justify="left", expand=True, box=None, header_style="dim")
    for name in ("model", "hosts"):
        table.add_column(name)
    warm = sorted(
        ((hosts, slug) for slug, hosts in fleet.warm.items() if hosts), key=lambda pair: (-pair[0], pair[1])
    )
    for hosts, slug in warm[:PARTS_SHOWN]:
        table.add_row(slug, str(hosts))
    return table
