"""Makes the pages' door from the settings, and keeps the secret that signs its cookies. IO (one small file)."""

import ipaddress
import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from registry.errors import HomeNotWritableError
from registry.settings import Settings, pairs
from registry.web import identities, oidc, sessions
from registry.web.signin import Company, Door, VerifyKey

Knows = Callable[[str], Awaitable[bool]]
BACK = "/sign-in/company/back"  # where the provider sends people; it must know this address


def door(settings: Settings, *, verify: VerifyKey, find: VerifyKey, knows: Knows) -> Door:
    """`verify` finds the caller of a typed key, `find` that of a key's public id; `knows` an organization's name.

    Raises `HomeNotWritableError`.
    """
    return Door(
        secret=session_secret(settings.home),
        verify=verify,
        find=find,
        playground_key=settings.playground_key,
        loopback=_is_for_this_machine_only(settings),
        secure=settings.address.startswith("https:"),
        company=company(settings, knows),
    )


def company(settings: Settings, knows: Knows) -> Company | None:
    """Reached when first needed: a provider that is down keeps no gateway from starting."""
    if settings.oidc_issuer is None or settings.oidc_client_id is None:
        return None
    client = oidc.Client(
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        client_secret=settings.oidc_client_secret,
        scopes=settings.oidc_scopes,
        redirect_uri=f"{settings.address}{BACK}",
    )
    rules = identities.Rules(
        organization_claim=settings.oidc_organization_claim,
        organizations=pairs("MARQUEE_OIDC_ORGANIZATIONS", settings.oidc_organizations),
        role_claim=settings.oidc_role_claim,
        roles=pairs("MARQUEE_OIDC_ROLES", settings.oidc_roles),
    )
    return Company(
        provider=oidc.Provider(client),
        rules=rules,
        knows=knows,
        name=settings.oidc_name,
        session_seconds=settings.oidc_session_hours * 3600,
        address=settings.address,
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
