"""`marquee up`: everything on one machine, from an empty folder to a page with pictures. Process edge.

It brings up Postgres (embedded, unless a DSN is given), migrates, applies the catalogue, makes the first keys,
starts the gateway and one host, and keeps them running. It refuses to share a home with another `up`.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import click
import httpx
import msgspec

from loaders import supervisor
from registry import database, postgres, shipped
from registry.settings import Settings
from router import first_start
from router.errors import StartUpError

STARTED_WITHIN_SECONDS = 120.0  # the host imports torch and measures its disk before it says hello
STOP_HOST_SECONDS = 5.0  # a running request that needs longer goes back to the queue
HAND_BACK_SECONDS = 2.0  # of them, for that
STOP_GATEWAY_SECONDS = 3.0
PROBE_SECONDS = 0.1
SUPERVISED = "SUPERVISED_BY_MARQUEE_UP"  # children carry their home in it, so that leftovers are known again
WATCH_POSTGRES_SECONDS = 1.0


@click.command()
@click.option(
    "--home", type=click.Path(path_type=Path), default=Path(".marquee"), show_default=True, help="All state."
)
@click.option("--host", "bind", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any that is free."
)
@click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda:0, several with commas, or all."
)
@click.option(
    "--catalog",
    type=click.Path(path_type=Path),
    help="A catalog.yaml; default: the one that Marquee comes with.",
)
def up(home: Path, bind: str, port: int, device: str, catalog: Path | None) -> None:
    """Bring everything up on this machine and print its address."""
    settings = Settings.from_environment(os.environ, home=home.resolve(), host=bind, port=port, device=device)
    asyncio.run(run(settings, catalog or shipped.catalog()))


async def run(settings: Settings, catalog: Path) -> None:
    """Returns after SIGINT or SIGTERM has stopped everything. Raises `StartUpError` with nothing left running."""
    stop = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    with own(settings.home):
        await asyncio.to_thread(end_leftovers, settings.home)
        port = free_port(settings.host, settings.port)
        settings = msgspec.structs.replace(settings, port=port)
        async with contextlib.AsyncExitStack() as stack:
            dsn = await stack.enter_async_context(running_postgres(settings))
            say("applying the catalogue …")
            tokens = await first_start.prepare(settings, dsn, catalog)
            await stack.enter_async_context(running_children(settings, dsn, tokens, stop))
            if not stop.is_set():
                banner(settings, tokens)
                await stop.wait()
            say("stopping (running requests finish or go back to the queue)")
    say("stopped")


@contextlib.contextmanager
def own(home: Path) -> Iterator[None]:
    """Holds the home's lock. Raises `StartUpError` when the home cannot be used or is in use."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "up.lock").open("a+")
    except OSError as error:
        raise StartUpError(f"cannot use home {home}: {error.strerror}; choose another with --home") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StartUpError(
                f"another `marquee up` uses {home}; stop it, or choose another --home"
            ) from error
        try:
            yield
        finally:
            (home / "ready.json").unlink(missing_ok=True)


