"""A simulated host: one device, one mover, the production weight cache and move planner. Pure.

With `overlaps` it is as our hosts are: what comes from elsewhere comes beside the rest, the mover brings the next
request's weights to the device while that runs, and who waits for the network lets others by. Without, it does one
thing at a time, in order. It speaks the production protocol, so that a policy folds the same
messages a real host sends. Nothing is moved: a move takes `bytes / bandwidth`, a bundle its fixed seconds more.
"""

from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice

from loaders.cache import Order, WeightCache
from loaders.errors import NoRoomError
from loaders.protocol import (
    AttemptKey,
    Done,
    FromHost,
    Held,
    Hello,
    Progress,
    Residency,
    Started,
    Tier,
    Timings,
)
from loaders.tiers import Move, Want, plan
from registry.catalog import Digest
from router.residency import Bundle
from router.simulator.hardware import Attempt, HostType, Tally
from router.simulator.network import Network
from router.simulator.workload import GB, Job, last_that_fit

REQUESTS_AT_ONCE = 8  # whose downloads a host begins
PROGRESS_STEPS, PROGRESS_FROM_SECONDS = 10, 10.0  # a real host reports every denoising step
NEAR: tuple[Tier, ...] = ("device", "memory", "disk")


Evictor = Callable[["Machine", int, float], tuple[Digest, ...]]  # (machine, bytes, now) -> who goes first


