"""Signing in through the company's identity provider: leaving for it, coming back, signing out of it. A process edge (HTTP).

What must be remembered meanwhile (state, nonce, verifier) is in a short-lived signed cookie, so any gateway may take
the visitor back. Every failure is a named error and becomes the sign-in page with its reason.
"""

import time
from collections.abc import Callable
from typing import Annotated, Any

import structlog
from litestar import Response, Router, get
from litestar.datastructures import Cookie
from litestar.exceptions import NotFoundException
from litestar.params import QueryParameter
from litestar.response import Redirect

from registry.web import identities, sessions
from registry.web.errors import AttemptError, ProviderRefusedError, SignInError, UnknownOrganizationError
from registry.web.oidc import Attempt
from registry.web.signin import AnyRequest, Company, Door, Visitor, own_path

PATH = "/sign-in/company"
COOKIE = "marquee_sign_in"
PURPOSE = "sign-in"
ATTEMPT_SECONDS = 600.0

log = structlog.get_logger("marquee.signin")


def router(door: Callable[[], Door]) -> Router:
    """Not found where no provider is configured."""

    @get(PATH, include_in_schema=False)
    async def leave(next_path: Annotated[str, QueryParameter(name="next")] = "/") -> Response[Any]:
        target = own_path(next_path)
        try:
            url, attempt = await _company(door()).provider.begin(target, time.time())
        except SignInError as error:
            return _failed(door(), target, error)
        cookie = _cookie(door(), sessions.seal(door().secret, PURPOSE, attempt), int(ATTEMPT_SECONDS))
        return Redirect(url, status_code=303, cookies=[cookie])

    @get(f"{PATH}/back", include_in_schema=False)
    async def come_back(request: AnyRequest) -> Response[Any]:
        attempt = sessions.unseal(door().secret, PURPOSE, request.cookies.get(COOKIE), Attempt)
        target = attempt.next if attempt else "/"
        try:
            visitor = await _enter(door(), request, attempt)
        except SignInError as error:
            return _failed(door(), target, error)
        cookies = [*door().cookies(visitor), _cookie(door(), "", 0)]
        # A page, not a redirect: the browser would count a redirect as the provider's, and keep our strict cookie back.
        return door().pages.answer("entered.html", cookies=cookies, visitor=Visitor(), target=target)

    @get(f"{PATH}/left", include_in_schema=False)
    async def left() -> Response[Any]:
        company = _company(door())
        address = await company.provider.end_address(f"{company.address}/sign-in")
        return door().pages.answer("left.html", visitor=Visitor(), target=address or "/sign-in")

    return Router("/", route_handlers=[leave, come_back, left])


async def _enter(door: Door, request: AnyRequest, attempt: Attempt | None) -> Visitor:
    company, given = _company(door), request.query_params
    if attempt is None or time.time() - attempt.begun_at > ATTEMPT_SECONDS:
        raise AttemptError("this browser began no sign-in, or it took too long; begin again")
    if given.get("state") != attempt.state:
        raise AttemptError("the answer belongs to another sign-in; begin again")
    if "error" in given or "code" not in given:
        raise ProviderRefusedError(given.get("error", "no code"), given.get("error_description"))
    claims = await company.provider.finish(attempt, given["code"], given.get("iss"))
    identity = identities.identify(claims, company.rules)
    if not await company.knows(identity.organization):
        raise UnknownOrganizationError(identity.organization)
    log.info("signed in", organization=identity.organization, role=identity.role, key=identity.key_id)
    return door.enter(identities.caller(identity), identity.role)


def _failed(door: Door, target: str, error: SignInError) -> Response[str]:
    log.warning("sign-in failed", error=type(error).__name__, reason=str(error))
    answer = door.ask(target, status=error.status, wrong=str(error))
    answer.set_cookie(_cookie(door, "", 0))
    return answer


def _company(door: Door) -> Company:
    if door.company is None:
        raise NotFoundException("No identity provider is configured here.")
    return door.company


def _cookie(door: Door, value: str, seconds: int) -> Cookie:
    """Lax: it must come along when the provider sends the visitor back."""
    return Cookie(
        key=COOKIE, value=value, max_age=seconds, path=PATH, httponly=True, samesite="lax", secure=door.secure
    )
