"""Servers of their own processes for benchmarks: our gateway with instant hosts, bare Litestar, and the peers.

Each is a context that yields the process once it answers and leaves nothing behind.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks import _peers

START_SECONDS = 180.0
LITELLM = """
model_list:
  - model_name: toys
    litellm_params: {{model: openai/toys, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}
    model_info: {{mode: image_generation}}
general_settings: {{master_key: {key}}}
litellm_settings: {{num_retries: 0, telemetry: false}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen | None = None) -> None:
    for _ in range(int(10 * START_SECONDS)):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        time.sleep(0.1)
    raise TimeoutError(f"nobody listens on port {port}")


@contextlib.contextmanager
def gateway(home: Path, dsn: str, port: int) -> Iterator[subprocess.Popen]:
    environment = {
        **os.environ,
        "MARQUEE_HOME": str(home),
        "MARQUEE_DATABASE_URL": dsn,
        "MARQUEE_PORT": str(port),
    }
    command = [sys.executable, *os.environ.get("GATEWAY_PREFIX", "").split(), "-m", "router.gateway"]
    with (home / "gateway.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
    try:
        wait_for(port, process)
        yield process
    finally:
        process.terminate()
        process.wait(15)


@contextlib.contextmanager
def host(port: int, key: str, name: str, *options: str) -> Iterator[subprocess.Popen]:
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "benchmarks._instant_host", url, key, name, *options]
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def bare_litestar() -> Iterator[tuple[int, subprocess.Popen]]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks._bare", str(port)])
    try:
        wait_for(port, process)
        yield port, process
    finally:
        process.terminate()
        process.wait(15)


@contextlib.contextmanager
def litellm(upstream: int, key: str) -> Iterator[tuple[int, subprocess.Popen] | None]:
    """Its proxy with one image model, which an instant upstream answers. None where it is not installable."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "litellm.yaml"
        configuration.write_text(LITELLM.format(upstream=upstream, key=key))
        proxy = _peers.folder() / "litellm" / "bin" / "litellm"
        command = (str(proxy), "--config", str(configuration), "--host", "127.0.0.1", "--port", str(port))
        with _peers.running(
            "litellm", *command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as made:
            if made is not None:
                wait_for(port, made)
            yield None if made is None else (port, made)


@contextlib.contextmanager
def ray_serve() -> Iterator[tuple[int, subprocess.Popen] | None]:
    """One multiplexed deployment that answers at once. None where it is not installable."""
    port = free_port()
    script = str(_peers.REQUIREMENTS / "serve_multiplexed.py")
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with _peers.running("ray", script, str(port), **options) as made:
        if made is None:
            yield None
            return
        if not any(line.startswith("ready") for line in made.stdout):
            raise RuntimeError("Ray Serve did not start")
        yield port, made


def busy_seconds(*processes: subprocess.Popen | psutil.Process, children: bool = False) -> float:
    """CPU seconds that they have used so far; with `children`, those of all below them as well."""
    total = 0.0
    for process in (psutil.Process(p.pid) for p in processes):
        for one in (process, *(process.children(recursive=True) if children else ())):
            times = one.cpu_times()
            total += times.user + times.system
    return total
