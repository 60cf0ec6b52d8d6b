"""What became of a request: `GET /v1/requests/{id}`, and with `explain` why it ran where. Process edge.

`DELETE /v1/requests/{id}/payloads` (fal's own address of it works as well) erases what it was sent and what it made.
Its owner may ask, and so may operators. Evicted parts are named only as far as the asker may know their models:
an embargo holds here as well.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import structlog
from litestar import Router, delete, get
from litestar.params import FromPath

from registry import edge
from registry.catalog import Adapter, Caller, Digest, Version
from router.catalogue import Catalogue
from router.clients.door import AnyRequest, Home, House
from router.errors import (
    ForbiddenError,
    NotFinishedError,
    RouterError,
    UnauthorizedError,
    UnknownRequestError,
)
from router.explanation import Fate
from router.links import token_of
from router.observatory import named
from router.rows import AttemptRow

PROBLEMS: dict[type[Exception], tuple[int, str]] = {
    UnauthorizedError: (401, "Key needed"),
    ForbiddenError: (403, "Not allowed"),
    NotFinishedError: (409, "Not ended"),
    UnknownRequestError: (404, "Unknown request"),
    RouterError: (503, "Not available"),
}
ERASING = ["/v1/requests/{request_id:str}/payloads", "/v1/models/requests/{request_id:str}/payloads"]

log = structlog.get_logger("marquee.gateway")


def _asker(house: House, request: AnyRequest) -> Caller:
    """Raises `UnauthorizedError`, `ForbiddenError`."""
    caller = house.core.catalogue.now.caller(token_of(request.headers.get("authorization")), None)
    if not caller.scopes & {"run", "operate"}:
        raise ForbiddenError("run")
    return caller


def router(home: Home) -> Router:
    @get("/v1/requests/{request_id:str}", include_in_schema=False)
    async def fate(request: AnyRequest, request_id: FromPath[str]) -> Fate:
        core, caller = home().core, _asker(home(), request)
        if "explain" not in request.query_params:
            return Fate(status=await core.inspect(caller, request_id))
        status, attempts = await core.explain(caller, request_id)
        names = _visible_names(core.catalogue, caller, attempts)
        if "operate" not in caller.scopes:  # a partner's names belong to the operator's account there
            attempts = [msgspec.structs.replace(row, partner_request_id=None) for row in attempts]
        return Fate(status=status, attempts=tuple(attempts), names=names)

    @delete(ERASING, status_code=200, include_in_schema=False)
    async def erase(request: AnyRequest, request_id: FromPath[str]) -> dict[str, Any]:
        house = home()
        caller = _asker(house, request)
        gone = await house.core.erase(caller, request_id)
        await asyncio.to_thread(house.files.drop_all, gone)
        log.info("a request was erased", request=request_id, key=caller.key_id, files=len(gone))
        return {"request_id": request_id, "erased_files": len(gone)}

    handlers: dict[Any, Any] = edge.problem_handlers(PROBLEMS)
    return Router("/", route_handlers=[fate, erase], exception_handlers=handlers)


def evicted_names(
    attempts: Sequence[AttemptRow], versions: Iterable[Version], adapters: Iterable[Adapter]
) -> dict[Digest, str]:
    """What attempts evicted, in words."""
    evicted = {digest for row in attempts if row.decision for digest in row.decision.evicts}
    return (
        {digest: name for digest, name in named(versions, adapters) if digest in evicted} if evicted else {}
    )


def _visible_names(catalogue: Catalogue, caller: Caller, attempts: Sequence[AttemptRow]) -> dict[Digest, str]:
    snapshot, now = catalogue.now, catalogue.clock()
    versions: Iterable[Version] = snapshot.versions.values()
    if "operate" not in caller.scopes:
        versions = [version for version in versions if snapshot.visible(version.variant, caller, now)]
    return evicted_names(attempts, versions, snapshot.adapters.values())
