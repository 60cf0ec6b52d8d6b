"""What makes two requests the same: the key of the result cache and of identical work under way.

Pure. An input is canonical when defaults are filled in and the seed is set, which the gateway has done before. Two
inputs that differ only in the order of keys, or in `1` for `1.0`, have one fingerprint; the version's digest, the
adapters in order with their scales, and the owner (unless results are public) are part of it. It refuses to know
where results are kept or for how long.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from loaders.protocol import PREVIEWS, AdapterUse
from registry.catalog import Digest, OrganizationName, digest_of

NOT_CONTENT = frozenset({PREVIEWS, "sync_mode", "webhook_url"})  # how an answer travels, not what it is


def fingerprint(
    version: Digest,
    adapters: Sequence[AdapterUse],
    values: Mapping[str, Any],
    owner: OrganizationName | None,
) -> Digest | None:
    """None when the seed is not set: such a request asks for something new. `owner` None means public."""
    if values.get("seed") is None:
        return None
    return digest_of(
        {
            "version": version,
            "adapters": [[use.digest, float(use.scale)] for use in adapters],
            "input": canonical({k: v for k, v in values.items() if k not in NOT_CONTENT}),
            "owner": owner,
        }
    )


def canonical(value: Any) -> Any:
    """Whole floats become integers, tuples lists; order of keys is left to `digest_of`, which sorts."""
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
