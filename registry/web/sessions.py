"""Sessions: a signed cookie that names a key but holds no secret, and the checks that keep other sites out. Pure.

A cookie is worth as much as its key: whoever reads it looks the key up again, so a revoked key ends its sessions.
A session begun through an identity provider has no key; it carries organization and role instead, and lives shorter.
It refuses to know where the signing secret lives or what the time is; both come in as arguments.
"""

import base64
import binascii
import hashlib
import hmac
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

COOKIE = "marquee_session"
LIFETIME_SECONDS = 14 * 24 * 3600
SECRET_BYTES = 32
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Session(msgspec.Struct, frozen=True, array_like=True):
    """Who signed in, by the public id of the key, and when the cookie was made (unix seconds).

    `organization` and `role` are set where an identity provider vouched for the visitor, and no key did.
    """

    key_id: str
    issued_at: int
    organization: str = ""
    role: str = ""


Sealed = TypeVar("Sealed", bound=msgspec.Struct)


def seal(secret: bytes, purpose: str, content: msgspec.Struct) -> str:
    """Readable by whoever holds it, and by nobody changed unnoticed. One purpose's seal is no other's."""
    body = _encode(msgspec.json.encode(content))
    return f"{body}.{_sign(secret, purpose, body)}"


def unseal(secret: bytes, purpose: str, text: str | None, kind: type[Sealed]) -> Sealed | None:
    body, _, signature = (text or "").partition(".")
    if not hmac.compare_digest(signature.encode(), _sign(secret, purpose, body).encode()):
        return None
    try:
        return msgspec.json.decode(_decode(body), type=kind)
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        return None


def issue(secret: bytes, session: Session) -> str:
    return seal(secret, "cookie", session)


def read(
    secret: bytes, cookie: str | None, now: float, *, lifetime: float = LIFETIME_SECONDS
) -> Session | None:
    """The session a cookie proves; None for anything forged, cut or older than its lifetime."""
    session = unseal(secret, "cookie", cookie, Session)
    if session is None:
        return None
    return session if 0 <= now - session.issued_at + 60 <= lifetime else None


def form_token(secret: bytes, session: Session) -> str:
    """What a page of this session must send along with every change; another site cannot read it."""
    return _sign(secret, "form", f"{session.key_id}:{session.issued_at}")


def token_matches(secret: bytes, session: Session, token: str | None) -> bool:
    return hmac.compare_digest(form_token(secret, session).encode(), (token or "").encode())


def is_loopback(host_header: str | None) -> bool:
    """Whether the visitor named this machine by a loopback name; a rebound DNS name shows itself here."""
    try:
        return urlsplit(f"//{host_header or ''}").hostname in _LOOPBACK_NAMES
    except ValueError:
        return False


def is_same_origin(*, host: str | None, origin: str | None, fetch_site: str | None) -> bool:
    """Whether a change was asked for by our own page. Compares authorities: TLS may end before us."""
    if origin is not None:
        return bool(host) and urlsplit(origin).netloc.lower() == (host or "").lower()
    return fetch_site == "same-origin"


def _sign(secret: bytes, purpose: str, body: str) -> str:
    return _encode(hmac.new(secret, f"{purpose}:{body}".encode(), hashlib.sha256).digest())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
