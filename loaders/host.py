"""The host process: one device's engine and its link to the router, from start to drain.

Process edge: signals, identity under `home`, budgets from what the machine has. It refuses to share its seat in a
home with another host.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import structlog

from loaders import protocol, several, watchdog, whole
from loaders.artefacts import Artefacts
from loaders.compiling import Compiler
from loaders.device import Device
from loaders.engine import Engine
from loaders.errors import HostError
from loaders.fetch import Remote
from loaders.link import Address, Link
from loaders.pace import Pace
from loaders.peers import BlobServer
from loaders.protocol import Tier
from loaders.retrieval import Retrieval
from loaders.store import Store
from registry import tracing
from registry.settings import Settings

log = structlog.get_logger("marquee.host")

MEMORY_SHARE = 0.6  # of what is free at start; activations and the page cache need the rest
DEVICE_SHARE = 0.85
DISK_SHARE = 0.9  # for weights; configs, tokenizers and what is on its way need the rest
LEFT_OVER_SHARE = 1.08  # of the weights' share, with parts of downloads that were given up
PRIOR_SPEEDS = protocol.Speeds(disk_to_memory=1e9, memory_to_device=10e9, network_to_disk=100e6)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What stays the same over restarts, in `home/host.json`."""

    host_id: str


def budgets_for(device: Device, home: Path, settings: Settings, *, stored_bytes: int) -> dict[Tier, int]:
    """Bytes per tier, of one host; what the settings leave open is taken from what is free now.

    `stored_bytes`: of the disk, what this home holds already, so that a restart does not halve its room.
    """
    free_on_disk = shutil.disk_usage(home).free + stored_bytes
    disk_bytes = (settings.disk_budget_bytes or free_on_disk) * DISK_SHARE
    memory_bytes = settings.memory_budget_bytes or Device("cpu").free_bytes() * MEMORY_SHARE
    mine: dict[Tier, int] = {
        "disk": int(disk_bytes / settings.hosts_here),
        "memory": int(memory_bytes / settings.hosts_here),
    }
    if device.is_cpu:
        return {"disk": mine["disk"], "device": settings.device_budget_bytes or mine["memory"]}
    return {**mine, "device": settings.device_budget_bytes or int(device.free_bytes() * DEVICE_SHARE)}


def limit(store: Store, settings: Settings, budgets: Mapping[Tier, int]) -> None:
    """What all files of this home may take, also where the settings name no budget: parts are in nobody's accounts."""
    store.limit(settings.disk_budget_bytes or int(budgets["disk"] * settings.hosts_here * LEFT_OVER_SHARE))


async def run(address: Address, settings: Settings, *, name: str, zone: str | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second one ends that as well. Raises `HostError`."""
    home = settings.home
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def signalled() -> None:
        (hurry if stop.is_set() else stop).set()

    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, signalled)
    with own(several.seat(settings)):
        device = await asyncio.to_thread(Device, settings.device)
        if device.count > settings.hosts_here:
            log.info("this machine has more devices; `--device all` serves with each", devices=device.count)
        store = _store(home, settings, address)
        budgets = budgets_for(device, home, settings, stored_bytes=store.used_bytes())
        limit(store, settings, budgets)
        hello = _hello(settings, device, budgets, name=name, zone=zone)
        artefacts = Artefacts(home / "compiled", device, address.key)
        files = Retrieval(
            allow_private=settings.allow_private_inputs,
            trusted=[f"{origin.rstrip('/')}/files/" for origin in (address.url, settings.address)],
        )
        with (
            _given_out(store, artefacts, settings, address),
            _engine(settings, device, store, budgets, files, Compiler(settings.compile, artefacts)) as engine,
            tracing.opened(settings, "marquee-host") as traces,
        ):
            link = Link(address, engine, hello=hello, loop=loop, traces=traces)
            engine.listen(link.heard)
            watching = asyncio.create_task(
                watchdog.watch(engine, report=link.heard, leave=os._exit)  # cleaning up could hang as well
            )
            try:
                await _until_stopped(link, stop, hurry, settings.drain_seconds)
            finally:
                watching.cancel()


def _store(home: Path, settings: Settings, address: Address) -> Store:
    remote = Remote(
        hub_endpoint=settings.hub_endpoint,
        hub_token=settings.hub_token,
        router_url=address.url,
        host_key=address.key,
        allow_private=settings.allow_private_inputs,
    )
    return Store(
        home,
        remote=remote,
        pace=Pace(settings.download_bytes_per_second),
    )


@contextlib.contextmanager
def _given_out(store: Store, artefacts: Artefacts, settings: Settings, address: Address) -> Iterator[None]:
    """Files for the pool's other hosts while the block runs, on every interface, where the settings say an address."""
    if settings.blobs_url is None:
        yield
        return
    port = urlsplit(settings.blobs_url).port
    if port is None:
        raise HostError(f"{settings.blobs_url} names no port to give out files at")
    try:
        server = BlobServer(
            lambda name: store.locate(name) or artefacts.locate(name), address.key, host="", port=port
        )
    except OSError as error:
        raise HostError(f"cannot give out files at port {port}: {error.strerror}") from error
    try:
        yield
    finally:
        server.close()


async def _until_stopped(link: Link, stop: asyncio.Event, hurry: asyncio.Event, drain_seconds: float) -> None:
    serving = asyncio.create_task(link.run())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        log.info("draining", seconds=drain_seconds)
        await link.drain(drain_seconds, hurry)
    finally:
        for task in (serving, stopping):
            task.cancel()
        await asyncio.gather(serving, stopping, return_exceptions=True)


@contextlib.contextmanager
def own(seat: Path) -> Iterator[None]:
    """Holds the seat's lock. Raises `HostError` when another host has it."""
    try:
        seat.mkdir(parents=True, exist_ok=True)
        lock = (seat / "host.lock").open("a")
    except OSError as error:
        raise HostError(f"cannot use {seat}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise HostError(f"another host uses {seat}") from error
        yield


@contextlib.contextmanager
def _engine(
    settings: Settings,
    device: Device,
    store: Store,
    budgets: Mapping[Tier, int],
    retrieval: Retrieval,
    compiler: Compiler,
) -> Iterator[Engine]:
    engine = Engine(
        settings.home,
        device=device,
        store=store,
        budgets=budgets,
        retrieval=retrieval,
        order=settings.eviction_order,
        compiler=compiler,
        seat=several.seat(settings),
    )
    engine.warm_up()
    try:
        yield engine
    finally:
        engine.close(timeout_seconds=1.0)


def _hello(
    settings: Settings, device: Device, budgets: Mapping[Tier, int], *, name: str, zone: str | None
) -> protocol.Hello:
    return protocol.Hello(
        protocol=protocol.PROTOCOL_VERSION,
        host_id=_identity(several.seat(settings)).host_id,
        name=name,
        device=device.title,
        pool=settings.pool,
        zone=zone,
        speed=1.0,
        budgets=budgets,
        speeds=PRIOR_SPEEDS,
        held=(),
        running=(),
        finished=(),
        blobs_url=settings.blobs_url,
    )


def _identity(seat: Path) -> Identity:
    path = seat / "host.json"
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=Identity)
    made = Identity(host_id=uuid.uuid4().hex)
    try:
        whole.write(path, msgspec.json.encode(made))
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}") from error
    return made
