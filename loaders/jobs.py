"""One assignment on its way through the engine, from the mover thread to the device thread. State alone."""

import threading
from typing import Any

from loaders import protocol
from loaders.assembly import Ready
from loaders.errors import CancelledError
from loaders.intake import Intake
from loaders.interest import Interest
from loaders.merging import Kept, Streamed
from loaders.movable import Item
from loaders.mover import Order
from loaders.protocol import AttemptKey
from registry.catalog import Digest


class Job:
    """One assignment on its way through the engine. Each field is written by one thread at a time."""

    def __init__(
        self, *, assign: protocol.Assign, submitted_at: float, interest: Interest | None = None
    ) -> None:
        self.assign = assign
        self.submitted_at = submitted_at
        self.interest = interest or Interest()  # in what has to come before the run
        self.order: Order | None = None  # with the mover
        self.cancelled = threading.Event()
        self.returned = False
        self.ready: Ready | None = None
        self.intake: Intake | None = None
        self.items: tuple[Item, ...] = ()
        self.scales: tuple[float, ...] = ()
        self.payloads: list[Any] = []
        self.lora: Kept | Streamed | None = None
        self.lora_booked = False
        self.ready_at: float | None = None
        self.started_at: float | None = None

    @property
    def attempt(self) -> AttemptKey:
        return self.assign.attempt

    @property
    def waits_for_device(self) -> bool:
        return self.ready_at is not None and self.started_at is None

    @property
    def pinned(self) -> list[Digest]:
        """What the shelf keeps for this job so far."""
        return [item.digest for item in self.items[: len(self.payloads)]]

    def let_go(self) -> list[Digest]:
        """What the shelf kept for this job until now; the job itself holds no weight any more.

        Objects of a run may live on until the garbage collector comes, and evicted weights would with them.
        """
        booked = [self.lora.digest] if self.lora is not None and self.lora_booked else []
        pinned = self.pinned + booked
        self.payloads, self.lora, self.lora_booked = [], None, False
        return pinned

    def check_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise CancelledError("the request was cancelled")
