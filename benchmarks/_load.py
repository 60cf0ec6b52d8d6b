"""A lean HTTP/1.1 load generator: as many keep-alive connections as calls at once, no library between. Benchmarks only."""

import asyncio
import statistics
import time
from collections.abc import Mapping

import uvloop


class _Caller(asyncio.Protocol):
    """One connection: sends its request again as soon as it is answered, until the time is over."""

    def __init__(self, request: bytes, until: float, done: "asyncio.Future[None]") -> None:
        self.seconds: list[float] = []
        self.refused = 0
        self._request = request
        self._until = until
        self._done = done
        self._buffer = b""
        self._began = 0.0

    def connection_made(self, transport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._began = time.perf_counter()
        if self._began > self._until:
            self._transport.close()
            self._done.set_result(None)
        else:
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        if not _is_whole(head.lower(), body):
            return
        self._buffer = b""
        if head.startswith(b"HTTP/1.1 200"):
            self.seconds.append(time.perf_counter() - self._began)
        else:
            self.refused += 1
        self._send()

    def connection_lost(self, error) -> None:
        if not self._done.done():
            self._done.set_exception(error or ConnectionError("closed early"))


def _is_whole(head: bytes, body: bytes) -> bool:
    """`head` in lower case. Ray Serve answers in chunks, all others say how long they are."""
    at = head.find(b"content-length:")
    if at < 0:
        return body.endswith(b"0\r\n\r\n")
    return len(body) >= int(head[at + 15 :].partition(b"\r\n")[0])


async def run(
    host: str, port: int, request: bytes, *, at_once: int, seconds: float
) -> tuple[list[float], int, float]:
    """Latencies of what was answered 200, how many were not, and the seconds it took."""
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    callers, ends = [], []
    for _ in range(at_once):
        end = loop.create_future()
        caller = _Caller(request, began + seconds, end)
        await loop.create_connection(lambda caller=caller: caller, host, port)
        callers.append(caller)
        ends.append(end)
    await asyncio.gather(*ends)
    took = time.perf_counter() - began
    return [s for c in callers for s in c.seconds], sum(c.refused for c in callers), took


def measure(port: int, request: bytes, at_once: int, *, rounds: int, seconds: float) -> tuple[float, float]:
    """Calls a second and the median latency, medians over the rounds."""
    rates, medians = [], []
    for _ in range(rounds):
        taken, refused, took = uvloop.run(run("127.0.0.1", port, request, at_once=at_once, seconds=seconds))
        assert not refused, f"{refused} calls were not answered 200"
        rates.append(len(taken) / took)
        medians.append(statistics.median(taken))
    return statistics.median(rates), statistics.median(medians)


def post(
    path: str, key: str, body: bytes, headers: Mapping[str, str] | None = None, *, kind: str = "Key"
) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return (
        f"POST {path} HTTP/1.1\r\nHost: benchmark\r\nAuthorization: {kind} {key}\r\n{lines}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
