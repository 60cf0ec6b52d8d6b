"""The providers that this deployment has keys of: one pooled client, breaker and output fetcher each. IO.

They live as long as the process; what waits and runs belongs to a term's desk.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from registry.settings import PartnerAccount
from router.files import FileStore
from router.partners.breaker import Breaker
from router.partners.fal import Fal
from router.partners.media import Media
from router.partners.openai import OpenAI
from router.partners.records import Provider
from router.partners.replicate import Replicate
from router.partners.wire import Wire

APIS: Mapping[str, tuple[str, Callable[[Wire], Provider]]] = {
    "fal": ("Key", Fal),
    "replicate": ("Bearer", Replicate),
    "openai": ("Bearer", OpenAI),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """All it takes to have one provider run something."""

    account: PartnerAccount
    api: Provider
    breaker: Breaker
    media: Media


@contextlib.asynccontextmanager
async def opened(
    accounts: Mapping[str, PartnerAccount], files: FileStore
) -> AsyncIterator[Mapping[str, Connection]]:
    """By the providers' names; nothing is sent before the first request."""
    async with contextlib.AsyncExitStack() as stack:
        found: dict[str, Connection] = {}
        for name, account in accounts.items():
            scheme, api = APIS[name]
            breaker = Breaker()
            wire, media = Wire(account, scheme, breaker), Media(account, files)
            stack.push_async_callback(wire.close)
            stack.push_async_callback(media.close)
            found[name] = Connection(account=account, api=api(wire), breaker=breaker, media=media)
        yield found
