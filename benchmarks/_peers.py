"""Peers run in environments of their own, so that their dependencies never meet ours. Benchmarks only.

`python(name)` is the interpreter of one peer, made from `peers/NAME.txt` when it is missing or old, or None (with a
line that says why) where it cannot be installed. `running(name, script, …)` keeps a script of that peer alive for a
block: on the loopback, with a short folder for Ray's sockets, and with nothing left behind.

By hand: `python -m benchmarks._peers ray SCRIPT ARGUMENTS…`; without a script it only installs.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import psutil

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "peers"
SEE_OURS = frozenset({"ray"})  # deployments load pipelines with our torch and diffusers
INSTALL_SECONDS = 900
STOP_SECONDS = 15


def folder() -> Path:
    return Path(os.environ.get("BENCH_PEERS") or HERE.parent / ".venv-peers")


def python(name: str) -> Path | None:
    """The peer's interpreter. None, and one line on stderr, where it cannot be had."""
    requirements = REQUIREMENTS / f"{name}.txt"
    home = folder() / name
    interpreter, mark = home / "bin" / "python", home / "installed"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not (mark.exists() and mark.read_text() == wanted):
        print(f"   installing {name} into {home}", file=sys.stderr, flush=True)
        trouble = _install(home, requirements)
        if trouble is not None:
            print(f"   skipped: {name} cannot be installed here: {trouble}", file=sys.stderr, flush=True)
            return None
        mark.write_text(wanted)
    if name in SEE_OURS:
        _show_ours(home)
    return interpreter


def _install(home: Path, requirements: Path) -> str | None:
    """What went wrong, or None. Every dependency is pinned in the file, so that none is resolved or added."""
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, symlinks=True, with_pip=False)
    command = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
    command += ["--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "-r", str(requirements)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"pip took more than {INSTALL_SECONDS} s"
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return None if done.returncode == 0 else (errors or ["pip failed"])[-1]


def _show_ours(home: Path) -> None:
    """Behind its own packages the peer sees those of the interpreter that asks, and this tree."""
    ours = [path for path in sys.path if path.endswith("site-packages")]
    theirs = next(home.glob("lib/python*/site-packages"))
    (theirs / "ours.pth").write_text("\n".join([*ours, str(HERE.parent)]) + "\n")


@contextlib.contextmanager
def running(name: str, *command: str, **options) -> Iterator[subprocess.Popen | None]:
    """The peer's interpreter with these arguments, until the end of the block. None where it is not installable."""
    interpreter = python(name)
    if interpreter is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as short:
        process = subprocess.Popen([interpreter, *command], env=environment(short), **options)
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            _end_all(short)
            process.wait(STOP_SECONDS)


def environment(short: str) -> dict[str, str]:
    """Ours, with Ray's sockets in `short` (their paths are limited to about 100 bytes) and nothing told outside."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}
    return clean | {
        "RAY_TMPDIR": short,
        "RAY_USAGE_STATS_ENABLED": "0",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def _end_all(short: str) -> None:
    """Ray's daemons leave their parent: what was started with our folder is ours to end."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RAY_TMPDIR") == short:
                process.kill()
                process.wait(STOP_SECONDS)


def main() -> int:
    """Not `main()` of a benchmark: `python -m benchmarks` passes over names with an underscore."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what it started ends as well
    name, *command = sys.argv[1:]
    if not command:
        return 0 if python(name) else 1
    with running(name, *command) as process:
        return 1 if process is None else process.wait()


if __name__ == "__main__":
    sys.exit(main())
