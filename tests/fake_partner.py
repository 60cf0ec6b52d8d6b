"""Local servers that speak partners' protocols over real sockets, and misbehave on demand.

They keep what they were sent. `trouble` are answers that take the place of the next ones to whatever `on` matches: a
status with headers and body, CUT (the connection ends before any answer) or a number of seconds of silence.
"""

import asyncio
import contextlib
import json
import re
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

CUT = "cut"


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + b"\x80" * width for _ in range(height)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Answer:
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        content = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        kind = "image/png" if content.startswith(b"\x89PNG") else "application/json"
        headers = {"content-type": kind, "content-length": str(len(content)), **self.headers}
        lines = [f"HTTP/1.1 {self.status} X", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


class Server:
    """One request at a time per connection; `handle` answers what no trouble takes."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.trouble: list[Any] = []
        self.on: Callable[[Asked], bool] = lambda asked: True
        self._writers: set[asyncio.StreamWriter] = set()

    def reset(self) -> None:
        """As it was made, at the same address."""
        url, writers = self.url, self._writers
        type(self).__init__(self)  # type: ignore[misc]
        self.url, self._writers = url, writers

    def handle(self, asked: Asked) -> Answer:
        raise NotImplementedError

    def count(self, method: str, pattern: str) -> int:
        return sum(a.method == method and re.search(pattern, a.path) is not None for a in self.asked)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Any]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for writer in tuple(self._writers):
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                asked = await _read(reader)
                self.asked.append(asked)
                answer: Any = self.trouble.pop(0) if self.trouble and self.on(asked) else self.handle(asked)
                if isinstance(answer, float):
                    await asyncio.sleep(answer)
                    answer = self.handle(asked)
                if answer == CUT:
                    break
                writer.write(answer.encode())
                await writer.drain()
                if CUT in answer.headers:  # in the middle of it
                    break
        self._writers.discard(writer)
        writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    content = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, json.loads(content) if content else None)


class FakeFal(Server):
    """fal's queue. Jobs wait until `release`; `result` makes a job's answer, `position` its place in the queue."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, Any] = {}
        self.cancelled: list[str] = []
        self.released = True
        self.position: int | None = None
        self.logs: list[dict[str, Any]] = []
        self.result: Callable[[Any], Answer] = lambda sent: Answer(
            200,
            {
                "images": [{"url": f"{self.url}/files/a.png", "content_type": "image/png", "width": 1}],
                "seed": 5,
                "odd": {"shape": [1, None, "https://not.a/file"]},
            },
        )

    def handle(self, asked: Asked) -> Answer:
        path = asked.path.partition("?")[0]
        if path.startswith("/files/"):
            return Answer(200, png(48, 32))
        if asked.headers.get("authorization") != "Key partner-key":
            return Answer(401, {"detail": f"bad key {asked.headers.get('authorization')}"})
        if asked.method == "POST":
            job = f"job-{len(self.jobs) + 1}"
            self.jobs[job] = asked.body
            urls = {"status_url": "http://evil.example/", "response_url": "x", "cancel_url": "x"}
            return Answer(200, {"status": "IN_QUEUE", "request_id": job, "queue_position": 0, **urls})
        found = re.fullmatch(r"/[^/]+/[^/]+/requests/([^/]+)(/status|/cancel)?", path)
        if found is None or found[1] not in self.jobs:
            return Answer(404, {"detail": "not found"})
        return self._job(found[1], found[2])

    def _job(self, job: str, action: str | None) -> Answer:
        if action == "/cancel":
            self.cancelled.append(job)
            return Answer(202, {"status": "CANCELLATION_REQUESTED"})
        if action is None:
            answer = self.result(self.jobs[job])
            answer.headers.setdefault("x-fal-request-id", job)
            return answer
        if self.position is not None:
            return Answer(202, {"status": "IN_QUEUE", "queue_position": self.position})
        if not self.released:
            return Answer(202, {"status": "IN_PROGRESS", "logs": self.logs})
        answer = self.result(self.jobs[job])
        error = {} if answer.status == 200 else {"error": "it failed"}
        return Answer(
            200, {"status": "COMPLETED", "logs": self.logs, "metrics": {"inference_time": 0.25}} | error
        )


class FakeReplicate(Server):
    """Replicate's predictions: one look at `processing`, then what `outcome` says."""

    def __init__(self) -> None:
        super().__init__()
        self.created: dict[str, dict[str, Any]] = {}
        self.looks: dict[str, int] = {}
        self.cancelled: list[str] = []
        self.held = False
        self.outcome: dict[str, Any] = {}
        self.refusal: Answer | None = None

    def handle(self, asked: Asked) -> Answer:
        if asked.path.startswith("/files/"):
            return Answer(200, png(40, 40))
        if asked.headers.get("authorization") != "Bearer partner-key":
            return Answer(401, {"detail": "Unauthenticated"})
        if asked.method == "POST" and asked.path.endswith("/predictions"):
            if self.refusal is not None:
                return self.refusal
            name = f"p{len(self.created) + 1}"
            self.created[name] = {"path": asked.path, **asked.body}
            return Answer(201, {"id": name, "status": "starting"})
        name = asked.path.split("/")[3]
        if asked.path.endswith("/cancel"):
            self.cancelled.append(name)
            return Answer(200, {"id": name, "status": "canceled"})
        self.looks[name] = self.looks.get(name, 0) + 1
        if self.held or self.looks[name] == 1:
            return Answer(200, {"id": name, "status": "processing", "logs": "one\ntwo"})
        done = {"status": "succeeded", "output": [f"{self.url}/files/x.png"], "logs": "one\ntwo\nthree"}
        return Answer(200, {"id": name, "metrics": {"predict_time": 1.5}, **done, **self.outcome})


class FakeOpenAI(Server):
    """OpenAI's image route."""

    def __init__(self) -> None:
        super().__init__()
        self.refusal: Answer | None = None

    def handle(self, asked: Asked) -> Answer:
        import base64

        if asked.headers.get("authorization") != "Bearer partner-key":
            message = f"Incorrect API key provided: {asked.headers.get('authorization')}"
            return Answer(401, {"error": {"message": message, "code": "invalid_api_key"}})
        if self.refusal is not None:
            return self.refusal
        picture = base64.b64encode(png(24, 24)).decode()
        return Answer(200, {"created": 1, "data": [{"b64_json": picture}] * asked.body.get("n", 1)})
