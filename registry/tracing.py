"""Traces as everybody here speaks of them: spans begun, ended or told afterwards, handed on as W3C traceparents. Pure but
for `opened`, which makes the exporter where the settings name a collector.

Without one there is `NoTraces`, whose methods do nothing; nothing of OpenTelemetry is imported then, and a host that
never heard of it runs the same code.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, Protocol

from registry.errors import SettingsError
from registry.settings import Settings

Fact = str | int | float | bool
TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
current: ContextVar[str | None] = ContextVar(
    "traceparent", default=None
)  # of the HTTP exchange being answered


class Span(Protocol):
    """One that is under way."""

    @property
    def traceparent(self) -> str | None:
        """By which others, here or elsewhere, make their spans its children."""
        ...

    def end(
        self, *, at: float | None = None, name: str | None = None, error: str = "", **facts: Fact
    ) -> None: ...


class Traces(Protocol):
    """A process's way to tell spans. Times are unix seconds; None is now."""

    @property
    def on(self) -> bool: ...

    def begin(
        self,
        name: str,
        parent: str | None,
        *,
        at: float | None = None,
        kind: Literal["internal", "server"] = "internal",
        **facts: Fact,
    ) -> Span: ...

    def tell(
        self, name: str, parent: str | None, began: float, ended: float, *, error: str = "", **facts: Fact
    ) -> None:
        """A span that is over already."""
        ...

    def close(self) -> None:
        """Sends what was told; blocks for a moment."""
        ...


class NoSpan:
    """Of no trace."""

    traceparent = None

    def end(
        self, *, at: float | None = None, name: str | None = None, error: str = "", **facts: Fact
    ) -> None:
        return


class NoTraces:
    """Tells nobody."""

    on = False

    def begin(
        self,
        name: str,
        parent: str | None,
        *,
        at: float | None = None,
        kind: Literal["internal", "server"] = "internal",
        **facts: Fact,
    ) -> Span:
        return NO_SPAN

    def tell(
        self, name: str, parent: str | None, began: float, ended: float, *, error: str = "", **facts: Fact
    ) -> None:
        return

    def close(self) -> None:
        return


NO_SPAN = NoSpan()
NO_TRACES = NoTraces()


def accepted(header: str | None) -> str | None:
    """A caller's traceparent, when it is one."""
    return header if header is not None and TRACEPARENT.fullmatch(header) else None


@contextmanager
def opened(settings: Settings, service: str) -> Iterator[Traces]:
    """Traces while the block runs. Raises `SettingsError` when they are asked for and their packages are missing."""
    if settings.otlp_endpoint is None:
        yield NO_TRACES
        return
    try:
        from registry import otel
    except ImportError as error:
        raise SettingsError(
            "MARQUEE_OTLP_ENDPOINT", f"traces need `pip install 'marquee[otel]'`: {error}"
        ) from error
    traces = otel.exporting(settings.otlp_endpoint, service, settings.trace_share)
    try:
        yield traces
    finally:
        traces.close()
