import asyncio

from router.corking import LARGE_BYTES, Corked


class Transport:
    """Keeps what was written at once as one entry."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def writelines(self, pieces: list[bytes]) -> None:
        self.sent.append(b"".join(pieces))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


async def test_what_one_turn_of_the_loop_writes_leaves_in_one_piece():
    transport = Transport()
    corked = Corked(transport, asyncio.get_running_loop())

    corked.write(b"head")
    corked.write(b"body")
    before = list(transport.sent)
    await asyncio.sleep(0)
    corked.write(b"next")
    await asyncio.sleep(0)

    assert (before, transport.sent) == ([], [b"headbody", b"next"])


async def test_what_is_large_does_not_wait_for_the_end_of_the_turn():
    transport = Transport()
    corked = Corked(transport, asyncio.get_running_loop())

    corked.write(b"head")
    corked.write(b"x" * LARGE_BYTES)

    assert transport.sent == [b"head" + b"x" * LARGE_BYTES]


async def test_closing_sends_what_was_written_before_and_nothing_after():
    transport = Transport()
    corked = Corked(transport, asyncio.get_running_loop())

    corked.write(b"last words")
    corked.close()
    corked.write(b"too late")
    await asyncio.sleep(0)

    assert (transport.sent, transport.closed) == ([b"last words"], True)
