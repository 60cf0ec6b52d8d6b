"""A variant's defaults: which of them are the router's own, and so never reach a host. Pure."""

from collections.abc import Mapping
from typing import Any

from registry.catalog import Variant

RESULT_CACHE, RESULT_CACHE_PRICE = "result_cache", "result_cache_price"
LONGEST_WAIT = "longest_wait_seconds"
ROUTERS_OWN = frozenset({RESULT_CACHE, RESULT_CACHE_PRICE, LONGEST_WAIT})


def for_hosts(variant: Variant) -> Mapping[str, Any]:
    """What a run begins with where its caller says nothing."""
    return {name: value for name, value in variant.defaults.items() if name not in ROUTERS_OWN}
