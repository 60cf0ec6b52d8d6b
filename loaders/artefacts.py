"""What was compiled, kept on disk and handed on: torch's own cache of it with the verdict whether it pays.

IO. Named by a digest of architecture, device and versions, so that only what fits is found. Compiled code is a
program: a file is believed only when it is signed with the pool's host key, so hosts take it from hosts of their own
pool and from nobody else. It refuses to compile.
"""

import contextlib
import hashlib
import hmac
import importlib.metadata
import platform
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import msgspec

from loaders import whole
from loaders.device import Device
from loaders.fetch import MAX_PEERS, PEER_TIMEOUT, peer_token
from registry.catalog import Digest, digest_of

LIBRARIES = ("torch", "diffusers", "transformers", "triton")
SIGNATURE_BYTES = 32
PEER_SECONDS = 60.0  # for one that has it; a first compilation takes about as long
MAX_BYTES = 1 << 30


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether compiling pays for an architecture on a device, and what was measured."""

    is_compiled: bool
    reason: str
    seconds: Mapping[str, float] = {}  # of one run, by way

    @property
    def is_found_out(self) -> bool:
        """Measured, or refused by the compiler; not only asked for by some host's settings."""
        return bool(self.seconds) or not self.is_compiled


class Parcel(msgspec.Struct, frozen=True):
    verdict: Verdict
    code: bytes  # torch's, empty where nothing was compiled
    libraries: Mapping[str, bytes] = {}  # of a CPU, which torch's own would make again (`kernels`)


class Artefacts:
    """One folder of parcels, and the hosts that may have others."""

    def __init__(self, folder: Path, device: Device, host_key: str | None = None) -> None:
        self._folder = folder
        self._device = device
        self._key = (host_key or "").encode()
        self._token = peer_token(host_key)
        self._peers: tuple[str, ...] = ()

    def know_peers(self, urls: Sequence[str]) -> None:
        self._peers = tuple(urls) if self._key else ()

    def name(self, architecture: Digest) -> str:
        """64 hexadecimal digits."""
        facts = {
            "architecture": architecture,
            "device": [self._device.title, self._device.instructions, platform.machine()],
            "versions": {name: _version(name) for name in LIBRARIES},
            "python": platform.python_version(),
        }
        return digest_of(facts).removeprefix("sha256:")

    def locate(self, name: str) -> Path | None:
        path = self._folder / name
        return path if path.is_file() else None

    def load(self, architecture: Digest) -> Parcel | None:
        """From this disk, else from a peer."""
        name = self.name(architecture)
        path = self.locate(name)
        found = None if path is None else self._opened(name, path.read_bytes())
        return found or self._from_peers(name)

    def save(self, architecture: Digest, parcel: Parcel) -> None:
        name = self.name(architecture)
        body = msgspec.msgpack.encode(parcel)
        self._write(name, self._signature(name, body) + body)

    def _from_peers(self, name: str) -> Parcel | None:
        """The device waits for it: so of few peers, and from all together not for long."""
        deadline = time.monotonic() + PEER_SECONDS
        for url in random.sample(self._peers, min(len(self._peers), MAX_PEERS)):
            with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL, OSError):
                data = self._asked(f"{url.rstrip('/')}/blobs/{name}", deadline)
                if data is not None and (found := self._opened(name, data)):
                    self._write(name, data)
                    return found
        return None

    def _asked(self, url: str, deadline: float) -> bytes | None:
        data = bytearray()
        headers = {"Authorization": f"Bearer {self._token}"}
        with httpx.stream("GET", url, headers=headers, timeout=PEER_TIMEOUT) as answer:
            if not answer.is_success:
                return None
            for chunk in answer.iter_raw():
                data += chunk
                if time.monotonic() > deadline or len(data) > MAX_BYTES:
                    return None
        return bytes(data)

    def _opened(self, name: str, data: bytes) -> Parcel | None:
        """None for what another key signed, what is not whole, and what another release of ours wrote."""
        signature, body = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(name, body)):
            return None
        with contextlib.suppress(msgspec.MsgspecError):
            return msgspec.msgpack.decode(body, type=Parcel)
        return None

    def _signature(self, name: str, body: bytes) -> bytes:
        return hmac.new(self._key, b"marquee compiled " + name.encode() + body, hashlib.sha256).digest()

    def _write(self, name: str, data: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        whole.write(self._folder / name, data)


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
