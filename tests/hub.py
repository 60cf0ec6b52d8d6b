"""A local server that speaks the Hub's protocol: model info, resolve with ETag, ranges and redirects, and its faults.

`huggingface_hub` talks to it through its `endpoint` argument or `HF_ENDPOINT`; nothing of the client is replaced.
"""

import hashlib
import json
import re
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import unquote, urlsplit

LFS_FROM_BYTES = 1024  # as on the Hub, weights redirect to a CDN; small text files are served in place
RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?")
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Fault:
    """What happens instead of an honest answer, `times` times."""

    kind: Literal["status", "cut", "truncate", "corrupt", "hang"]
    status: int = 503
    after_bytes: int = 0  # cut, truncate, hang: bytes that still arrive
    times: int = 1
    on_head: bool = False  # status: already where the client asks for metadata


@dataclass
class Repository:
    """One repository at one commit."""

    files: Mapping[str, bytes]
    gated: bool = False
    token: str | None = None  # private: who does not send it gets what the Hub says to strangers

    @property
    def commit(self) -> str:
        names = "".join(
            f"{path}:{hashlib.sha256(data).hexdigest()}" for path, data in sorted(self.files.items())
        )
        return hashlib.sha1(names.encode(), usedforsecurity=False).hexdigest()


@dataclass
class Hub:
    """The server's state: repositories, faults by path, and every request that came."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, range
    tokens: list[tuple[str, str]] = field(default_factory=list)  # path and credentials, where any were sent
    endpoint: str = ""
    cdn: str = (
        ""  # where large files are; another origin than the endpoint's, as on the Hub, where a test says so
    )
    hangs: threading.Event = field(default_factory=threading.Event)  # set: whoever hung is cut off
    ranges: bool = True  # without: answers every range with the whole file, as some plain servers do

    def start(self) -> "Hub":
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = self.cdn = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        self.hangs.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, path: str, fault: Fault) -> None:
        self.faults[path].append(fault)

    def take_fault(self, path: str, *, on_head: bool = False) -> Fault | None:
        waiting = self.faults.get(path)
        if not waiting or waiting[0].on_head != on_head:
            return None
        waiting[0].times -= 1
        return waiting.pop(0) if waiting[0].times <= 0 else waiting[0]

    def gets(self, path: str) -> int:
        return sum(1 for method, asked, _ in self.requests if method == "GET" and asked.endswith(path))


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(send_body=False)

    def do_GET(self) -> None:
        self.answer(send_body=True)

    def answer(self, *, send_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if credentials := self.headers.get("Authorization"):
            self.hub.tokens.append((path, credentials))
        if path.startswith("/cdn/"):
            return self.file(path.removeprefix("/cdn"), send_body=send_body)
        if info := INFO.fullmatch(path):
            return self.info(info["repo"], info["revision"])
        if RESOLVE.fullmatch(path):
            return self.resolve(path, send_body=send_body)
        return self.refuse(404, None, "Not found")

    def repository(self, name: str) -> Repository | None:
        """Refuses as the Hub does: 401 for what strangers may not know, 403 for a gate that was not passed."""
        repository = self.hub.repositories.get(name)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if repository is None or (repository.token and not repository.gated and token != repository.token):
            self.refuse(401 if not token else 404, "RepoNotFound", "Repository not found")
            return None
        if repository.gated and token != repository.token:
            self.refuse(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted")
            return None
        return repository

    def info(self, name: str, revision: str | None) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.token and not repository.gated):
            repository = self.repository(name)
        if repository is None:
            return
        if revision not in {None, "main", repository.commit}:
            self.refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        siblings = [
            {
                "rfilename": path,
                "size": len(data),
                "blobId": hashlib.sha1(data, usedforsecurity=False).hexdigest(),
            }
            | (
                {"lfs": {"sha256": sha256(data), "size": len(data), "pointerSize": 134}}
                if is_lfs(data)
                else {}
            )
            for path, data in sorted(repository.files.items())
        ]
        body = {
            "id": name, "modelId": name, "sha": repository.commit, "private": repository.token is not None,
            "gated": "manual" if repository.gated else False, "siblings": siblings, "tags": [], "downloads": 0,
        }  # fmt: skip
        self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def resolve(self, path: str, *, send_body: bool) -> None:
        match = RESOLVE.fullmatch(path)
        assert match is not None
        repository = self.repository(match["repo"])
        if repository is None:
            return None
        if match["revision"] not in {"main", repository.commit}:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        data = repository.files.get(match["path"])
        if data is None:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        if (fault := self.hub.take_fault(match["path"], on_head=True)) is not None:
            return self.refuse(fault.status, None, HTTPStatus(fault.status).phrase)
        if not is_lfs(data):
            return self.file(path, send_body=send_body)
        headers = self.identity(repository, data) | {
            "Location": f"{self.hub.cdn}/cdn{path}", "X-Linked-Size": str(len(data)),
            "X-Linked-Etag": f'"{sha256(data)}"',
        }  # fmt: skip
        return self.send(302, b"", headers)

    def identity(self, repository: Repository, data: bytes) -> dict[str, str]:
        etag = sha256(data) if is_lfs(data) else hashlib.sha1(data, usedforsecurity=False).hexdigest()
        return {"ETag": f'"{etag}"', "X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}

    def file(self, path: str, *, send_body: bool) -> None:
        match = RESOLVE.fullmatch(path)
        assert match is not None
        repository = self.hub.repositories[match["repo"]]
        data = repository.files.get(match["path"])
        if data is None:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        fault = self.hub.take_fault(match["path"]) if send_body else None
        if fault and fault.kind == "status":
            return self.refuse(fault.status, None, HTTPStatus(fault.status).phrase)
        headers, status, start = self.identity(repository, data), 200, 0
        asked = RANGE.fullmatch(self.headers.get("Range") or "")
        if asked and self.hub.ranges:
            start, end = int(asked[1]), int(asked[2]) if asked[2] else len(data) - 1
            if start >= len(data):
                return self.send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}"
            data, status = data[start : end + 1], 206
        if fault and fault.kind == "corrupt":
            data = bytes([data[0] ^ 0xFF]) + data[1:]
        if fault and fault.kind == "truncate":
            data = data[: fault.after_bytes]
        is_cut = fault is not None and fault.kind in {"cut", "hang"}
        return self.send(
            status,
            data,
            headers,
            cut_after=fault.after_bytes if fault and is_cut else None,
            hangs=fault is not None and fault.kind == "hang",
        )

    def refuse(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        if status == 429:
            headers["Retry-After"] = "0"
        self.send(
            status, json.dumps({"error": message}).encode(), headers | {"Content-Type": "application/json"}
        )

    def send(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str],
        cut_after: int | None = None,
        *,
        hangs: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if cut_after is None else body[:cut_after])
        if cut_after is not None:
            self.wfile.flush()
            if hangs:
                self.hub.hangs.wait(60)
            self.close_connection = True
            self.connection.shutdown(2)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Tests read `Hub.requests` instead."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_lfs(data: bytes) -> bool:
    return len(data) >= LFS_FROM_BYTES
