"""What a host moves between its tiers, as those see it who move it: `Item`. It needs no torch and no files."""

from typing import Any, Protocol

from loaders.interest import Interest
from registry.catalog import Digest


class Item(Protocol):
    """Something that takes room: a component or an adapter."""

    @property
    def digest(self) -> Digest: ...
    @property
    def reported(self) -> Digest:
        """The digest the router knows it by: a cast copy is the same component to it."""
        ...

    @property
    def disk_bytes(self) -> int:
        """Of our own disk: nothing for files that are read where somebody else keeps them."""
        ...

    def fetch(self, interest: Interest) -> None:
        """Brings the files to the disk, from wherever they are; idempotent. All or none of them are held there."""

    def measure(self) -> int:
        """Bytes in memory. Raises `NotHereError` while the files that say so are not on the disk."""
        ...

    def aside(self) -> int:
        """Bytes that `load` takes while it lasts, beside the place of what it loads; known once it is measured."""
        ...

    def load(self, interest: Interest) -> Any:
        """Reads the files into host memory. Raises `NotHereError` when they are not on the disk any more."""

    def load_onward(self, interest: Interest) -> tuple[Any, Any]:
        """Reads them, and sends what is read to the device while more is read: both payloads.

        None for the second where that cannot be done; then it is copied like what was there before.
        """
        ...

    def copy(self, payload: Any, interest: Interest) -> Any:
        """From host memory to the device, where it arrives in its own time."""
