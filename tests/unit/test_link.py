"""The host's side of the link against a scripted router over a real WebSocket; the device is a fake without torch."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence

import pytest

from loaders import protocol
from loaders.errors import KeyRefusedError
from loaders.link import Address, Link, next_backoff
from loaders.protocol import AttemptKey
from loaders.running import Finished
from registry.catalog import Digest
from tests import connections, fake_router
from tests.fake_router import KEY, FakeRouter

HELLO = protocol.Hello(
    protocol=protocol.PROTOCOL_VERSION,
    host_id="h1",
    name="test",
    device="cpu",
    pool="local",
    zone=None,
    speed=1.0,
    budgets={"device": 1},
    speeds=protocol.Speeds(disk_to_memory=1.0, memory_to_device=1.0, network_to_disk=1.0),
    held=(),
    running=(),
    finished=(),
)
FIRST, SECOND = AttemptKey("first", 1), AttemptKey("second", 1)


class FakeWorker:
    """Remembers what it is told; the test says what becomes of it."""

    def __init__(self) -> None:
        self.submitted: list[AttemptKey] = []
        self.cancelled: list[AttemptKey] = []
        self.staged: tuple[AttemptKey, ...] = ()
        self.descriptions: list[Digest] = []
        self.peers: tuple[str, ...] = ()

    def describe(self, description: protocol.DescribeVersion | protocol.DescribeAdapter) -> None:
        self.descriptions.append(description.digest)

    def submit(self, assign: protocol.Assign) -> None:
        self.submitted.append(assign.attempt)

    def cancel(self, attempt: AttemptKey) -> None:
        self.cancelled.append(attempt)

    def stage(self, stage: protocol.Stage) -> None: ...

    def drop(self, digests: tuple[Digest, ...]) -> None: ...

    def drain(self) -> tuple[AttemptKey, ...]:
        return self.staged

    def held(self) -> tuple[protocol.Held, ...]:
        return (protocol.Held(digest=Digest("sha256:x"), tier="disk", size_bytes=3),)

    def know_peers(self, urls: Sequence[str]) -> None:
        self.peers = tuple(urls)

    def known(self) -> tuple[Digest, ...]:
        return tuple(self.descriptions)


def finished(attempt: AttemptKey, data: bytes) -> Finished:
    file = protocol.OutputFile(
        index=0, content_type="image/png", size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    done = protocol.Done(attempt=attempt, outputs=(file,), result={}, timings=protocol.Timings())
    return Finished(done=done, outputs=(data,))


def assign(attempt: AttemptKey) -> protocol.Assign:
    return protocol.Assign(attempt=attempt, version=Digest("v"), adapters=(), input={})


@pytest.fixture
async def router() -> AsyncIterator[FakeRouter]:
    async with fake_router.running() as one:
        yield one


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


@contextlib.asynccontextmanager
async def linked(router: FakeRouter, worker: FakeWorker, key: str = KEY) -> AsyncIterator[Link]:
    link = Link(Address(url=router.url, key=key), worker, hello=HELLO, loop=asyncio.get_running_loop())
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_kernel_probes_the_router_so_that_a_busy_process_is_not_taken_for_a_dead_machine(
    router: FakeRouter, worker: FakeWorker
) -> None:
    before = connections.probed()
    async with linked(router, worker):
        await router.hello()
        assert (before, connections.probed()) == (0, 1)


async def test_a_hello_says_what_is_held_and_an_answer_travels_in_chunks(
    router: FakeRouter, worker: FakeWorker
) -> None:
    async with linked(router, worker) as link:
        assert (await router.hello()).held == worker.held()
        await router.send(assign(FIRST))
        await until(lambda: worker.submitted)
        data = bytes(3 * protocol.OUTPUT_CHUNK_BYTES + 1)
        link.heard(finished(FIRST, data))
        await router.hear(protocol.Done)
        assert router.outputs[FIRST, 0] == data


async def test_after_a_lost_link_it_says_again_what_was_not_settled(
    router: FakeRouter, worker: FakeWorker
) -> None:
    router.settle = False
    async with linked(router, worker) as link:
        await router.hello()
        await router.send(assign(FIRST), assign(SECOND))
        await until(lambda: len(worker.submitted) == 2)
        link.heard(finished(FIRST, b"picture"))
        await router.hear(protocol.Done)
        await router.cut()
        hello = await router.hello()
        assert (hello.finished, hello.running) == ((FIRST,), (SECOND,))
        assert (await router.hear(protocol.Done)).attempt == FIRST
        await router.send(protocol.Settled(attempt=FIRST))
        await asyncio.sleep(0.1)
        await router.cut()
        assert (await router.hello()).finished == ()


async def test_what_finished_while_there_was_no_link_is_reported_on_the_next(
    router: FakeRouter, worker: FakeWorker
) -> None:
    async with linked(router, worker) as link:
        await router.hello()
        await router.send(assign(FIRST))
        await until(lambda: worker.submitted)
        await router.stop()
        link.heard(finished(FIRST, b"picture"))
        await asyncio.sleep(0.3)
        await router.start(router.port)
        assert (await router.hello()).finished == (FIRST,)
        await router.hear(protocol.Done)


async def test_an_abandoned_attempt_is_stopped_and_never_reported(
    router: FakeRouter, worker: FakeWorker
) -> None:
    async with linked(router, worker) as link:
        await router.hello()
        await router.send(assign(FIRST), assign(SECOND))
        await until(lambda: len(worker.submitted) == 2)
        router.abandon = (FIRST,)
        await router.cut()
        await router.hello()
        await until(lambda: worker.cancelled == [FIRST])
        link.heard(finished(FIRST, b"late"))
        link.heard(finished(SECOND, b"good"))
        assert (await router.hear(protocol.Done)).attempt == SECOND


async def test_the_same_assignment_twice_runs_once(router: FakeRouter, worker: FakeWorker) -> None:
    async with linked(router, worker):
        await router.hello()
        await router.send(assign(FIRST), assign(FIRST), assign(SECOND))
        await until(lambda: SECOND in worker.submitted)
        assert worker.submitted == [FIRST, SECOND]


async def test_draining_hands_back_the_staged_and_waits_for_the_running(
    router: FakeRouter, worker: FakeWorker
) -> None:
    async with linked(router, worker) as link:
        await router.hello()
        await router.send(assign(FIRST), assign(SECOND))
        await until(lambda: len(worker.submitted) == 2)
        worker.staged = (SECOND,)
        draining = asyncio.create_task(link.drain(20, asyncio.Event()))
        assert await router.hear(protocol.Draining) == protocol.Draining(returned=(SECOND,))
        await router.send(assign(AttemptKey("third", 1)))
        assert (await router.hear(protocol.Draining)).returned == (AttemptKey("third", 1),)
        assert not draining.done()
        link.heard(finished(FIRST, b"picture"))
        await draining


@pytest.mark.parametrize("seconds", [0.1, 600.0])
async def test_what_still_runs_when_the_time_is_up_or_somebody_hurries_goes_back(
    router: FakeRouter, worker: FakeWorker, seconds: float
) -> None:
    """It was lost with the link, which counts as the host's fault: three such and a request fails."""
    hurry = asyncio.Event()
    async with linked(router, worker) as link:
        await router.hello()
        await router.send(assign(FIRST))
        await until(lambda: worker.submitted)
        draining = asyncio.create_task(link.drain(seconds, hurry))
        assert await router.hear(protocol.Draining) == protocol.Draining()
        if seconds > 1:
            hurry.set()
        assert await router.hear(protocol.Draining) == protocol.Draining(returned=(FIRST,))
        link.heard(finished(FIRST, b"late"))
        await draining
        assert link._unsettled == {}


