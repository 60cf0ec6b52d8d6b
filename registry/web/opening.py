"""Makes the pages' door from the settings, and keeps the secret that signs its cookies. IO (one small file)."""

import ipaddress
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from registry.errors import HomeNotWritableError
from registry.settings import Settings
from registry.web import sessions
from registry.web.signin import Door, VerifyKey


def door(settings: Settings, *, verify: VerifyKey, find: VerifyKey) -> Door:
    """`verify` finds the caller of a typed key, `find` that of a key's public id. Raises `HomeNotWritableError`."""
    return Door(
        secret=session_secret(settings.home),
        verify=verify,
        find=find,
        playground_key=settings.playground_key,
        loopback=_is_for_this_machine_only(settings),
        secure=settings.address.startswith("https:"),
    )


def session_secret(home: Path) -> bytes:
    """The same bytes at every start, so that a restart signs nobody out. Gateways behind one balancer share a home."""
    path = home / "session.secret"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            fresh.touch(mode=0o600)
            fresh.write_bytes(secrets.token_bytes(sessions.SECRET_BYTES))
            _link_unless_there(fresh, path)
        return path.read_bytes()
    except OSError as error:
        raise HomeNotWritableError(home, error.strerror or str(error)) from error


def _link_unless_there(fresh: Path, path: Path) -> None:
    """Of two processes that start at once, the first one's secret stays."""
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()


def _is_for_this_machine_only(settings: Settings) -> bool:
    """A public address means a proxy before us: then nobody is a local visitor, whatever the socket says."""
    public = urlsplit(settings.public_url).netloc if settings.public_url else settings.host
    return _is_loopback_address(settings.host) and (
        sessions.is_loopback(public) or _is_loopback_address(public)
    )


def _is_loopback_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
