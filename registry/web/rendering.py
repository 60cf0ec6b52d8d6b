"""Pages from templates, with the headers that every page carries, and the static files. A process edge (HTTP out).

The content security policy allows our own files only: no inline script, no inline style, no foreign address.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from litestar import Response, Router
from litestar.config.compression import CompressionConfig
from litestar.datastructures import CacheControlHeader
from litestar.middleware import DefineMiddleware
from litestar.middleware.compression import CompressionMiddleware
from litestar.static_files import create_static_files_router

SHARED = Path(__file__).parent
HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self'; "
        "font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


class Pages:
    """The template environment over one or more folders; later folders may extend the shared base."""

    def __init__(self, *folders: Path, **helpers: Any) -> None:
        roots = (*folders, SHARED)
        self._environment = Environment(
            loader=FileSystemLoader([root / "templates" for root in roots]),
            autoescape=select_autoescape(("html", "svg")),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.update(helpers)
        self._environment.globals["stamp"] = stamp([root / "static" for root in roots])

    def text(self, template: str, **values: Any) -> str:
        return self._environment.get_template(template).render(values)

    def answer(
        self, template: str, *, status: int = 200, cookies: Sequence[Any] = (), **values: Any
    ) -> Response[str]:
        return Response(
            self.text(template, **values),
            status_code=status,
            media_type="text/html",
            headers={**HEADERS, "cache-control": "no-store"},
            cookies=list(cookies),
        )


def stamp(folders: Sequence[Path]) -> str:
    """Names the static files' contents, so that their addresses change with them and may be cached for good."""
    files = sorted(
        path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()
    )
    total = hashlib.sha256()
    for path in files:
        total.update(path.name.encode())
        total.update(path.read_bytes())
    return total.hexdigest()[:10]


def compressed() -> DefineMiddleware:
    """For routers of pages: a year's tables shrink to a seventh. Only where cookies are strict: another site cannot make a
    browser ask for a page with a session, so it cannot guess the page's token from sizes. Streams stay as they are.
    """
    config = CompressionConfig(backend="gzip", gzip_compress_level=5, minimum_size=1024, exclude=["/events$"])
    return DefineMiddleware(CompressionMiddleware, config=config)


def static_files(path: str, folder: Path) -> Router:
    """Serves a folder; addresses carry `?v=<stamp>`, so browsers keep what they have."""
    return create_static_files_router(
        path=path,
        directories=[folder],
        name=path,
        include_in_schema=False,
        cache_control=CacheControlHeader(max_age=7 * 24 * 3600, public=True),
    )
