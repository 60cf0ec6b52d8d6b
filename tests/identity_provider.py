"""A small OpenID provider for tests: real HTTP on localhost, real signatures, codes that work once, PKCE checked.

`knobs` say how it misbehaves. Everybody who comes to its authorization address is signed in as `claims`.
"""

import base64
import hashlib
import secrets
import time
from typing import Any
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from litestar import Litestar, Request, Response, get, post
from litestar.response import Redirect

CLIENT, SECRET = "marquee", "its secret"
AnyRequest = Request[Any, Any, Any]


class Provider:
    def __init__(self) -> None:
        self.address = ""
        self.claims: dict[str, Any] = {"organization": "acme", "role": "lab"}
        self.knobs: dict[str, Any] = {}
        self.asked: dict[str, str] = {}  # the last authorization request
        self.rotate()
        self._codes: dict[str, dict[str, str]] = {}

    def rotate(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": secrets.token_hex(4), "use": "sig", "alg": "RS256"})

    @property
    def app(self) -> Litestar:
        @get("/.well-known/openid-configuration", sync_to_thread=False)
        def describe() -> Any:
            described = {
                "issuer": self.address,
                "authorization_endpoint": f"{self.address}/authorize",
                "token_endpoint": f"{self.address}/token",
                "jwks_uri": f"{self.address}/keys",
                "end_session_endpoint": f"{self.address}/end",
                "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
            }
            return described | self.knobs.get("described", {})

        @get("/authorize", sync_to_thread=False)
        def authorize(request: AnyRequest) -> Redirect:
            self.asked = dict(request.query_params)
            if "error" in self.knobs:
                query = {"error": self.knobs["error"], "state": self.asked["state"]}
            else:
                code = secrets.token_urlsafe(16)
                self._codes[code] = self.asked
                query = {"code": code, "state": self.asked["state"], "iss": self.address}
            return Redirect(f"{self.asked['redirect_uri']}?{urlencode(query | self.knobs.get('back', {}))}")

        @post("/token", status_code=200)
        async def token(request: AnyRequest) -> Response[Any]:
            form = await request.form()
            asked = self._codes.pop(form["code"], None)
            challenge = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            if (
                asked is None
                or base64.urlsafe_b64encode(challenge).rstrip(b"=").decode() != asked["code_challenge"]
                or asked["redirect_uri"] != form["redirect_uri"]
            ):
                return Response({"error": "invalid_grant"}, status_code=400)
            if not self._is_client(request.headers.get("authorization", "")):
                return Response({"error": "invalid_client"}, status_code=401)
            return Response({"access_token": "a", "token_type": "Bearer", "id_token": self._token(asked)})

        @get("/keys", sync_to_thread=False)
        def keys() -> Any:
            return KeySet([self.key]).as_dict(private=False)

        @get("/end", sync_to_thread=False, media_type="text/html")
        def end() -> str:
            return '<link rel="icon" href="data:,"><h1>Signed out everywhere</h1>'

        return Litestar([describe, authorize, token, keys, end], openapi_config=None)

    def _is_client(self, header: str) -> bool:
        given = base64.b64decode(header.removeprefix("Basic ")).decode()
        return given == f"{CLIENT}:{SECRET}"

    def _token(self, asked: dict[str, str]) -> str:
        now = int(time.time())
        claims = {
            "iss": self.address,
            "sub": "u-1",
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
        }
        claims |= self.claims | self.knobs.get("token", {})
        key = self.knobs.get("key", self.key)
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, key)
