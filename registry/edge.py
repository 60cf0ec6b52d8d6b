"""What every HTTP process has in common: request ids, problem details, health, metrics. Process edge.

`plumbing(metrics)` gives the arguments that a composition root adds to its `Litestar(...)`; doors with an error
shape of their own set their own exception handlers below it.
"""

import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import prometheus_client
import structlog
from litestar import Request, Response, get
from litestar.enums import ScopeType
from litestar.exceptions import ClientException, HTTPException, ValidationException
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from registry import errors, tracing
from registry.tracing import NO_TRACES, Traces

REQUEST_ID_HEADER = "x-request-id"
ACCEPTED_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
UNTRACED = frozenset({"/metrics", "/healthz"})  # asked every few seconds, and of no trace
SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 1800)
# The most specific class along an exception's ancestry decides: status and title.
PROBLEMS: Mapping[type[Exception], tuple[int, str]] = {
    errors.UnknownKeyError: (404, "Unknown key"),
    errors.InUseError: (409, "Still in use"),
    errors.UnknownCallerError: (401, "Key needed"),
    errors.AccessError: (403, "Not allowed"),
    errors.UnknownSubjectError: (404, "Not found"),
    errors.TakenError: (409, "Already exists"),
    errors.StaleError: (412, "Changed meanwhile"),
    errors.MissingHeaderError: (428, "Header missing"),
    errors.ReusedKeyError: (422, "Idempotency-Key reused"),
    errors.IllegalMoveError: (409, "Not possible in this state"),
    errors.QuotaError: (413, "Over quota"),
    errors.UploadError: (409, "Upload out of step"),
    errors.StorageError: (507, "No room"),
    errors.PublishingError: (422, "Not acceptable"),
    errors.CatalogError: (422, "Not acceptable in the catalogue"),
    errors.WeightsError: (422, "Weights refused"),
    errors.DatabaseError: (503, "Database unavailable"),
    errors.RegistryError: (500, "Registry error"),
}

RETRY_SECONDS = "5"

log = structlog.get_logger("marquee.edge")


def refuse_other_filters(given: Iterable[str], known: Sequence[str]) -> None:
    """A mistyped one would answer with everything. Raises `InvalidRequestError`."""
    for name in given:
        if name not in known:
            raise errors.InvalidRequestError(name, f"no such filter; there are {', '.join(known)}")


class Metrics:
    """One process's Prometheus metrics. Labels are few by construction: routes, never addresses."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self.http_seconds = prometheus_client.Histogram(
            "marquee_http_seconds",
            "Time from a request's arrival to its answer's first byte.",
            ["method", "route", "status"],
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._seconds_of: dict[tuple[str, str, int], prometheus_client.Histogram] = {}

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        labels = (method, route, status)
        child = self._seconds_of.get(labels)
        if child is None:
            child = self._seconds_of[labels] = self.http_seconds.labels(method, route, str(status))
        child.observe(seconds)

    def text(self) -> bytes:
        return prometheus_client.generate_latest(self.registry)


class RequestContext(ASGIMiddleware):
    """Binds the request's id to the logs. A caller's own id is kept when it is short and plain."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        scope["state"]["started_at"] = time.perf_counter()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id(scope), path=scope["path"])
        if "\0" in scope["path"] or b"%00" in scope.get("query_string", b""):
            raise ClientException("An address holds a zero byte, which nothing here has in its name.")
        await next_app(scope, receive, send)


def request_id(scope: Scope) -> str:
    """The id of this HTTP exchange (not of a queued request); made at first use."""
    state: dict[str, Any] = scope["state"]
    if "request_id" not in state:
        given = dict(scope["headers"]).get(REQUEST_ID_HEADER.encode(), b"").decode("latin-1")
        state["request_id"] = given if ACCEPTED_REQUEST_ID.fullmatch(given) else secrets.token_hex(12)
    return str(state["request_id"])


def problem(status: int, title: str, detail: str, **facts: Any) -> Response[dict[str, Any]]:
    """An RFC 9457 answer. Facts are further members: `errors`, `successor`, `path`…"""
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail} | facts
    return Response(content, status_code=status, media_type="application/problem+json")