class Machine:
    """`later(when, callback)` is the engine's clock; `say` takes messages to the policy."""

    def __init__(
        self,
        name: str,
        kind: HostType,
        *,
        zone: str,
        overlaps: bool,
        later: Callable[[float, Callable[[float], None]], None],
        say: Callable[[str, FromHost], None],
        evictor: Evictor | None = None,
        free_loads: bool = False,
        order: Order = "lru",
    ) -> None:
        self.name, self.kind, self.zone, self.overlaps = name, kind, zone, overlaps
        self._later, self._say, self._evictor, self._free = later, say, evictor, free_loads
        budgets = {
            "device": int(kind.device_gb * GB),
            "memory": int(kind.memory_gb * GB),
            "disk": int(kind.disk_gb * GB),
        }
        self.caches: dict[Tier, WeightCache] = {
            tier: WeightCache(budgets[tier], tier=tier, order=order) for tier in NEAR if budgets[tier]
        }
        self.queue: deque[Attempt] = deque()
        self.running: Attempt | None = None
        self.run_ends_at = 0.0
        self.loading: Attempt | None = None
        self.prewarms: list[Attempt] = []  # of which something comes from elsewhere
        self._network = Network(
            self.caches,
            kind.speeds.network_to_disk,
            later=later,
            say=lambda message: say(name, message),
            arrived=self.advance,
        )
        self.tally = Tally()
        self.device = self.caches["device"]
        self._idle_since = 0.0
        self._life = 0  # grows when the host dies, so that its old timers mean nothing
        self.alive = True

    def hello(self, bundles: Mapping[Digest, Bundle]) -> Hello:
        if self.kind.on_disk:
            disk = self.caches["disk"]
            for part in last_that_fit(bundles.values(), disk.budget_bytes):
                disk.add(part.digest, part.size_bytes)
        held = [
            Held(digest=digest, tier=tier, size_bytes=cache.size_of(digest))
            for tier, cache in self.caches.items()
            for digest in cache
        ]
        return Hello(
            protocol=1,
            host_id=self.name,
            name=self.name,
            device="simulated",
            pool="simulated",
            zone=self.zone,
            speed=self.kind.speed,
            budgets={tier: cache.budget_bytes for tier, cache in self.caches.items()},
            speeds=self.kind.speeds,
            held=tuple(held),
            running=(),
            finished=(),
            slots=2 if self.overlaps else 1,
        )

    def assign(self, attempt: Attempt, now: float) -> None:
        self.queue.append(attempt)
        self.advance(now)

    def stage(self, bundles: tuple[Bundle, ...], now: float) -> None:
        """Bring bundles onto the device if the mover, or the network, has nothing better to do."""
        order = Attempt(AttemptKey("stage", 0), None, bundles, now)
        if all(digest in self.device for digest in order.parts):
            return
        if self.overlaps and self._network.absent(order):
            if self._network.free_at <= now:
                self._network.fetch(order, now)
                self.prewarms.append(order)
        elif self.loading is None and self._first() is None:
            self._prepare(order, now)

    def drop(self, digests: tuple[Digest, ...]) -> None:
        for digest in reversed(digests):
            self.device.demote(digest)

    def die(self, now: float) -> list[Job]:
        """Everything on the device is gone; returns the jobs that were here."""
        lost = [attempt.job for attempt in (*filter(None, [self.running]), *self.queue) if attempt.job]
        self._life += 1
        self.alive, self.running, self.loading = False, None, None
        for attempt in (*self.queue, *self.prewarms):
            self._network.let_go(attempt)
        self._network.break_off()
        self.queue.clear()
        self.prewarms.clear()
        for tier in ("device", "memory"):
            if tier in self.caches:
                old = self.caches[tier]
                self.caches[tier] = WeightCache(old.budget_bytes, tier=tier, order=old.order)
        self.device = self.caches["device"]
        return lost

    def advance(self, now: float) -> None:
        """Start whatever can start."""
        self._prepare_next(now)
        if self.running is None and (ready := next((a for a in self.queue if a.ready), None)) is not None:
            self.queue.remove(ready)
            self._run(ready, now)
            self._prepare_next(now)

    def _first(self) -> Attempt | None:
        """Whose turn on the mover it is: the first that does not wait for the network, unless it is ready."""
        first = next((attempt for attempt in self.queue if not self._network.is_awaited(attempt)), None)
        return None if first is None or first.ready else first

    def _prepare_next(self, now: float) -> None:
        if self.overlaps and not self._free:
            for attempt in islice(self.queue, REQUESTS_AT_ONCE):
                if attempt.fetched is None:
                    self._network.fetch(attempt, now)
        if self.loading is not None:
            return
        if (first := self._first()) is not None:
            self._prepare(first, now)
            return
        for prewarm in self.prewarms:
            if not self._network.is_awaited(prewarm):
                self.prewarms.remove(prewarm)
                self._prepare(prewarm, now)
                self._network.let_go(prewarm)  # also where there is no room now: it was only tried
                return

    def _prepare(self, attempt: Attempt, now: float) -> None:
        parts = attempt.parts
        for digest in parts:
            if digest in self.device:
                self.device.touch(digest)
        missing = [part for part in parts.values() if part.digest not in self.device]
        if not missing or self._free:
            self._network.let_go(attempt)
            if not self._free and attempt.job is not None:
                self._pin(attempt)
            attempt.ready = True
            return
        if self.running is not None and not self.overlaps:
            return
        wants = [
            Want(digest=p.digest, disk_bytes=p.size_bytes, device_bytes=p.size_bytes) for p in parts.values()
        ]
        needs = sum(part.size_bytes for part in missing)
        if self._evictor:
            self.drop(self._evictor(self, needs, now))
        try:
            moves = plan(wants, self.caches)
        except NoRoomError:
            return  # what runs holds the room: again when it is done
        absent = {part.digest for part in missing}
        attempt.missed = tuple(b for b in attempt.bundles if any(p.digest in absent for p in b.parts))
        self._carry_out(attempt, moves, now)

    def _carry_out(self, attempt: Attempt, moves: tuple[Move, ...], now: float) -> None:
        seconds = sum(bundle.fixed_seconds for bundle in attempt.missed)
        fixed = {part.digest: bundle.fixed_seconds for bundle in attempt.bundles for part in bundle.parts}
        added, removed = [], []
        for move in moves:
            held = Held(digest=move.digest, tier=move.tier, size_bytes=move.size_bytes)
            if move.kind == "evict":
                self.caches[move.tier].discard(move.digest)
                removed.append(held)
            else:
                again = fixed[move.digest] + move.size_bytes / self.kind.speeds.disk_to_memory
                self.caches[move.tier].add(move.digest, move.size_bytes, reload_seconds=again)
                added.append(held)
                seconds += self._move_seconds(move)
                self.tally.moved_bytes[move.kind] = self.tally.moved_bytes.get(move.kind, 0) + move.size_bytes
        self._pin(attempt)
        self._network.let_go(attempt)
        self.loading = attempt
        self.tally.load_seconds += seconds
        for bundle in attempt.missed:
            self.tally.base_loads += bundle.kind == "version"
            self.tally.lora_loads += bundle.kind == "adapter"
        if removed:
            self._say(self.name, Residency(removed=tuple(removed)))
        life = self._life
        self._later(now + seconds, lambda at: self._loaded(attempt, tuple(added), at, life))

    def _move_seconds(self, move: Move) -> float:
        speeds = self.kind.speeds
        rates = {"fetch": speeds.network_to_disk, "copy": speeds.memory_to_device}
        return move.size_bytes / rates.get(move.kind, speeds.disk_to_memory)

    def _loaded(self, attempt: Attempt, added: tuple[Held, ...], now: float, life: int) -> None:
        if life != self._life:
            return
        self.loading = None
        attempt.ready = True
        self._say(self.name, Residency(added=added))
        if attempt.job is None:
            self._unpin(attempt)
        self.advance(now)

    def _run(self, attempt: Attempt, now: float) -> None:
        assert attempt.job is not None
        self.running = attempt
        self.tally.stalled_seconds += max(0.0, now - max(self._idle_since, attempt.arrived_at))
        seconds = attempt.job.run_seconds / self.kind.speed
        self.tally.run_seconds += seconds
        self.run_ends_at = now + seconds
        self._say(self.name, Started(attempt=attempt.key, phase="running"))
        life = self._life
        for step in range(1, PROGRESS_STEPS if seconds > PROGRESS_FROM_SECONDS else 0):
            self._later(now + seconds * step / PROGRESS_STEPS, self._progress(attempt, step, life))
        self._later(now + seconds, lambda at: self._done(attempt, seconds, at, life))

    def _progress(self, attempt: Attempt, step: int, life: int) -> Callable[[float], None]:
        def say(now: float) -> None:
            if life == self._life:
                self._say(self.name, Progress(attempt=attempt.key, step=step, steps=PROGRESS_STEPS))

        return say

    def _done(self, attempt: Attempt, seconds: float, now: float, life: int) -> None:
        if life != self._life:
            return
        self.running = None
        self._idle_since = now
        if not self._free:
            self._unpin(attempt)
        self._say(self.name, Done(attempt=attempt.key, outputs=(), result={}, timings=Timings(run=seconds)))
        self.advance(now)

    def _pin(self, attempt: Attempt) -> None:
        for bundle in attempt.bundles:
            for part in bundle.parts:
                self.device.pin(part.digest)

    def _unpin(self, attempt: Attempt) -> None:
        for bundle in attempt.bundles:
            for part in bundle.parts:
                self.device.release(part.digest)
