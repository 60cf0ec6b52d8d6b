"""The door to the pages: who is visiting, signing in by key, signing out. A process edge (HTTP in).

On a loopback address the page opens with a session of its own: the gateway's `playground_key` speaks for the
visitor, as long as the visitor named the machine by a loopback name. Elsewhere a key is typed in once. The key
never travels back: the cookie names it by its public id.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.datastructures import Cookie
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.params import QueryParameter, URLEncodedBody
from litestar.response import Redirect

from registry.catalog import Caller, OrganizationName
from registry.web import identities, sessions, trouble
from registry.web.oidc import Provider
from registry.web.rendering import SHARED, Pages, compressed, static_files

AnyRequest = Request[Any, Any, Any]
VerifyKey = Callable[[str], Awaitable[Caller | None]]
TOKEN_HEADER = "x-marquee-token"  # noqa: S105  the header's name


class Visitor(msgspec.Struct, frozen=True, kw_only=True):
    """Who is looking at a page. `fresh` is a cookie that the answer must set."""

    caller: Caller | None = None
    token: str = ""
    fresh: str | None = None


class Company(msgspec.Struct, frozen=True, kw_only=True):
    """The company's own sign-in beside keys."""

    provider: Provider
    rules: identities.Rules
    knows: Callable[[str], Awaitable[bool]]  # whether there is an organization of this name
    name: str
    session_seconds: float
    address: str  # ours, as the provider and browsers know it


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """All that telling visitors apart needs; made once per process by its composition root."""

    secret: bytes
    verify: VerifyKey  # a key as typed → its caller
    find: VerifyKey  # a key's public id → its caller, None once revoked
    playground_key: str | None = None
    loopback: bool = False  # whether the gateway listens on a loopback address only
    secure: bool = False  # whether browsers reach it by https
    company: Company | None = None
    pages: Pages = msgspec.field(default_factory=Pages)

    async def visitor(self, request: AnyRequest) -> Visitor:
        session, caller = await self._signed_in(request)
        if caller is None:
            return await self._local(request)
        assert session is not None
        return Visitor(caller=caller, token=sessions.form_token(self.secret, session))

    async def actor(self, request: AnyRequest) -> Caller:
        """The caller behind a change that a page asks for. Raises 401 without a session, 403 for a foreign page."""
        session, caller = await self._signed_in(request)
        if session is None or caller is None:
            raise NotAuthorizedException("Sign in first: this page's session has ended.")
        token = request.headers.get(TOKEN_HEADER)
        if not (is_own_page(request) and sessions.token_matches(self.secret, session, token)):
            raise PermissionDeniedException("This change did not come from a page of this gateway.")
        return caller

    async def _signed_in(self, request: AnyRequest) -> tuple[sessions.Session | None, Caller | None]:
        session = self.session(request)
        if session is None or not session.role:
            return session, await self.find(session.key_id) if session else None
        return session, identities.caller(
            identities.Identity(
                key_id=session.key_id,
                organization=OrganizationName(session.organization),
                role=identities.role(session.role),
            )
        )

    def session(self, request: AnyRequest) -> sessions.Session | None:
        """One that a provider vouched for ends earlier, and with the provider's configuration."""
        cookie, now = request.cookies.get(sessions.COOKIE), time.time()
        session = sessions.read(self.secret, cookie, now)
        if session is None or not session.role:
            return session
        if self.company is None:
            return None
        return sessions.read(self.secret, cookie, now, lifetime=self.company.session_seconds)

    async def _local(self, request: AnyRequest) -> Visitor:
        is_local = (
            self.loopback and sessions.is_loopback(request.headers.get("host")) and not is_forwarded(request)
        )
        caller = await self.verify(self.playground_key) if is_local and self.playground_key else None
        return self.enter(caller) if caller else Visitor()

    def enter(self, caller: Caller, role: str = "") -> Visitor:
        """`role` where no key stands behind the caller."""
        organization = caller.organization if role else ""
        session = sessions.Session(caller.key_id, int(time.time()), organization, role)
        token = sessions.form_token(self.secret, session)
        return Visitor(caller=caller, token=token, fresh=sessions.issue(self.secret, session))

    def cookies(self, visitor: Visitor) -> tuple[Cookie, ...]:
        return (self.cookie(visitor.fresh, sessions.LIFETIME_SECONDS),) if visitor.fresh else ()

    def ask(self, target: str, *, status: int = 200, refused: bool = False, wrong: str = "") -> Response[str]:
        """The sign-in page; `wrong` says why the company's sign-in failed."""
        return self.pages.answer(
            "sign_in.html",
            status=status,
            visitor=Visitor(),
            next=target,
            refused=refused,
            wrong=wrong,
            company=self.company,
        )

    def cookie(self, value: str, seconds: int) -> Cookie:
        return Cookie(
            key=sessions.COOKIE,
            value=value,
            max_age=seconds,
            httponly=True,
            samesite="strict",
            secure=self.secure,
        )


class SignIn(msgspec.Struct, frozen=True):
    """The sign-in form."""

    key: str = ""
    next: str = "/"


def is_own_page(request: AnyRequest) -> bool:
    return sessions.is_same_origin(
        host=request.headers.get("host"),
        origin=request.headers.get("origin"),
        fetch_site=request.headers.get("sec-fetch-site"),
    )


def is_forwarded(request: AnyRequest) -> bool:
    """Whether a proxy on this machine speaks for somebody elsewhere."""
    return any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip", "via"))


def own_path(path: str) -> str:
    """A path of ours to go on to; anything that a browser could read as another site becomes `/`."""
    is_ours = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_ours else "/"


def router(door: Callable[[], Door]) -> Router:
    """Sign-in, sign-out and the shared static files. `door` is asked on each call: it exists once the app runs."""

    @get("/sign-in", include_in_schema=False)
    async def ask(
        next_path: Annotated[str, QueryParameter(name="next")] = "/",
    ) -> Response[str]:
        return door().ask(own_path(next_path))

    @post("/sign-in", include_in_schema=False)
    async def enter(request: AnyRequest, data: URLEncodedBody[SignIn]) -> Response[Any]:
        if not is_own_page(request):
            raise PermissionDeniedException("Sign in from this gateway's own page.")
        caller = await door().verify(data.key.strip())
        target = own_path(data.next)
        if caller is None:
            return door().ask(target, status=401, refused=True)
        return Redirect(target, status_code=303, cookies=list(door().cookies(door().enter(caller))))

    @post("/sign-out", include_in_schema=False)
    async def leave(request: AnyRequest) -> Response[Any]:
        if not is_own_page(request):
            raise PermissionDeniedException("Sign out from this gateway's own page.")
        session = door().session(request)
        target = "/sign-in/company/left" if session is not None and session.role else "/sign-in"
        return Redirect(target, status_code=303, cookies=[door().cookie("", 0)])

    static = static_files("/shared", SHARED / "static")
    return Router(
        "/",
        route_handlers=[ask, enter, leave, static],
        middleware=[compressed()],
        exception_handlers=trouble.handlers(),
    )
