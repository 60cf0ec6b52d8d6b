"""The admin API under `/v1/admin`: what labs and operators do, and `/v1/models`: what there is. Process edge."""

from litestar import Router

from registry.admin import adapters, catalogue, contents, openings, owners
from registry.admin.office import Home, Office

__all__ = ["Office", "router"]


def router(home: Home) -> Router:
    handlers = [
        *owners.routes(home),
        *catalogue.routes(home),
        *adapters.routes(home),
        *contents.routes(home),
        *openings.routes(home),
    ]
    return Router("/v1/admin", route_handlers=handlers, include_in_schema=False)
