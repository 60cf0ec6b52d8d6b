"""One host process per device of this machine, over one home: started, watched and drained together. Process edge.

What is on the disk they share (`store`): a file is fetched once for all of them. Each has a seat of its own for its
lock, its identity and what the router described to it, so that a restart gives each what it had. Who watches needs no
torch; it is asked in a process of its own how many devices there are.
"""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from loaders.errors import NoDeviceError
from loaders.link import FAREWELL_SECONDS, SETTLE_SECONDS, Address
from loaders.supervisor import Child
from registry.settings import Settings

ALL = "all"
COUNT = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
HOST = "from loaders.cli import host; host()"
GRACE_SECONDS = SETTLE_SECONDS + FAREWELL_SECONDS + 10.0  # beyond the drain: to hand over results, and to end


def devices(wanted: str) -> tuple[str, ...]:
    """`all`: every GPU that torch finds, else the CPU. Raises `NoDeviceError`."""
    if wanted != ALL:
        return tuple(wanted.split(","))
    asked = subprocess.run([sys.executable, "-P", "-c", COUNT], capture_output=True, text=True, check=False)  # noqa: S603  our own
    if asked.returncode:
        raise NoDeviceError(ALL, f"torch cannot be asked: {asked.stderr.strip().rpartition(chr(10))[2]}")
    return tuple(f"cuda:{index}" for index in range(int(asked.stdout))) or ("cpu",)


def seat(settings: Settings) -> Path:
    """Where one host of a home keeps what is its own; the first one's is the home itself."""
    return settings.home / "seats" / str(settings.host_seat) if settings.host_seat else settings.home


async def run(
    address: Address, settings: Settings, devices: tuple[str, ...], *, name: str, zone: str | None = None
) -> None:
    """Until SIGTERM or SIGINT, which drains all of them; a second one ends that as well."""
    hosts = [
        _host(address, settings, devices, seat, f"{name} {devices[seat]}", zone)
        for seat in range(len(devices))
    ]
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def signalled() -> None:
        if stop.is_set():
            for host in hosts:
                host.tell(signal.SIGTERM)
        stop.set()

    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, signalled)
    keepers = []
    try:
        for host in hosts:
            await host.start()
            keepers.append(asyncio.create_task(host.keep_running()))
        await stop.wait()
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        grace_seconds = settings.drain_seconds + GRACE_SECONDS
        await asyncio.gather(*(host.stop(grace_seconds=grace_seconds) for host in hosts))


def _host(
    address: Address, settings: Settings, devices: tuple[str, ...], seat: int, name: str, zone: str | None
) -> Child:
    environment = {
        **os.environ,
        **settings.environment(),
        "MARQUEE_HOST_KEY": address.key,
        "MARQUEE_DEVICE": devices[seat],
        "MARQUEE_HOST_SEAT": str(seat),
        "MARQUEE_HOSTS_HERE": str(len(devices)),
    }
    if seat:  # one gives out the files of all
        environment.pop("MARQUEE_BLOBS_URL", None)
    options = ["--url", address.url, "--name", name, *(("--zone", zone) if zone else ())]
    return Child(name=name, command=[sys.executable, "-P", "-c", HOST, *options], environment=environment)
