"""Which weights each host holds in which tier, and what fetching the rest would cost, kept as numpy matrices.

Pure. A *bundle* is what a run names (a version or an adapter); its *parts* are the components it is made of, each
counted once however many bundles share it. `seconds[bundle, host]` is kept up to date cell by cell, so that pricing
one request on every host is one row. It refuses to know about attempts, queues or clocks: that is `fleet`.
"""

from collections.abc import Mapping
from typing import Literal, Self

import msgspec
import numpy as np

from loaders.protocol import Speeds, Tier
from registry.catalog import AdapterManifest, Digest, Manifest
from router.grid import Flags, Floats, Grid, Ints, Names

ABSENT, DISK, MEMORY, DEVICE = range(4)
LEVEL: dict[Tier, int] = {"disk": DISK, "memory": MEMORY, "device": DEVICE}
VERSION_FIXED_SECONDS = 0.5  # building or binding a pipeline once its bytes are there
ADAPTER_FIXED_SECONDS = 0.05  # parsing and padding a LoRA
FEW = 4  # bundles that share a part, up to which cells are changed one by one
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
        self.bundle_parts: list[tuple[int, ...]] = []
        self.bundles_of: list[list[int]] = []  # part -> bundles that hold it
        self._bundle_arrays: dict[int, Ints] = {}  # of `bundles_of`, of parts that many share
        self._pairs: tuple[Ints, Ints] | None = None
        self._holders: list[int] = []
        self.copies: list[int] = []  # part -> hosts that hold it on the device
        self._tier = Grid(2, np.int8)
        self._seconds = Grid(2)
        self._bytes = Grid(2)
        self._count = Grid(2, np.int16)
        self._fixed = Grid(1)
        self._sizes: list[int] = []
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
        cells = self._seconds.cells
        column: Floats = cells.take(bundles * cells.shape[1] + host)  # much quicker than two index arrays
        return column

    def holders(self, bundle: int) -> int:
        """The hosts that have all of it on the device, a bit for each."""
        return self._holders[bundle]

    def missing_bytes(self, bundle: int) -> Floats:
        row: Floats = self._bytes.cells[bundle, : self.hosts]
        return row

    def missing_bytes_on(self, bundles: Ints, host: int | Ints) -> Floats:
        column: Floats = self._bytes.cells[bundles, host]
        return column

    def seconds_at(self, bundle: int, host: int) -> float:
        seconds: float = self._seconds.cells.item(bundle, host)
        return seconds

    def missing_bytes_at(self, bundle: int, host: int) -> float:
        missing: float = self._bytes.cells.item(bundle, host)
        return missing

    def size_bytes(self, bundle: int) -> int:
        return self._sizes[bundle]

    def tier(self, part: int, host: int) -> int:
        tier: int = self._tier.cells.item(part, host)
        return tier

    def fixed_seconds(self) -> Floats:
        """Per bundle. A view: do not write."""
        line: Floats = self._fixed.cells[: len(self.bundles)]
        return line

    def fetch_seconds(self, part: int, host: int, tier: int) -> float:
        """What moving the part's bytes from this tier to the device takes."""
        price: float = self._seconds_per_byte.cells.item(tier, host)
        return self.part_bytes[part] * price

    def pairs(self) -> tuple[Ints, Ints]:
        """Every (part, bundle) of which the one belongs to the other, as two columns."""
        if self._pairs is None:
            counts = [len(parts) for parts in self.bundle_parts]
            self._pairs = (
                np.array([part for parts in self.bundle_parts for part in parts], dtype=np.int64),
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
        parts = tuple(self.add_part(part) for part in bundle.parts)
        self.bundle_parts.append(parts)
        for part in parts:
            self.bundles_of[part].append(index)
        self._sizes.append(bundle.size_bytes)
        self._holders.append(0)
        self._grow()
        self._fixed.cells[index] = bundle.fixed_seconds
        self._refresh(index)
        return index

    def add_part(self, part: Part) -> int:
        index = self.parts.add(part.digest)
        if index == len(self.part_bytes):
            self.part_bytes.append(part.size_bytes)
            self.bundles_of.append([])
            self.copies.append(0)
            self._grow()
        return index

    def add_host(self, host: int, speeds: Speeds, tiers: Mapping[int, int] | None = None) -> None:
        """A host with its parts' tiers, all at once; an index that returns forgets what it held."""
        self.hosts = max(self.hosts, host + 1)
        self._grow()
        column = self._tier.cells[:, host]
        for part in np.flatnonzero(column == DEVICE).tolist():
            self.copies[part] -= 1
        column[:] = ABSENT
        for part, tier in (tiers or {}).items():
            column[part] = tier
            self.copies[part] += tier == DEVICE
        to_device, to_memory = 1 / speeds.memory_to_device, 1 / speeds.disk_to_memory
        steps = (1 / speeds.network_to_disk, to_memory, to_device, 0.0)
        self._seconds_per_byte.cells[:4, host] = [sum(steps[tier:]) for tier in range(4)]
        self._refresh_host(host)

    def set_tier(self, part: int, host: int, tier: int) -> None:
        before = self.tier(part, host)
        if before == tier:
            return
        self._tier.cells[part, host] = tier
        price, size = self._seconds_per_byte.cells.item, self.part_bytes[part]
        change = size * (price(tier, host) - price(before, host))
        arrived = (tier == DEVICE) - (before == DEVICE)
        self.copies[part] += arrived
        bundles = self.bundles_of[part]
        if len(bundles) > FEW:
            self._change_many(part, host, change, arrived)
            return
        for bundle in bundles:  # nearly all parts belong to one bundle, and one cell is quicker than an array
            seconds = self._seconds.cells.item(bundle, host) + change
            if arrived:
                count = self._count.cells.item(bundle, host) - arrived
                self._count.cells[bundle, host] = count
                self._bytes.cells[bundle, host] -= arrived * size
                if count == (arrived < 0):  # the last part came, or the first one went
                    self._holders[bundle] ^= 1 << host
                seconds = self._with_fixed(seconds, count, arrived, self._fixed.cells.item(bundle))
            self._seconds.cells[bundle, host] = seconds

    @staticmethod
    def _with_fixed(seconds: float, count: int, arrived: int, fixed: float) -> float:
        """The fixed share is paid while anything is missing; nothing missing is exactly nothing to pay."""
        if arrived > 0:
            return seconds if count else 0.0
        return seconds + fixed if count == 1 else seconds

    def _change_many(self, part: int, host: int, change: float, arrived: int) -> None:
        """The same as a loop over `_with_fixed`."""
        bundles = self._bundle_arrays.get(part)
        if bundles is None or len(bundles) != len(self.bundles_of[part]):
            bundles = self._bundle_arrays[part] = np.array(self.bundles_of[part])
        at = bundles * self._seconds.cells.shape[1] + host  # much quicker than two index arrays
        every_second = self._seconds.cells.reshape(-1)
        seconds = every_second.take(at) + change
        if arrived:
            every_byte, every_count = self._bytes.cells.reshape(-1), self._count.cells.reshape(-1)
            every_byte[at] = every_byte.take(at) - arrived * self.part_bytes[part]
            every_count[at] = count = every_count.take(at) - arrived
            for bundle in bundles[count == (arrived < 0)].tolist():
                self._holders[bundle] ^= 1 << host
            if arrived > 0:
                seconds[count == 0] = 0.0
            else:
                seconds += self._fixed.cells.take(bundles) * (count == 1)
        every_second[at] = seconds

    def _grow(self) -> None:
        parts, bundles = len(self.parts), len(self.bundles)
        self._tier.reserve(parts, self.hosts)
        self._seconds_per_byte.reserve(4, self.hosts)
        for grid in (self._seconds, self._bytes, self._count):
            grid.reserve(bundles, self.hosts)
        self._fixed.reserve(bundles)

    def _refresh_host(self, host: int) -> None:
        """One column of every matrix from the tiers."""
        parts, owners = self.pairs()
        many = len(self.bundles)
        sizes = np.array(self.part_bytes, dtype=np.float64)[parts]
        tiers = self._tier.cells[parts, host]
        absent = (tiers < DEVICE).astype(np.float64)
        seconds = np.bincount(owners, sizes * self._seconds_per_byte.cells[tiers, host], many)
        count = np.bincount(owners, absent, many)
        self._count.cells[:many, host] = count
        self._bytes.cells[:many, host] = np.bincount(owners, sizes * absent, many)
        self._seconds.cells[:many, host] = (seconds + self._fixed.cells[:many]) * (count > 0)
        for bundle, missing in enumerate(count.tolist()):
            if bool(missing) == bool(self._holders[bundle] >> host & 1):
                self._holders[bundle] ^= 1 << host

    def _refresh(self, bundle: int) -> None:
        """One row of every matrix."""
        seconds, missing, count = self._from_scratch(bundle)
        self._seconds.cells[bundle, : self.hosts] = seconds
        self._bytes.cells[bundle, : self.hosts] = missing
        self._count.cells[bundle, : self.hosts] = count
        self._holders[bundle] = _bits(count == 0)

    def _from_scratch(self, bundle: int) -> tuple[Floats, Floats, Ints]:
        parts = np.array(self.bundle_parts[bundle], dtype=np.int64)
        sizes = np.array([self.part_bytes[p] for p in parts], dtype=np.float64)[:, None]
        hosts = np.arange(self.hosts)
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
            seconds, missing, count = self._from_scratch(bundle)
            assert np.allclose(self._seconds.cells[bundle, hosts], seconds, atol=1e-6)
            assert np.allclose(self._bytes.cells[bundle, hosts], missing, atol=1.0)
            assert np.array_equal(self._count.cells[bundle, hosts], count)
            assert self._holders[bundle] == _bits(count == 0)
        held = (self._tier.cells[: len(self.parts), : self.hosts] == DEVICE).sum(axis=1)
        assert self.copies == held.tolist()


def _bits(flags: Flags) -> int:
    """One bit for each flag, the first one lowest."""
    return int.from_bytes(np.packbits(flags, bitorder="little").tobytes(), "little")
