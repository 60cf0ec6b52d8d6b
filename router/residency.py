"""Which weights each host holds in which tier, and what fetching the rest would cost, kept as numpy matrices.

Pure. A *bundle* is what a run names (a version or an adapter); its *parts* are the components it is made of, each
counted once however many bundles share it. `seconds[bundle, host]` is kept up to date cell by cell, so that pricing
one request on every host is one row. It refuses to know about attempts, queues or clocks: that is `fleet`.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, Self

import msgspec
import numpy as np

from loaders.protocol import Speeds, Tier
from registry.catalog import AdapterManifest, Digest, Manifest
from router.grid import Floats, Grid, Ints, Names

ABSENT, DISK, MEMORY, DEVICE = range(4)
LEVEL: dict[Tier, int] = {"disk": DISK, "memory": MEMORY, "device": DEVICE}
VERSION_FIXED_SECONDS = 0.5  # building or binding a pipeline once its bytes are there
ADAPTER_FIXED_SECONDS = 0.05  # parsing and padding a LoRA
NOTHING = Digest("")  # bundle 0 has no parts and costs nothing


class Part(msgspec.Struct, frozen=True):
    """One component's or adapter's bytes."""

    digest: Digest
    size_bytes: int


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What a run names: a version with its components, or an adapter."""

    digest: Digest
    parts: tuple[Part, ...]
    kind: Literal["version", "adapter"] = "version"
    fixed_seconds: float = VERSION_FIXED_SECONDS  # once per load, whatever the size

    @classmethod
    def of_version(cls, manifest: Manifest) -> Self:
        parts = {c.digest: Part(c.digest, c.size_bytes) for c in manifest.components}
        return cls(digest=manifest.digest, parts=tuple(parts.values()))

    @classmethod
    def of_adapter(cls, manifest: AdapterManifest) -> Self:
        return cls(
            digest=manifest.digest,
            parts=(Part(manifest.digest, manifest.size_bytes),),
            kind="adapter",
            fixed_seconds=ADAPTER_FIXED_SECONDS,
        )

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)


