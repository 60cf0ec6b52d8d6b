"""Everything that can go wrong on a host, by name.

LoaderError
├── InputError              the caller's arguments do not fit the pipeline
├── CancelledError          the attempt was cancelled between two steps
├── ModelError              the version or adapter itself cannot run; the same everywhere
│   ├── WeightsMissingError     the source has no such file
│   ├── WeightsGatedError       the source wants an accepted licence or a token
│   ├── WeightsDamagedError     bytes that do not match their digest or header
│   ├── ArchitectureError       configs or weights that no known class takes
│   ├── AdapterMismatchError    a LoRA made for another architecture
│   └── AdapterFormatError      a file that holds no LoRA this product knows
└── HostError               this host cannot; another may
    ├── SourceDownError         the source does not answer
    ├── AbandonedError          nobody waits for a download any more; what arrived is kept
    │   └── AsideError              within a host: a prewarm lets a request go first
    ├── NotHereError            a file is not on this disk; within a host, it is fetched then
    ├── DiskFullError           no room on disk, nothing left to evict
    ├── DiskFailedError         the disk does not read or write
    ├── NoRoomError             budgets too small for what is pinned and wanted
    ├── OutOfMemoryError        the device ran out during a run, also after evicting
    ├── NoDeviceError           this machine has no such device
    ├── HungError               a step took far too long; the process gives up
    ├── MoverHungError          moving weights made no progress for far too long; likewise
    ├── DeviceBrokenError       the device takes no more work from this process; it gives up
    ├── LibrariesBrokenError    what every pipeline needs cannot be imported; the process gives up
    └── KeyRefusedError         the router does not know this host's key
"""

from typing import Literal

Kind = Literal["input", "model", "host", "cancelled"]


class LoaderError(Exception):
    """Root. `kind` says who has to act; `name` is the error's name on the wire."""

    kind: Kind = "host"
    name: str = "host_error"
    location: tuple[str, ...] = ()


class InputError(LoaderError):
    """An argument that the pipeline does not take, or not like this. The caller corrects the field at `location`."""

    kind = "input"
    name = "invalid_input"

    def __init__(self, message: str, *location: str) -> None:
        super().__init__(message)
        self.location = location


class CancelledError(LoaderError):
    """Raised inside a run at the first step after a cancel."""

    kind = "cancelled"
    name = "cancelled"


class ModelError(LoaderError):
    """The version or adapter cannot run on any host; its owner has to act."""

    kind: Kind = "model"
    name = "model_error"


class WeightsMissingError(ModelError):
    """The source answers, but has no such file. Publish the version again or mend its source."""

    name = "weights_missing"


class WeightsGatedError(ModelError):
    """The repository asks for an accepted licence or a token that may read it."""

    name = "weights_gated"


class WeightsDamagedError(ModelError):
    """The bytes do not match the digest or header that names them; none of them were believed."""

    name = "weights_damaged"


class ArchitectureError(ModelError):
    """A class, config and weights that do not fit together."""

    name = "architecture_unknown"


class AdapterMismatchError(ModelError):
    """The LoRA names layers or shapes that this base does not have. Use it with the base it was made for."""

    kind = "input"
    name = "adapter_incompatible"
    location = ("loras",)


class AdapterFormatError(ModelError):
    """The file holds no LoRA in a layout that this product knows."""

    kind = "input"
    name = "adapter_format"
    location = ("loras",)


class HostError(LoaderError):
    """Raised when only this host cannot do it now; another may."""


class SourceDownError(HostError):
    """The place the weights come from does not answer, or answers that it is overloaded."""

    name = "source_down"

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds  # what the source asked for


class AbandonedError(HostError):
    """Nobody waits for what was on its way. What arrived of it is kept, and the next try goes on from there."""

    name = "abandoned"


class AsideError(AbandonedError):
    """A prewarm was at it when a request came. It goes on afterwards."""

    name = "aside"


class NotHereError(HostError):
    """A verified file is not on this disk (any more). Whoever may wait fetches it and tries again."""

    name = "not_here"


class DiskFullError(HostError):
    """There is no room on disk and nothing left that may be evicted."""

    name = "disk_full"


class DiskFailedError(HostError):
    """The disk under the store refuses to read or write. An operator has to look at this machine."""

    name = "disk_failed"


class NoRoomError(HostError):
    """The tier cannot hold what is wanted beside what is pinned."""

    name = "no_room"

    def __init__(self, *, tier: str, wanted_bytes: int, pinned_bytes: int, budget_bytes: int) -> None:
        super().__init__(
            f"{wanted_bytes} bytes do not fit beside the {pinned_bytes} in use: the {tier}'s budget is {budget_bytes} bytes"
            f" (MARQUEE_{tier.upper()}_BUDGET_BYTES)"
        )
        self.tier = tier
        self.wanted_bytes = wanted_bytes
        self.pinned_bytes = pinned_bytes
        self.budget_bytes = budget_bytes


class OutOfMemoryError(HostError):
    """The device ran out of memory in a run, and again after everything idle was evicted."""

    name = "out_of_memory"


class NoDeviceError(HostError):
    """The device that was asked for is not here. Name another with --device, or mend the driver."""

    name = "no_device"

    def __init__(self, device: str, reason: str) -> None:
        super().__init__(f"there is no device {device} here: {reason}")
        self.device = device


class HungError(HostError):
    """A run made no step for far too long."""

    name = "device_hung"


class MoverHungError(HostError):
    """Reading weights, or copying them to the device, made no progress for far too long: a disk or a mount hangs."""

    name = "mover_hung"


class DeviceBrokenError(HostError):
    """The device reported an error after which every call of this process fails. A fresh process may do it."""

    name = "device_broken"


class LibrariesBrokenError(HostError):
    """An import that every pipeline needs failed. Install `marquee[host]` again; the log has the whole error."""

    name = "libraries_broken"


class KeyRefusedError(HostError):
    """The router does not accept this host's key. Make one with the scope `host`."""

    name = "key_refused"
