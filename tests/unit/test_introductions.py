"""Which hosts a router tells of which others: those that give out files are known to all, the rest to nobody."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from loaders import protocol
from router.hub import Hub
from router.links import Link

HELLO = protocol.Hello(
    protocol=protocol.PROTOCOL_VERSION,
    host_id="",
    name="",
    device="cpu",
    pool="local",
    zone=None,
    speed=1.0,
    budgets={},
    speeds=protocol.Speeds(disk_to_memory=1.0, memory_to_device=1.0, network_to_disk=1.0),
    held=(),
    running=(),
    finished=(),
)


class Pool:
    """Links of one pool with what each was told last."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self.hub = Hub(SimpleNamespace(links=self.links))  # type: ignore[arg-type]

    def join(self, host_id: str, blobs_url: str | None) -> None:
        hello = msgspec.structs.replace(HELLO, host_id=host_id, blobs_url=blobs_url)
        socket: Any = None
        self.links[host_id] = Link(socket, hello)
        self.hub._introduce(self.links[host_id])

    def leave(self, host_id: str) -> None:
        self.hub._introduce(self.links.pop(host_id))

    def told(self) -> dict[str, tuple[str, ...] | None]:
        found: dict[str, tuple[str, ...] | None] = {}
        for host_id, link in self.links.items():
            messages = [protocol.decode_to_host(frame) for frame in link._outbox]
            urls = [set(message.urls) for message in messages if isinstance(message, protocol.Peers)]
            found[host_id] = tuple(sorted(urls[-1])) if urls else None
        return found


@pytest.fixture
def pool() -> Pool:
    return Pool()


def test_hosts_that_give_out_nothing_are_not_introduced(pool: Pool) -> None:
    pool.join("a", None)
    pool.join("b", None)
    assert pool.told() == {"a": None, "b": None}


def test_everyone_hears_of_a_host_that_does_but_not_itself(pool: Pool) -> None:
    pool.join("a", None)
    pool.join("b", "http://b:1")
    pool.join("c", "http://c:1")
    pool.join("d", None)
    assert pool.told() == {
        "a": ("http://b:1", "http://c:1"),
        "b": ("http://c:1",),
        "c": ("http://b:1",),
        "d": ("http://b:1", "http://c:1"),
    }


def test_a_host_that_left_is_forgotten(pool: Pool) -> None:
    pool.join("a", None)
    pool.join("b", "http://b:1")
    pool.leave("b")
    assert pool.told() == {"a": ()}
