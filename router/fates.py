"""What became of a request, for its caller: `GET /v1/requests/{id}`, and with `explain` why it ran where. Process edge."""

from typing import Any

import msgspec
from litestar import Router, get
from litestar.params import FromPath

from registry import edge
from router.clients.door import AnyRequest, Home
from router.errors import ForbiddenError, RouterError, UnauthorizedError, UnknownRequestError
from router.requests import Status
from router.rows import AttemptRow

PROBLEMS: dict[type[Exception], tuple[int, str]] = {
    UnauthorizedError: (401, "Key needed"),
    ForbiddenError: (403, "Not allowed"),
    UnknownRequestError: (404, "Unknown request"),
    RouterError: (503, "Not available"),
}


class Fate(msgspec.Struct, frozen=True, kw_only=True):
    """A request's status; with `explain`, every attempt and the prices that placed it."""

    status: Status
    attempts: tuple[AttemptRow, ...] | None = None


def router(home: Home) -> Router:
    @get("/v1/requests/{request_id:str}", include_in_schema=False)
    async def fate(request: AnyRequest, request_id: FromPath[str]) -> Fate:
        house = home()
        caller = house.caller(request)
        status = await house.core.status(caller, request_id)
        if "explain" not in request.query_params:
            return Fate(status=status)
        return Fate(status=status, attempts=tuple(await house.core.attempts(caller, request_id)))

    handlers: dict[Any, Any] = edge.problem_handlers(PROBLEMS)
    return Router("/", route_handlers=[fate], exception_handlers=handlers)
