"""What chaos kills, and starts again: hosts, two gateways, Postgres; and the balancer before the gateways, which lives."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from benchmarks._serving import free_port
from registry import postgres

HOSTS = 4
PIECE_BYTES = 1 << 16


class Victims:
    """The processes, by name; each can be killed and started again."""

    def __init__(self, home: Path, dsn: str, host_key: str, rng: random.Random, *, pretend: bool) -> None:
        self.home = home
        self.dsn = dsn
        self.rng = rng
        self.host_key = host_key
        self.balancer_port = free_port()
        self.ports = {"gateway-a": free_port(), "gateway-b": free_port()}
        self.hosts = [f"host-{number}" for number in range(HOSTS)]
        self.commands = {name: [sys.executable, "-m", "router.gateway"] for name in self.ports}
        for name in self.hosts:
            self.commands[name] = self._pretended(name) if pretend else self.real(name)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kills = 0

    def _pretended(self, name: str) -> list[str]:
        url = f"http://127.0.0.1:{self.balancer_port}"
        return [sys.executable, "-m", "benchmarks._pretend_host", url, self.host_key, name]

    def real(self, name: str) -> list[str]:
        url = f"http://127.0.0.1:{self.balancer_port}"
        options = ["--url", url, "--home", str(self.home / name), "--device", "cpu", "--name", name]
        return [sys.executable, "-m", "router.cli", "host", *options, "--key", self.host_key]

    def start_all(self) -> None:
        for name in self.commands:
            self.start(name)

    def start(self, name: str) -> None:
        environment = {**os.environ, "MARQUEE_DATABASE_URL": self.dsn}
        if name in self.ports:
            environment |= {"MARQUEE_HOME": str(self.home), "MARQUEE_PORT": str(self.ports[name])}
        with (self.home / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                self.commands[name], env=environment, stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        self.kills += 1
        if name == "postgres":
            os.kill(postgres.pid(self.home), signal.SIGKILL)
            time.sleep(0.2)
            postgres.ensure(self.home)
        else:
            self.processes[name].kill()
            self.processes[name].wait()
            self.start(name)

    def strike(self) -> str:
        name = self.rng.choice([*self.hosts, *self.ports, self.rng.choice(self.hosts), "postgres"])
        self.kill(name)
        return name

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


class Balancer:
    """One port before several, connection by connection in turn; one that refuses is passed over."""

    def __init__(self, ports: Iterable[int]) -> None:
        self._ports = list(ports)

    @contextlib.asynccontextmanager
    async def serving(self, port: int) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._join, "127.0.0.1", port)
        try:
            yield
        finally:
            server.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(len(self._ports)):
            self._ports.append(self._ports.pop(0))
            with contextlib.suppress(OSError, asyncio.CancelledError):  # the latter: the storm is over
                there = await asyncio.open_connection("127.0.0.1", self._ports[0])
                await asyncio.gather(_pass(reader, there[1]), _pass(there[0], writer))
                return
        writer.close()


async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.CancelledError):  # the latter: the storm is over
        while piece := await source.read(PIECE_BYTES):
            target.write(piece)
            await target.drain()
    target.close()
