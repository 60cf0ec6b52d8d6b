"""One device: brings the next request's weights while the present one runs, then runs it.

IO and threads: the mover thread reads and builds, while what comes from elsewhere comes on threads of its own; the
device thread binds, runs and encodes, one request at a time. Reports go to a listener as the link's own messages,
outputs beside them. It needs no router: a program can describe a version and submit an assignment itself. It refuses
to know sockets, queues of other hosts and prices.
"""

import functools
import queue
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path

import structlog

from loaders import assembly, protocol, running
from loaders.artefacts import Artefacts
from loaders.cache import Order
from loaders.compiling import Compiler
from loaders.descriptions import Descriptions
from loaders.device import Device
from loaders.errors import AbandonedError, CancelledError, DeviceBrokenError
from loaders.footprint import Footprint
from loaders.headroom import Headroom
from loaders.interest import Interest
from loaders.jobs import Job
from loaders.mover import Mover, Steps
from loaders.preparing import Preparing
from loaders.protocol import AttemptKey, Tier
from loaders.residency import Shelf
from loaders.retrieval import Retrieval
from loaders.running import Finished
from loaders.sketches import Sketches
from loaders.store import Store
from loaders.watchdog import Stall
from registry.catalog import Digest

log = structlog.get_logger("marquee.engine")

