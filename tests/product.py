"""The product as its users have it: `marquee up` in a process of its own, called over HTTP. For tests and benchmarks."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
UP_WITHIN_SECONDS = 150  # two busy cores import torch twice


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _another_project(beside: Path) -> Path:
    """Where a user may well stand: a folder whose packages have the names of ours."""
    folder = beside / "another-project"
    for name in ("loaders", "registry", "router"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "__init__.py").write_text("raise ImportError('somebody else')")
    return folder


class Marquee:
    """One `marquee up` and what a customer does with it."""

    def __init__(self, home: Path, port: int | None = None, arguments: tuple[str, ...] = ()):
        self.home = home
        self.port = free_port() if port is None else port
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None

    def spawn(self):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MARQUEE_")}
        command = [
            sys.executable,
            "-P",
            "-m",
            "router.cli",
            "up",
            "--home",
            str(self.home),
            "--port",
            str(self.port),
        ]
        self.home.parent.mkdir(parents=True, exist_ok=True)
        with (self.home.parent / f"{self.home.name}.out").open("ab") as output:
            self.process = subprocess.Popen(
                [*command, *self.arguments],
                cwd=_another_project(self.home.parent),
                env=environment,
                stdout=output,
                stderr=output,
            )
        return self

    def start(self):
        self.spawn()
        deadline = time.monotonic() + UP_WITHIN_SECONDS
        while not (self.home / "ready.json").exists():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.1)
        return self

    def output(self):
        logs = sorted((self.home / "logs").glob("*.log")) if (self.home / "logs").exists() else []
        files = [self.home.parent / f"{self.home.name}.out", *logs]
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)

    def stop(self, signal_number=signal.SIGTERM):
        """Returns the seconds it took and the exit code."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        code = self.process.wait(timeout=60)
        return time.monotonic() - began, code

    @property
    def ready(self):
        return json.loads((self.home / "ready.json").read_text())

    @property
    def pids(self):
        return self.ready["pids"]

    def client(self, key: str | None = "customer_key", **options):
        ready = self.ready
        headers = {"Authorization": f"Key {ready[key]}"} if key else {}
        return httpx.Client(base_url=ready["url"], headers=headers, timeout=120, trust_env=False, **options)

    def run(self, slug: str, **arguments):
        with self.client() as client:
            response = client.post(f"/fal/run/{slug}", json=arguments)
            assert response.status_code == 200, (response.text, self.output())
            return response.json()

    def picture_bytes(self, answer, index: int = 0):
        response = httpx.get(answer["images"][index]["url"], trust_env=False)
        assert response.status_code == 200, response.text
        return response.content

    def picture(self, slug: str, **arguments):
        return Image.open(io.BytesIO(self.picture_bytes(self.run(slug, **arguments)))).convert("RGB")