async def test_the_worker_hears_where_else_files_are(router: FakeRouter, worker: FakeWorker) -> None:
    async with linked(router, worker):
        await router.hello()
        await router.send(protocol.Peers(urls=("http://10.0.0.2:7001",)))
        await until(lambda: worker.peers)
        assert worker.peers == ("http://10.0.0.2:7001",)


async def test_a_refused_key_ends_it(router: FakeRouter, worker: FakeWorker) -> None:
    link = Link(Address(url=router.url, key="wrong"), worker, hello=HELLO, loop=asyncio.get_running_loop())
    with pytest.raises(KeyRefusedError, match="no such key"):
        await asyncio.wait_for(link.run(), 20)


async def test_a_router_that_is_not_ready_is_asked_again(router: FakeRouter, worker: FakeWorker) -> None:
    router.close_code = 1013
    async with linked(router, worker):
        await asyncio.sleep(0.3)
        router.close_code = None
        assert (await router.hello()).host_id == "h1"


@pytest.mark.parametrize(
    ("last", "lasted", "following"),
    [
        pytest.param(0.0, 0.0, 0.2, id="the first loss"),
        pytest.param(0.2, 0.0, 0.4, id="not welcomed"),
        pytest.param(0.4, 0.1, 0.8, id="welcomed and lost again at once: no storm"),
        pytest.param(4.0, 0.0, 5.0, id="no longer than this"),
        pytest.param(5.0, 60.0, 0.2, id="after a link that lasted it begins anew"),
    ],
)
def test_each_lost_link_is_opened_again_later_than_the_one_before(
    last: float, lasted: float, following: float
) -> None:
    assert next_backoff(last, lasted) == following