Event = protocol.Residency | protocol.Started | protocol.Progress | protocol.Failed | Finished
Listener = Callable[[Event], None]  # called from the engine's threads; must not block


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
        seat: Path | None = None,
    ) -> None:
        """`seat`: what is kept for this engine alone, where others share the home."""
        self.device = device
        self._descriptions = Descriptions(seat or home)
        self._listener = listener
        self._store = store
        self._assembly = assembly.Assembly(home, store, device)
        self._shelf = Shelf(budgets, on_change=self._tell, drop_files=self._drop_files, order=order)
        self._headroom = Headroom()
        self._footprint = Footprint(device, disturbed=self._shelf.moves)
        self._compiler = compiler or Compiler("off", Artefacts(home / "compiled", device))
        self._sketches = Sketches(home / "previews")
        self._preparing = Preparing(
            self._descriptions, self._assembly, self._shelf, retrieval or Retrieval(), device, self._headroom
        )
        self._mover = Mover()
        self._jobs: dict[AttemptKey, Job] = {}
        self._lock = threading.Lock()
        self._to_run: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._idle_since = self._last_sign = time.monotonic()  # the device's
        self._device_broken = False
        self._remember_disk()
        self._threads = [
            threading.Thread(target=self._move_all, name="mover", daemon=True),
            threading.Thread(target=self._run_all, name="device", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    def warm_up(self) -> None:
        """Imports the heavy libraries on the mover thread, so that the first request does not wait for them."""
        self._mover.put(self._preparing.warmed_up(), Interest())

    @property
    def is_broken(self) -> bool:
        """Nothing runs in this process any more: its device refuses, or its libraries."""
        return self._device_broken or self._preparing.unfit is not None

    def describe(self, description: protocol.DescribeVersion | protocol.DescribeAdapter) -> None:
        self._descriptions.add(description)

    def submit(self, assign: protocol.Assign, interest: Interest | None = None) -> None:
        """Accepted at once; what becomes of it, the listener hears. `interest` hears what comes for it, and how far."""
        job = Job(assign=assign, submitted_at=time.monotonic(), interest=interest)
        with self._lock:
            if assign.attempt in self._jobs:
                return  # the router said it twice, over a new link
            self._jobs[assign.attempt] = job
            job.order = self._mover.put(self._prepared(job), job.interest)

    def cancel(self, attempt: AttemptKey) -> None:
        """Takes effect before the next step, and at once on what only waits for its weights or for the device.

        An attempt that is not here any more is none of ours.
        """
        with self._lock:
            job = self._jobs.get(attempt)
            if job is None:
                return
            job.cancelled.set()
            if job.waits_for_device:
                job.returned = True  # the device thread passes over it
                del self._jobs[attempt]
        if job.returned:
            self._tell(running.failure(job, CancelledError("it was cancelled"), idle_since=self._idle_since))
        else:
            self._let_go(job)

    def stage(self, stage: protocol.Stage) -> None:
        interest = Interest()
        self._mover.put(self._prewarmed(stage, interest), interest, is_urgent=False)

    def drop(self, digests: tuple[Digest, ...]) -> None:
        self._shelf.demote(digests)

    def running(self) -> tuple[AttemptKey, ...]:
        with self._lock:
            return tuple(self._jobs)

    def held(self) -> tuple[protocol.Held, ...]:
        return self._shelf.held()

    def known(self) -> tuple[Digest, ...]:
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
        for job in staged:
            self._let_go(job)
        self._mover.give_up_prewarms(AbandonedError("this host is draining"))
        return tuple(job.attempt for job in staged)

    def close(self, *, timeout_seconds: float = 30.0) -> None:
        """After the step and the run in progress."""
        self._mover.close()
        for thread in self._threads:
            thread.join(timeout_seconds)

    def stalled(self) -> tuple[Stall, ...]:
        """What is under way on device and mover, and the seconds since either last gave a sign of life."""
        with self._lock:
            jobs = tuple(self._jobs.values())
        stalls = [
            Stall("device", job.attempt, time.monotonic() - max(self._last_sign, job.started_at))
            for job in jobs
            if job.started_at is not None
        ]
        if (moving := self._mover.stalled_seconds()) is not None:
            order, seconds = moving
            attempt = next((job.attempt for job in jobs if job.order is order), None)
            stalls.append(Stall("mover", attempt, seconds))
        return tuple(stalls)

    def check_integrity(self) -> None:
        self._shelf.check_integrity()

    def _remember_disk(self) -> None:
        """As much as fits. The rest stays for whoever has room for it, as other hosts of this home, until it is in the way."""
        for digest, files in reversed(self._store.oldest_first(self._descriptions.weight_files())):
            if not self._shelf.remember_on_disk(digest, self._store.kept_bytes(files)):
                for file in self._descriptions.files_of(digest, self._shelf.tiers["disk"]):
                    self._store.release(file.sha256)

    def _drop_files(self, digest: Digest, staying: Container[Digest]) -> None:
        """All but those that something else on this disk is made of."""
        for file in self._descriptions.files_of(digest, staying):
            self._store.drop(file.sha256)

    def _tell(self, event: Event) -> None:
        self._listener(event)

    def _let_go(self, job: Job) -> None:
        """Its download stops, unless others want it too."""
        if job.order is not None:
            self._mover.give_up(job.order, CancelledError("the request was cancelled"))

    # the mover thread

    def _move_all(self) -> None:
        self.device.enter_thread(moves=True)
        self._mover.run()
        self._to_run.put(None)

    def _prepared(self, job: Job) -> Steps:
        if job.returned:
            return
        if len(self.running()) == 1:
            self._tell(protocol.Started(attempt=job.attempt, phase="loading"))
        try:
            yield from self._preparing.job(job)
        except GeneratorExit:  # the engine ended before it
            self._shelf.release(job.let_go())
            raise
        except BaseException as error:  # noqa: BLE001 (every failure becomes a report, a library's exit too)
            self._shelf.release(job.let_go())
            self._fail(job, error)
            return
        job.ready_at = time.monotonic()
        self._to_run.put(job)

    def _prewarmed(self, order: protocol.Stage, interest: Interest) -> Steps:
        """One that does not fit or fails is only a missed chance: the run itself will say why."""
        try:
            yield from self._preparing.prewarm(order, interest)
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 (whatever it is, requests come after it)
            self._device_broken |= self.device.is_broken(error)
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

    def _tell_of_run(self, event: Event) -> None:
        self._last_sign = time.monotonic()
        self._tell(event)

    def _run(self, job: Job) -> None:
        self._tell_of_run(protocol.Started(attempt=job.attempt, phase="running"))
        learn = functools.partial(running.learn, job, self._headroom)
        try:
            with self.device.few_cores(running.weight_bytes(job)):
                finished = running.run(
                    job,
                    self._shelf,
                    self.device,
                    idle_since=self._idle_since,
                    report=self._tell_of_run,
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
        if job.cancelled.is_set():
            error = CancelledError("the request was cancelled")  # however what it waited for took it
        elif self.device.is_broken(error):
            self._device_broken = True
            error = DeviceBrokenError(f"the device takes no more work: {error}")
        if not job.returned:
            self._tell(running.failure(job, error, idle_since=self._idle_since))

    def _forget(self, job: Job) -> None:
        with self._lock:
            self._jobs.pop(job.attempt, None)
