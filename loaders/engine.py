"""One device: brings the next request's weights while the present one runs, then runs it.

IO and threads: a mover thread fetches, reads and builds; a device thread binds, runs and encodes, one request at a
time. Reports go to a listener as the link's own messages, outputs beside them. It needs no router: a program can
describe a version and submit an assignment itself. It refuses to know sockets, queues of other hosts and prices.
"""

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog

from loaders import assembly, intake, merging, protocol, running
from loaders.artefacts import Artefacts
from loaders.cache import Order
from loaders.compiling import Compiler
from loaders.descriptions import Descriptions
from loaders.device import Device
from loaders.errors import DeviceBrokenError, HostError
from loaders.footprint import Footprint
from loaders.headroom import Headroom
from loaders.protocol import AttemptKey, Tier
from loaders.residency import Item, Shelf
from loaders.retrieval import Retrieval
from loaders.running import Finished, Job
from loaders.sketches import Sketches
from loaders.store import Store
from registry.catalog import Digest

log = structlog.get_logger("marquee.engine")

Event = protocol.Residency | protocol.Started | protocol.Progress | protocol.Failed | Finished
Listener = Callable[[Event], None]  # called from the engine's threads; must not block


class WarmUp:
    """An order to the mover thread."""


class Engine:
    """Describe, submit, cancel; hear of it by the listener. Close it when done."""

    def __init__(
        self,
        home: Path,
        *,
        device: Device,
        store: Store,
        budgets: Mapping[Tier, int],
        listener: Listener = lambda event: None,
        retrieval: Retrieval | None = None,
        order: Order = "lru",
        compiler: Compiler | None = None,
    ) -> None:
        self.device = device
        self._descriptions = Descriptions(home)
        self._listener = listener
        self._store = store
        self._retrieval = retrieval or Retrieval()
        self._assembly = assembly.Assembly(home, store, device)
        self._shelf = Shelf(budgets, on_change=self._tell, drop_files=self._drop_files, order=order)
        self._headroom = Headroom()
        self._footprint = Footprint(device, disturbed=self._shelf.moves)
        self._compiler = compiler or Compiler("off", Artefacts(home / "compiled", device))
        self._sketches = Sketches(home / "previews")
        self._pace = merging.Pace(device)
        self._jobs: dict[AttemptKey, Job] = {}
        self._lock = threading.Lock()
        self._to_move: queue.SimpleQueue[Job | protocol.Stage | WarmUp | None] = queue.SimpleQueue()
        self._to_run: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._idle_since = self._last_sign = time.monotonic()
        self.is_broken = False  # the device will do nothing for this process any more
        self._remember_disk()
        self._threads = [
            threading.Thread(target=self._move_all, name="mover", daemon=True),
            threading.Thread(target=self._run_all, name="device", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def listen(self, listener: Listener) -> None:
        """Reports go there from now on."""
        self._listener = listener

    def warm_up(self) -> None:
        """Imports the heavy libraries on the mover thread, so that the first request does not wait for them."""
        self._to_move.put(WarmUp())

    def describe(self, description: protocol.DescribeVersion | protocol.DescribeAdapter) -> None:
        self._descriptions.add(description)

    def submit(self, assign: protocol.Assign) -> None:
        """Accepted at once; what becomes of it, the listener hears."""
        job = Job(assign=assign, submitted_at=time.monotonic())
        with self._lock:
            if assign.attempt in self._jobs:
                return  # the router said it twice, over a new link
            self._jobs[assign.attempt] = job
        self._to_move.put(job)

    def cancel(self, attempt: AttemptKey) -> None:
        """Takes effect before the next step; an attempt that is not here any more is none of ours."""
        with self._lock:
            job = self._jobs.get(attempt)
        if job is not None:
            job.cancelled.set()

    def stage(self, stage: protocol.Stage) -> None:
        self._to_move.put(stage)

    def drop(self, digests: tuple[Digest, ...]) -> None:
        self._shelf.demote(digests)

    def running(self) -> tuple[AttemptKey, ...]:
        """Accepted, staged or running."""
        with self._lock:
            return tuple(self._jobs)

    def held(self) -> tuple[protocol.Held, ...]:
        return self._shelf.held()

    def known(self) -> tuple[Digest, ...]:
        """Versions and adapters that need no description any more."""
        return self._descriptions.known()

    def know_peers(self, urls: Sequence[str]) -> None:
        """Hosts of the pool to ask first for files that are not here."""
        self._store.know_peers(urls)
        self._compiler.artefacts.know_peers(urls)

    def drain(self) -> tuple[AttemptKey, ...]:
        """Hands back what has not begun, without a report, and lets the running one finish."""
        with self._lock:
            staged = [job for job in self._jobs.values() if job.started_at is None]
            for job in staged:
                job.returned = True
                del self._jobs[job.attempt]
        return tuple(job.attempt for job in staged)

    def close(self, *, timeout_seconds: float = 30.0) -> None:
        """Ends both threads after the run in progress."""
        self._to_move.put(None)
        for thread in self._threads:
            thread.join(timeout_seconds)

    def stalled(self) -> tuple[AttemptKey, float] | None:
        """The attempt on the device and the seconds since it last gave a sign of life."""
        with self._lock:
            running = next((job for job in self._jobs.values() if job.started_at is not None), None)
        if running is None or running.started_at is None:
            return None
        return running.attempt, time.monotonic() - max(self._last_sign, running.started_at)

    def check_integrity(self) -> None:
        self._shelf.check_integrity()

    def _remember_disk(self) -> None:
        for digest, files in self._descriptions.weight_files():
            if all(self._store.locate(file.sha256) for file in files):
                with contextlib.suppress(HostError):  # a smaller budget than last time
                    self._shelf.remember_on_disk(digest, self._store.kept_bytes(files))

    def _drop_files(self, digest: Digest, staying: frozenset[Digest]) -> None:
        """All but those that something else on this disk is made of."""
        files = dict(self._descriptions.weight_files())
        shared = {file.sha256 for other in staying for file in files.get(other, ())}
        for file in files.get(digest, ()):
            if file.sha256 not in shared:
                self._store.drop(file.sha256)

    def _tell(self, event: Event) -> None:
        self._last_sign = time.monotonic()
        self._listener(event)

    # the mover thread

    def _move_all(self) -> None:
        self.device.enter_thread()
        while (order := self._to_move.get()) is not None:
            if isinstance(order, WarmUp):
                self._warm_up()
            elif isinstance(order, protocol.Stage):
                self._stage(order)
            else:
                self._prepare(order)
        self._to_run.put(None)

    def _warm_up(self) -> None:
        try:
            assembly.warm_up()
        except Exception:  # the requests will say what is missing; this thread has to live for them
            log.exception("warm-up failed")

    def _prepare(self, job: Job) -> None:
        if job.returned:
            return
        if len(self.running()) == 1:
            self._tell(protocol.Started(attempt=job.attempt, phase="loading"))
        try:
            job.check_cancelled()
            manifest, defaults = self._descriptions.version(job.assign.version)
            job.ready = ready = self._assembly.ready(manifest, defaults)
            job.intake = intake.take_in(
                ready.built, ready.assets, job.assign.input, defaults, self._retrieval
            )
            uses = running.applied(job.assign.adapters)
            found = self._assembly.adapters(job.ready, [self._descriptions.adapter(u.digest) for u in uses])
            job.items = (*job.ready.components, *found)
            job.scales = tuple(use.scale for use in uses)
            job.payloads = running.twice_when_full(
                functools.partial(self._shelf.acquire, job.items), self._shelf, self.device
            )
            self._plan_loras(job, ready)
            self._shelf.reserve(job.attempt, running.headroom(job, self._headroom))
        except BaseException as error:  # noqa: BLE001 (every failure becomes a report, a library's exit too)
            self._shelf.release(job.let_go())
            self._fail(job, error)
            return
        job.ready_at = time.monotonic()
        self._to_run.put(job)

    def _plan_loras(self, job: Job, ready: assembly.Ready) -> None:
        plan = merging.plan(ready, job.items, job.payloads, job.scales, self.device)
        if plan is not None:
            assert job.intake is not None, "taken in before anything was loaded"
            job.lora = merging.choose(plan, job.intake.steps, self._shelf, self._pace)
            self._shelf.book(job.lora.digest, job.lora.size_bytes, own=job.pinned)
            job.lora_booked = True

    def _stage(self, order: protocol.Stage) -> None:
        """A prewarm that does not fit or fails is only a missed chance: the run itself will say why."""
        try:
            manifest, defaults = self._descriptions.version(order.version)
            ready = self._assembly.ready(manifest, defaults)
            found = self._assembly.adapters(ready, [self._descriptions.adapter(d) for d in order.adapters])
            wanted: tuple[Item, ...] = (*ready.components, *found)
            self._shelf.acquire(wanted)
            self._shelf.release([item.digest for item in wanted])
        except BaseException as error:  # noqa: BLE001 (whatever it is, this thread has to live for the requests)
            log.warning("not staged", version=order.version, error=f"{type(error).__name__}: {error}")

    # the device thread

    def _run_all(self) -> None:
        self.device.enter_thread()
        self.device.use_all_cores()
        while (job := self._to_run.get()) is not None:
            with self._lock:
                if not job.returned:
                    job.started_at = time.monotonic()
            try:
                if job.started_at is not None:
                    self._run(job)
            finally:
                self._shelf.reserve(job.attempt, 0)
                self._shelf.release(job.let_go())
                self._idle_since = time.monotonic()

    def _run(self, job: Job) -> None:
        self._tell(protocol.Started(attempt=job.attempt, phase="running"))
        learn = functools.partial(running.learn, job, self._headroom)
        try:
            with self.device.few_cores(running.weight_bytes(job)):
                finished = running.run(
                    job,
                    self._shelf,
                    self.device,
                    idle_since=self._idle_since,
                    report=self._tell,
                    compiler=self._compiler,
                    sketching=running.sketching(job, self._sketches),
                    measured=lambda: self._footprint.of_run(learn),
                )
        except BaseException as error:  # noqa: BLE001 (every failure becomes a report, a library's exit too)
            self._fail(job, error)
            return
        self._forget(job)
        self._tell(finished)

    def _fail(self, job: Job, error: BaseException) -> None:
        self._forget(job)
        if self.device.is_broken(error):
            self.is_broken = True
            error = DeviceBrokenError(f"the device takes no more work: {error}")
        if not job.returned:
            self._tell(running.failure(job, error, idle_since=self._idle_since))

    def _forget(self, job: Job) -> None:
        with self._lock:
            self._jobs.pop(job.attempt, None)