def free_port(host: str, port: int) -> int:
    """The port asked for, or any for 0. Raises `StartUpError` when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            return int(probe.getsockname()[1])
        except OSError as error:
            raise StartUpError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port"
            ) from error


def marker(home: Path) -> str:
    return f"{SUPERVISED}={home}"


def end_leftovers(home: Path) -> None:
    noted = home / "children.json"
    if noted.exists():
        with contextlib.suppress(ValueError):
            pids = [int(pid) for pid in json.loads(noted.read_text()).values()]
            supervisor.end_leftovers(pids, marker(home))
    (home / "ready.json").unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def running_postgres(settings: Settings) -> AsyncIterator[str]:
    """Yields the DSN of a migrated database; an embedded server is watched and restarted meanwhile."""
    if settings.database_url:
        say("migrating the database …")
        await asyncio.to_thread(database.migrate, settings.database_url)
        yield settings.database_url
        return
    say("starting Postgres …")
    dsn = await asyncio.to_thread(postgres.ensure, settings.home)
    watching = asyncio.create_task(watch_postgres(settings.home))
    try:
        await asyncio.to_thread(database.migrate, dsn)
        yield dsn
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await asyncio.to_thread(postgres.stop, settings.home)


async def watch_postgres(home: Path) -> None:
    while True:
        await asyncio.sleep(WATCH_POSTGRES_SECONDS)
        if postgres.pid(home) is not None:
            continue
        say("Postgres is gone; starting it again")
        try:
            await asyncio.to_thread(postgres.ensure, home)
            write_ready(home, lambda ready: ready["pids"].update(postgres=postgres.pid(home)))
        except Exception as error:  # noqa: BLE001  whatever it is may pass, and nobody else would start it again
            say(f"Postgres does not start: {error}")


@contextlib.asynccontextmanager
async def running_children(
    settings: Settings, dsn: str, tokens: first_start.Tokens, stop: asyncio.Event
) -> AsyncIterator[None]:
    """Gateway and host, started in this order, restarted when they die, stopped in the reverse order."""
    home = settings.home
    pids: dict[str, int] = {}

    def changed(name: str, pid: int) -> None:
        pids[name] = pid
        (home / "children.json").write_text(json.dumps(pids))
        write_ready(home, lambda ready: ready["pids"].update(pids))

    gateway, host = children(settings, dsn, tokens, changed)
    keepers: list[asyncio.Task[None]] = []
    try:
        say("starting the gateway …")
        await gateway.start()
        await until_healthy(settings, gateway, stop, hosts=0)
        say(f"starting a host (device: {settings.device}) …")
        await host.start()
        await until_healthy(settings, host, stop, hosts=1)
        keepers = [asyncio.create_task(child.keep_running()) for child in (gateway, host)]
        first_ready(settings, tokens, pids)
        yield
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        await host.stop(grace_seconds=STOP_HOST_SECONDS)
        await gateway.stop(grace_seconds=STOP_GATEWAY_SECONDS)
        (home / "children.json").unlink(missing_ok=True)


def _without_partners(environment: Mapping[str, str]) -> dict[str, str]:
    """What a host gets: keys of partners are none of its business."""
    return {name: value for name, value in environment.items() if not name.startswith("MARQUEE_PARTNER_")}


def children(
    settings: Settings, dsn: str, tokens: first_start.Tokens, changed: Callable[[str, int], None]
) -> tuple[supervisor.Child, supervisor.Child]:
    home, logs = settings.home, settings.home / "logs"
    environment = {
        **os.environ,
        **settings.environment(),
        "MARQUEE_DATABASE_URL": dsn,
        "MARQUEE_PLAYGROUND_KEY": tokens.customer_key,
        SUPERVISED: str(home),
        "PYTHONUNBUFFERED": "1",
    }
    gateway = supervisor.Child(
        name="gateway",
        command=[sys.executable, "-P", "-m", "router.gateway"],
        environment=environment,
        log_path=logs / "gateway.log",
        on_change=changed,
    )
    host_arguments = [
        "--url",
        settings.local_address,
        "--home",
        str(home / "host"),
        "--device",
        settings.device,
    ]
    host = supervisor.Child(
        name="host",
        command=[sys.executable, "-P", "-m", "router.cli", "host", *host_arguments],
        environment={
            **_without_partners(environment),
            "MARQUEE_HOST_KEY": tokens.host_key,
            "MARQUEE_DRAIN_SECONDS": str(STOP_HOST_SECONDS - HAND_BACK_SECONDS),
        },
        log_path=logs / "host.log",
        on_change=changed,
    )
    return gateway, host


async def until_healthy(
    settings: Settings, child: supervisor.Child, stop: asyncio.Event, *, hosts: int
) -> None:
    """Waits until `/healthz` answers 200 with that many hosts. Raises `StartUpError` when the child dies first."""
    deadline = time.monotonic() + STARTED_WITHIN_SECONDS
    async with httpx.AsyncClient(base_url=settings.local_address, trust_env=False, timeout=2.0) as client:
        while not stop.is_set():
            with contextlib.suppress(httpx.HTTPError, ValueError):
                health = await client.get("/healthz")
                if health.status_code == 200 and health.json().get("hosts", 0) >= hosts:
                    return
            if child.exit_code is not None or time.monotonic() > deadline:
                raise StartUpError(
                    f"the {child.name} did not start; the end of {child.log_path}:\n{child.log_tail()}"
                )
            await asyncio.sleep(PROBE_SECONDS)


def first_ready(settings: Settings, tokens: first_start.Tokens, pids: dict[str, int]) -> None:
    """`ready.json` says that everything serves; it is gone when nothing does. It holds keys, so only we may read it."""
    ready = {
        "url": settings.local_address,
        "customer_key": tokens.customer_key,
        "lab_key": tokens.lab_key,
        "operator_key": tokens.operator_key,
        "pids": {**pids, "postgres": None if settings.database_url else postgres.pid(settings.home)},
    }
    first_start.write_private(settings.home / "ready.json", ready)


def write_ready(home: Path, change: Callable[[dict[str, dict[str, int | None]]], None]) -> None:
    """Changes `ready.json` where it exists: a restarted child has a new pid."""
    path = home / "ready.json"
    if path.exists():
        ready = json.loads(path.read_text())
        change(ready)
        first_start.write_private(path, ready)


def say(line: str) -> None:
    click.echo(f"marquee: {line}", err=True)


def banner(settings: Settings, tokens: first_start.Tokens) -> None:
    click.echo(
        f"\n  Marquee is up    {settings.local_address}/"
        f"\n  customer key     {tokens.customer_key}"
        f"\n  state and logs   {settings.home}"
        "\n\n  Ctrl-C stops everything.\n"
    )
