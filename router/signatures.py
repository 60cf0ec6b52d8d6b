"""Signs webhooks as fal (Ed25519) and Replicate (a secret for each organization) do, and addresses for uploads; publishes
the public key. IO: one small file; the rest is pure.

Gateways behind one balancer share a home, and so the key.
"""

import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_BYTES = 32
SEAL = b"marquee seal\n"  # no webhook begins with it: an id does
SHARED = b"marquee webhook secret\n"


class Signer:
    """One private key."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)

    @classmethod
    def at(cls, path: Path) -> "Signer":
        """The key kept in this file; made at the first start. Of two processes that make it at once, one wins."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            fresh.touch(mode=0o600)
            fresh.write_bytes(secrets.token_bytes(KEY_BYTES))
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return cls(path.read_bytes())

    def headers(self, request_id: str, user_id: str, body: bytes, timestamp: int) -> dict[str, str]:
        """Over request, user, time and the body's hash, a line each."""
        digest = hashlib.sha256(body).hexdigest()
        signed = "\n".join((request_id, user_id, str(timestamp), digest)).encode()
        return {
            "x-fal-webhook-request-id": request_id,
            "x-fal-webhook-user-id": user_id,
            "x-fal-webhook-timestamp": str(timestamp),
            "x-fal-webhook-signature": self._key.sign(signed).hex(),
        }

    def shared_headers(self, request_id: str, user_id: str, body: bytes, timestamp: int) -> dict[str, str]:
        """As standardwebhooks.com says, which Replicate follows."""
        signed = f"{request_id}.{timestamp}.".encode() + body
        signature = hmac.new(self._shared(user_id), signed, hashlib.sha256).digest()
        return {
            "webhook-id": request_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
        }

    def shared_secret(self, user_id: str) -> str:
        """What an organization checks those with; it is told to nobody else."""
        return f"whsec_{base64.b64encode(self._shared(user_id)).decode()}"

    def _shared(self, user_id: str) -> bytes:
        return hmac.new(self._key.private_bytes_raw(), SHARED + user_id.encode(), hashlib.sha256).digest()

    def seal(self, text: str) -> str:
        """A token that `opened` gives back, for addresses that shall work without a key."""
        return f"{text}.{self._key.sign(SEAL + text.encode()).hex()}"

    def opened(self, token: str) -> str | None:
        """The text of a token of ours; None for any other."""
        text, _, signature = token.rpartition(".")
        try:
            self._key.public_key().verify(bytes.fromhex(signature), SEAL + text.encode())
        except (InvalidSignature, ValueError):
            return None
        return text

    @property
    def jwks(self) -> dict[str, list[dict[str, str]]]:
        raw = self._key.public_key().public_bytes_raw()
        x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        return {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}