def kind_of(
    exception: Exception, table: Mapping[type[Exception], tuple[int, str]] = PROBLEMS
) -> tuple[int, str]:
    """Status and title by the most specific class that the table knows."""
    for ancestor in type(exception).__mro__:
        if ancestor in table:
            return table[ancestor]
    return 500, "Internal error"


Handler = Callable[[Request[Any, Any, Any], Exception], Response[dict[str, Any]]]


def problem_handlers(
    table: Mapping[type[Exception], tuple[int, str]] = PROBLEMS,
) -> dict[type[Exception], Handler]:
    """Exception handlers that answer problem details: ours by the table, Litestar's by their status, others as 500."""

    def ours(_: Request[Any, Any, Any], exception: Exception) -> Response[dict[str, Any]]:
        status, title = kind_of(exception, table)
        if status >= 500:
            log.error("request failed", error=type(exception).__name__, exc_info=exception)
        return problem(status, title, str(exception), error=type(exception).__name__)

    handlers: dict[type[Exception], Handler] = dict.fromkeys(table, ours)
    return handlers | {HTTPException: _http_problem, Exception: _unexpected}


def _http_problem(_: Request[Any, Any, Any], exception: Exception) -> Response[dict[str, Any]]:
    assert isinstance(exception, HTTPException)
    facts = (
        {"errors": exception.extra} if isinstance(exception, ValidationException) and exception.extra else {}
    )
    response = problem(exception.status_code, _phrase(exception.status_code), exception.detail, **facts)
    response.headers.update(exception.headers or {})
    return response


def _unexpected(_: Request[Any, Any, Any], exception: Exception) -> Response[dict[str, Any]]:
    """The caller learns that it failed and under which id; the log learns why. A database that is away is no bug."""
    from registry.database import LOST

    if isinstance(exception, LOST):
        log.warning("the database does not answer", error=repr(exception))
        answer = problem(503, "Database unavailable", "The database does not answer; ask again in a moment.")
        answer.headers["retry-after"] = RETRY_SECONDS
        return answer
    log.error("unexpected error", exc_info=exception)
    return problem(500, "Internal error", "Something went wrong here; the request id names the log entry.")


def _phrase(status: int) -> str:
    from http import HTTPStatus

    return HTTPStatus(status).phrase


class TraceContext(ASGIMiddleware):
    """One span per HTTP exchange, a child of the caller's own where its `traceparent` names one."""

    scopes = (ScopeType.HTTP,)

    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        if scope["path"] in UNTRACED:
            await next_app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"traceparent", b"").decode("latin-1")
        method = str(scope.get("method"))
        span = self._traces.begin(method, tracing.accepted(given), kind="server")
        structlog.contextvars.bind_contextvars(trace=(span.traceparent or "")[3:35])
        told = tracing.current.set(span.traceparent)
        status = 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await next_app(scope, receive, note)
        finally:
            tracing.current.reset(told)
            route = scope.get("path_template") or "unmatched"
            span.end(
                name=f"{method} {route}",
                error=f"answered {status}" if status >= 500 else "",
                http__request__method=method,
                http__route=route,
                http__response__status_code=status,
            )


def plumbing(metrics: Metrics, traces: Traces = NO_TRACES) -> dict[str, Any]:
    """Arguments for `Litestar(...)`: request ids on every answer (errors included), metrics, no logging of its own."""

    async def finish(message: Message, scope: Scope) -> None:
        if message["type"] != "http.response.start" or scope["type"] != ScopeType.HTTP:
            return
        headers = message.get("headers", ())
        if all(
            name != REQUEST_ID_HEADER.encode() for name, _ in headers
        ):  # a door may have told its request's
            message["headers"] = [*headers, (REQUEST_ID_HEADER.encode(), request_id(scope).encode())]
        route = scope.get("path_template") or "unmatched"
        if (started_at := scope["state"].get("started_at")) is not None:
            metrics.answered(scope["method"], route, message["status"], time.perf_counter() - started_at)

    @get("/metrics", include_in_schema=False, media_type="text/plain; version=0.0.4; charset=utf-8")
    async def read_metrics() -> bytes:
        return metrics.text()

    return {
        "route_handlers": [read_metrics],
        "middleware": [RequestContext(), *([TraceContext(traces)] if traces.on else [])],
        "before_send": [finish],
        "exception_handlers": problem_handlers(),
        "logging_config": None,
    }
