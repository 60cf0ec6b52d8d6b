"""What a simulated host is made of and keeps count of: its kind, the attempts on it, and what it did. Pure."""

from dataclasses import dataclass, field

import msgspec

from loaders.protocol import AttemptKey, Speeds
from registry.catalog import Digest
from router.residency import Bundle, Part
from router.simulator.ranges import NotNegative, Positive
from router.simulator.workload import GB, Job


class HostType(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of machine, as a scenario describes it. Without `memory_gb` disk is read straight to the device."""

    device_gb: Positive = 40.0
    memory_gb: NotNegative = 0.0
    disk_gb: Positive = 2000.0
    disk_gb_per_second: Positive = 3.3
    device_gb_per_second: Positive = 52.0
    network_gb_per_second: Positive = 1.0
    speed: Positive = 1.0
    on_disk: bool = True  # the disk is full of weights from the start, the newest ones

    @property
    def speeds(self) -> Speeds:
        return Speeds(
            disk_to_memory=self.disk_gb_per_second * GB,
            memory_to_device=self.device_gb_per_second * GB,
            network_to_disk=self.network_gb_per_second * GB,
        )


@dataclass(slots=True, eq=False)
class Attempt:
    """One job on this host. `bundle` names what to stage when there is no job."""

    key: AttemptKey
    job: Job | None
    bundles: tuple[Bundle, ...]
    arrived_at: float
    ready: bool = False
    fetched: tuple[Digest, ...] | None = None  # from elsewhere, until it is loaded; None: not looked at yet
    missed: tuple[Bundle, ...] = ()

    @property
    def parts(self) -> dict[Digest, Part]:
        return {part.digest: part for bundle in self.bundles for part in bundle.parts}


@dataclass(slots=True)
class Tally:
    """What a host did, for the report."""

    base_loads: int = 0
    lora_loads: int = 0
    load_seconds: float = 0.0  # the mover's
    stalled_seconds: float = 0.0  # the device idle because weights were on their way
    run_seconds: float = 0.0
    moved_bytes: dict[str, int] = field(default_factory=dict)
