"""An OpenID Connect provider as we use it: authorization code with PKCE, state and nonce; the id token checked. IO (HTTP).

Authlib makes the addresses and the exchange, joserfc checks signatures against the provider's published keys. It
keeps nothing of a sign-in: what must be remembered between leaving and coming back is the visitor's, in a cookie.
"""

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import httpx2
import msgspec
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from registry.catalog import Record
from registry.web.errors import IdTokenError, IssuerError, ProviderDownError, ProviderRefusedError

ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)  # only such that the provider alone can sign with
NEEDED = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")
HTTP_SECONDS = 10.0
KEPT_SECONDS = 3600.0  # of the provider's description and keys
LEEWAY_SECONDS = 60


class Client(Record, frozen=True, kw_only=True):
    """What the provider knows us by."""

    issuer: str
    client_id: str
    client_secret: str | None = None  # None: a public client, which PKCE alone protects
    scopes: str = "openid profile email"
    redirect_uri: str


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """A sign-in under way, kept by the visitor's browser in a signed cookie."""

    state: str
    nonce: str
    verifier: str
    next: str
    begun_at: int


class Provider:
    """One provider, described by its own discovery document, read when first needed and again every hour."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._described: tuple[float, Mapping[str, Any]] | None = None
        self._keys: tuple[float, KeySet] | None = None

    async def begin(self, next_path: str, now: float) -> tuple[str, Attempt]:
        """Where to send the visitor. Raises `ProviderDownError`, `IssuerError`."""
        described = await self._description()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        attempt = Attempt(state, nonce, verifier, next_path, int(now))
        async with self._session() as session:
            url, _ = session.create_authorization_url(
                described["authorization_endpoint"],
                state=attempt.state,
                nonce=attempt.nonce,
                code_verifier=attempt.verifier,
            )
        return url, attempt

    async def finish(self, attempt: Attempt, code: str, issuer: str | None) -> Mapping[str, Any]:
        """The claims of whoever came back. Raises errors of `SignInError`."""
        described = await self._description()
        if issuer is not None and issuer != described["issuer"]:
            raise IssuerError(described["issuer"], issuer)
        async with self._session() as session:
            token = await session.fetch_token(
                described["token_endpoint"], code=code, code_verifier=attempt.verifier
            )
        if not isinstance(token.get("id_token"), str):
            raise IdTokenError("the provider gave none; is `openid` among the scopes?")
        return await self._verified(token, attempt.nonce, described)

    async def end_address(self, back: str) -> str | None:
        """Where the provider ends its own session; None where it does not, or is down."""
        try:
            described = await self._description()
        except (ProviderDownError, IssuerError):
            return None
        query = urlencode({"client_id": self._client.client_id, "post_logout_redirect_uri": back})
        end = described.get("end_session_endpoint")
        return f"{end}{'&' if '?' in end else '?'}{query}" if end else None

    async def _verified(
        self, token: Mapping[str, Any], nonce: str, described: Mapping[str, Any]
    ) -> dict[str, Any]:
        told = described.get("id_token_signing_alg_values_supported") or ["RS256"]
        registry = JWSRegistry(algorithms=sorted(ALGORITHMS & set(told)), strict_check_header=False)
        try:
            try:
                decoded = jwt.decode(token["id_token"], await self._key_set(described), registry=registry)
            except InvalidKeyIdError:  # the provider changed its keys
                keys = await self._key_set(described, afresh=True)
                decoded = jwt.decode(token["id_token"], keys, registry=registry)
            if (issuer := decoded.claims.get("iss")) != described["issuer"]:
                raise IssuerError(described["issuer"], str(issuer))
            options = {
                "iss": {"essential": True, "value": described["issuer"]},
                "aud": {"essential": True, "value": self._client.client_id},
            }
            expected = {
                "nonce": nonce,
                "client_id": self._client.client_id,
                "access_token": token.get("access_token"),
            }
            claims = CodeIDToken(decoded.claims, decoded.header, options, expected)
            claims.validate(now=int(time.time()), leeway=LEEWAY_SECONDS)
        except (JoseError, ValueError, KeyError) as error:
            said = error.args[0] if isinstance(error, KeyError) and error.args else error
            raise IdTokenError(str(said) or type(error).__name__) from error
        return dict(claims)

    async def _description(self) -> Mapping[str, Any]:
        if self._described is None or time.monotonic() - self._described[0] > KEPT_SECONDS:
            issuer = self._client.issuer.rstrip("/")
            found = await self._get(f"{issuer}/.well-known/openid-configuration", NEEDED)
            if str(found["issuer"]).rstrip("/") != issuer:
                raise IssuerError(issuer, str(found["issuer"]))
            self._described = (time.monotonic(), found)
        return self._described[1]

    async def _key_set(self, described: Mapping[str, Any], *, afresh: bool = False) -> KeySet:
        if afresh or self._keys is None or time.monotonic() - self._keys[0] > KEPT_SECONDS:
            found = await self._get(described["jwks_uri"], ("keys",))
            self._keys = (time.monotonic(), KeySet.import_key_set({"keys": found["keys"]}))
        return self._keys[1]

    async def _get(self, url: str, needed: Sequence[str]) -> Mapping[str, Any]:
        async with self._session() as session:
            answer = await session.request("GET", url, withhold_token=True)
            answer.raise_for_status()
            found = answer.json()
        if not isinstance(found, dict) or (missing := [name for name in needed if name not in found]):
            raise ProviderDownError(self._client.issuer, f"{url} lacks {', '.join(missing) or 'an object'}")
        return found

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncOAuth2Client]:
        """Translates what goes wrong over there."""
        client = self._client
        try:
            async with AsyncOAuth2Client(
                client_id=client.client_id,
                client_secret=client.client_secret,
                token_endpoint_auth_method="client_secret_basic" if client.client_secret else "none",
                scope=client.scopes,
                redirect_uri=client.redirect_uri,
                code_challenge_method="S256",
                timeout=HTTP_SECONDS,
            ) as session:
                yield session
        except AuthlibBaseError as error:
            raise ProviderRefusedError(error.error, error.description) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            raise ProviderDownError(client.issuer, str(error) or type(error).__name__) from error
