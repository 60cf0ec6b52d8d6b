"""What a visitor sees where a page cannot be made: what is wrong, and the same page again once it may work. Process edge.

Only a browser that asks for a page gets one; exports, events and the pages' own calls keep their problem details.
"""

import functools
from collections.abc import Callable
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException

from registry import edge
from registry.errors import DatabaseError
from registry.web.rendering import Pages

AnyRequest = Request[Any, Any, Any]
KINDS: tuple[type[Exception], ...] = (DatabaseError, HTTPException, Exception)
Handlers = dict[int | type[Exception], Callable[[AnyRequest, Any], Response[Any]]]
EDGE = edge.problem_handlers()


class _Nobody:
    """Who it is cannot be said: that may be what does not work."""

    caller = None
    token = ""


@functools.cache
def handlers() -> Handlers:
    """Exception handlers for any router of pages; not to be written to."""
    shared = Pages()

    def told(request: AnyRequest, exception: Exception) -> Response[Any]:
        kind = next(kind for kind in type(exception).__mro__ if kind in EDGE)
        answer = EDGE[kind](request, exception)
        if not _wants_page(request):
            return answer
        again = edge.RETRY_SECONDS if answer.status_code == 503 and request.method == "GET" else None
        page = shared.answer(
            "trouble.html",
            status=answer.status_code or 500,
            visitor=_Nobody(),
            problem=answer.content,
            again=again,
            request_id=edge.request_id(request.scope),
        )
        page.headers.update({name: value for name, value in answer.headers.items() if name == "retry-after"})
        return page

    return dict.fromkeys(KINDS, told)


def _wants_page(request: AnyRequest) -> bool:
    return "text/html" in request.headers.get("accept", "") and "csv" not in request.query_params
