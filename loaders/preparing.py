"""What has to happen before a run, step by step, as orders for the `mover`: a request's, and a prewarm's.

Each step is tried with what is on this disk; where something is missing it is fetched, as an errand, and the step
tried again. So weights that are here never wait for weights that are not, and a file that somebody deleted or changed
is only fetched once more. IO through store, shelf and retrieval. It refuses to know queues and threads.
"""

import functools
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import structlog

from loaders import assembly, intake, merging, running
from loaders.descriptions import Descriptions
from loaders.device import Device
from loaders.errors import AsideError, LibrariesBrokenError, NotHereError
from loaders.headroom import Headroom
from loaders.interest import Interest
from loaders.jobs import Job
from loaders.movable import Item
from loaders.mover import Errand, Steps
from loaders.protocol import Stage
from loaders.residency import Shelf
from loaders.retrieval import Retrieval
from registry.catalog import Manifest

ASIDES = 3  # that a prewarm gives up what it was reading to let requests go first
TRIES = 3  # to have files here for as long as it takes to read them

log = structlog.get_logger("marquee.engine")

T = TypeVar("T")
Release = Callable[[], None]


class Preparing:
    """Of one device."""

    def __init__(
        self,
        descriptions: Descriptions,
        assembled: assembly.Assembly,
        shelf: Shelf,
        retrieval: Retrieval,
        device: Device,
        headroom: Headroom,
    ) -> None:
        self._descriptions = descriptions
        self._assembly = assembled
        self._shelf = shelf
        self._retrieval = retrieval
        self._device = device
        self._headroom = headroom
        self._pace = merging.Pace(device)
        self.unfit: LibrariesBrokenError | None = None

    def warmed_up(self) -> Steps:
        """Imports the heavy libraries. Where they do not load nothing runs here, and that is no model's fault."""
        try:
            assembly.warm_up()
        except Exception as error:
            log.exception("warm-up failed")
            self.unfit = LibrariesBrokenError(f"this host's libraries do not load: {error}")
        yield from ()

    def _check_fit(self) -> None:
        if self.unfit is not None:
            raise self.unfit.with_traceback(None)

    def job(self, job: Job) -> Steps:
        """Afterwards its weights are on the device, pinned, with room for the run. Raises whatever is in the way."""
        job.check_cancelled()
        self._check_fit()
        manifest, defaults = self._descriptions.version(job.assign.version)
        job.ready = ready = yield from self._ready(manifest, defaults, job.interest)
        job.intake = yield from self._taken_in(job, ready, defaults)
        uses = running.applied(job.assign.adapters)
        found = self._assembly.adapters(ready, [self._descriptions.adapter(use.digest) for use in uses])
        job.items = (*ready.components, *found)
        job.scales = tuple(use.scale for use in uses)
        job.payloads = yield from self._acquired(job.items, job.interest)
        self._plan_loras(job, ready)
        self._shelf.reserve(job.attempt, running.headroom(job, self._headroom))

    def prewarm(self, order: Stage, interest: Interest) -> Steps:
        """Afterwards its weights are on the device. Raises whatever is in the way.

        It lets requests go first, also in the middle of a component; but not for ever, or nothing would come of it.
        """
        self._check_fit()
        for _ in range(ASIDES):
            try:
                yield from self._prewarmed(order, interest)
            except AsideError:
                yield Errand(lambda: None)  # whoever comes back comes after them
            else:
                return
        interest.stay()
        yield from self._prewarmed(order, interest)

    def _prewarmed(self, order: Stage, interest: Interest) -> Steps:
        manifest, defaults = self._descriptions.version(order.version)
        ready = yield from self._ready(manifest, defaults, interest)
        found = self._assembly.adapters(ready, [self._descriptions.adapter(d) for d in order.adapters])
        wanted: tuple[Item, ...] = (*ready.components, *found)
        yield from self._acquired(wanted, interest)
        digests = [item.digest for item in wanted]
        if order.pin_until is not None:
            self._shelf.keep(digests, order.pin_until - time.time())
        self._shelf.release(digests)

    def _ready(
        self, manifest: Manifest, defaults: Mapping[str, Any], interest: Interest
    ) -> Generator[Errand, Any, assembly.Ready]:
        def fetch() -> None:
            self._shelf.into_room(lambda: self._assembly.fetch(manifest, interest))

        return (
            yield from _tried(lambda: self._assembly.ready(manifest, defaults), Errand(fetch), lambda _: None)
        )

    def _taken_in(
        self, job: Job, ready: assembly.Ready, defaults: Mapping[str, Any]
    ) -> Generator[Errand, Any, intake.Intake]:
        values, interest = job.assign.input, job.interest
        pipeline = intake.chosen(ready.built, ready.assets, values)
        media: Mapping[str, Any] = {}
        if intake.has_media(values):
            rate = intake.sample_rate(pipeline)
            media = yield Errand(lambda: intake.gather(values, self._retrieval, rate=rate, interest=interest))
        return intake.take_in(ready.built, pipeline, media, values, defaults, computed=ready.computed)

    def _acquired(self, items: Sequence[Item], interest: Interest) -> Generator[Errand, Any, list[Any]]:
        """Device payloads, pinned; their files are held on the disk until then."""
        acquire = functools.partial(self._shelf.acquire, items, interest)
        with ExitStack() as held:

            def hold(release: Release) -> None:
                held.close()
                held.callback(release)

            return (
                yield from _tried(
                    lambda: running.twice_when_full(acquire, self._shelf, self._device),
                    Errand(lambda: self._shelf.fetch(items, interest), lambda release: release()),
                    hold,
                )
            )

    def _plan_loras(self, job: Job, ready: assembly.Ready) -> None:
        plan = merging.plan(ready, job.items, job.payloads, job.scales, self._device)
        if plan is not None:
            assert job.intake is not None, "taken in before anything was loaded"
            job.lora = merging.choose(plan, job.intake.steps, self._shelf, self._pace)
            self._shelf.book(job.lora.digest, job.lora.size_bytes, own=job.pinned, interest=job.interest)
            job.lora_booked = True


def _tried(
    attempt: Callable[[], T], errand: Errand, fetched: Callable[[Any], None]
) -> Generator[Errand, Any, T]:
    """With the files that are here; where some are missing, the errand comes first. `fetched` gets its result."""
    for _ in range(TRIES):
        try:
            return attempt()
        except NotHereError:
            fetched((yield errand))
    return attempt()