class Residency:
    """Hosts are given by index; `fleet` hands the indexes out."""

    def __init__(self) -> None:
        self.parts: Names[Digest] = Names()
        self.bundles: Names[Digest] = Names()
        self.described: list[Bundle] = []
        self.part_bytes: list[int] = []
        self.bundle_parts: list[Ints] = []
        self.bundles_of: list[Ints] = []  # part -> bundles that hold it
        self._pairs: tuple[Ints, Ints] | None = None
        self.copies: list[int] = []  # part -> hosts that hold it on the device
        self._tier = Grid(2, np.int8)
        self._seconds = Grid(2)
        self._bytes = Grid(2)
        self._count = Grid(2, np.int16)
        self._fixed = Grid(1)
        self._size = Grid(1)
        self._seconds_per_byte = Grid(2)  # tier, host
        self.hosts = 0
        self.describe(Bundle(digest=NOTHING, parts=(), fixed_seconds=0.0))

    # rows

    def seconds(self, bundle: int) -> Floats:
        """Per host, what loading the missing parts of a bundle takes, fixed share included. A view: do not write."""
        row: Floats = self._seconds.cells[bundle, : self.hosts]
        return row

    def seconds_on(self, bundles: Ints, host: int) -> Floats:
        """The same for many bundles on one host."""
        column: Floats = self._seconds.cells[bundles, host]
        return column

    def missing_bytes(self, bundle: int) -> Floats:
        row: Floats = self._bytes.cells[bundle, : self.hosts]
        return row

    def missing_bytes_on(self, bundles: Ints, host: int | Ints) -> Floats:
        column: Floats = self._bytes.cells[bundles, host]
        return column

    def size_bytes(self, bundle: int) -> int:
        return int(self._size.cells[bundle])

    def tier(self, part: int, host: int) -> int:
        return int(self._tier.cells[part, host])

    def missing_parts(self, bundle: int, host: int) -> list[int]:
        parts = self.bundle_parts[bundle]
        return [int(p) for p in parts[self._tier.cells[parts, host] < DEVICE]]

    def reload_seconds(self, part: int, host: int) -> float:
        """What fetching the part again would cost once it has left the device for the tier below that holds it."""
        below = min(self.tier(part, host), MEMORY)
        return self.part_bytes[part] * float(self._seconds_per_byte.cells[below, host])

    def pairs(self) -> tuple[Ints, Ints]:
        """Every (part, bundle) of which the one belongs to the other, as two columns."""
        if self._pairs is None:
            counts = [len(parts) for parts in self.bundle_parts]
            self._pairs = (
                np.concatenate([*self.bundle_parts, np.zeros(0, dtype=np.int64)]),
                np.repeat(np.arange(len(counts)), counts),
            )
        return self._pairs

    # changes

    def describe(self, bundle: Bundle) -> int:
        """Make a bundle known; saying it again changes nothing."""
        known = self.bundles.get(bundle.digest)
        if known is not None:
            return known
        index = self.bundles.add(bundle.digest)
        self.described.append(bundle)
        self._pairs = None
        parts = np.array([self.add_part(part) for part in bundle.parts], dtype=np.int64)
        self.bundle_parts.append(parts)
        for part in parts:
            self.bundles_of[part] = np.append(self.bundles_of[part], index)
        self._grow()
        self._fixed.cells[index] = bundle.fixed_seconds
        self._size.cells[index] = bundle.size_bytes
        self._refresh([index], range(self.hosts))
        return index

    def add_part(self, part: Part) -> int:
        index = self.parts.add(part.digest)
        if index == len(self.part_bytes):
            self.part_bytes.append(part.size_bytes)
            self.bundles_of.append(np.zeros(0, dtype=np.int64))
            self.copies.append(0)
            self._grow()
        return index

    def add_host(self, host: int, speeds: Speeds) -> None:
        """A host that holds nothing; an index that returns forgets what it held."""
        self.hosts = max(self.hosts, host + 1)
        self._grow()
        for part in np.flatnonzero(self._tier.cells[: len(self.parts), host] == DEVICE):
            self.copies[part] -= 1
        self._tier.cells[:, host] = ABSENT
        to_device, to_memory = 1 / speeds.memory_to_device, 1 / speeds.disk_to_memory
        steps = (1 / speeds.network_to_disk, to_memory, to_device, 0.0)
        self._seconds_per_byte.cells[:4, host] = [sum(steps[tier:]) for tier in range(4)]
        self._refresh(range(len(self.bundles)), [host])

    def set_tier(self, part: int, host: int, tier: int) -> None:
        before = self.tier(part, host)
        if before == tier:
            return
        self._tier.cells[part, host] = tier
        prices, size = self._seconds_per_byte.cells[:, host], self.part_bytes[part]
        bundles = self.bundles_of[part]
        seconds = self._seconds.cells[bundles, host] + size * (prices[tier] - prices[before])
        arrived = (tier == DEVICE) - (before == DEVICE)
        if arrived:
            self.copies[part] += arrived
            self._bytes.cells[bundles, host] -= arrived * size
            count = self._count.cells[bundles, host] - arrived
            self._count.cells[bundles, host] = count
            # The fixed share is paid while anything is missing; nothing missing is exactly nothing to pay.
            if arrived > 0:
                seconds[count == 0] = 0.0
            else:
                seconds[count == 1] += self._fixed.cells[bundles][count == 1]
        self._seconds.cells[bundles, host] = seconds

    def _grow(self) -> None:
        parts, bundles = len(self.parts), len(self.bundles)
        self._tier.reserve(parts, self.hosts)
        self._seconds_per_byte.reserve(4, self.hosts)
        for grid in (self._seconds, self._bytes, self._count):
            grid.reserve(bundles, self.hosts)
        for line in (self._fixed, self._size):
            line.reserve(bundles)

    def _refresh(self, bundles: Iterable[int], hosts: Sequence[int]) -> None:
        for bundle in bundles:
            seconds, missing, count = self._from_scratch(bundle, np.array(hosts, dtype=np.int64))
            self._seconds.cells[bundle, hosts] = seconds
            self._bytes.cells[bundle, hosts] = missing
            self._count.cells[bundle, hosts] = count

    def _from_scratch(self, bundle: int, hosts: Ints) -> tuple[Floats, Floats, Ints]:
        parts = self.bundle_parts[bundle]
        sizes = np.array([self.part_bytes[p] for p in parts], dtype=np.float64)[:, None]
        tiers = self._tier.cells[np.ix_(parts, hosts)]
        absent = tiers < DEVICE
        seconds = (sizes * self._seconds_per_byte.cells[tiers, hosts[None, :]]).sum(axis=0)
        missing = absent.any(axis=0)
        seconds = (seconds + self._fixed.cells[bundle]) * missing
        return seconds, (sizes * absent).sum(axis=0), absent.sum(axis=0)

    def check_integrity(self) -> None:
        """The incremental matrices equal a computation from scratch."""
        hosts = np.arange(self.hosts)
        for bundle in range(len(self.bundles)):
            seconds, missing, count = self._from_scratch(bundle, hosts)
            assert np.allclose(self._seconds.cells[bundle, hosts], seconds, atol=1e-6)
            assert np.allclose(self._bytes.cells[bundle, hosts], missing, atol=1.0)
            assert np.array_equal(self._count.cells[bundle, hosts], count)
        held = (self._tier.cells[: len(self.parts), : self.hosts] == DEVICE).sum(axis=1)
        assert self.copies == held.tolist()
