"""One trace from the caller through gateway and dispatcher to the host and back, as a real collector receives it."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import psycopg

from loaders import protocol
from loaders.link import Address, Link
from loaders.running import Finished
from registry import tracing
from registry.catalog import Digest
from registry.settings import Settings
from tests.collector import Collector, Told, collecting
from tests.fake_host import picture
from tests.live import Live, furnish, serving

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
BODY = {"prompt": "a red circle on white", "seed": 7}
TIMINGS = protocol.Timings(wait=0.0, load=0.02, run=0.05, encode=0.01)


class Worker:
    """Runs nothing, and takes as long as it says."""

    def __init__(self) -> None:
        self.link: Link | None = None
        self.fail = False

    def submit(self, assign: protocol.Assign) -> None:
        asyncio.get_running_loop().call_later(0.09, self._end, assign)

    def _end(self, assign: protocol.Assign) -> None:
        assert self.link is not None
        if self.fail:
            self.link.heard(
                protocol.Failed(
                    attempt=assign.attempt, kind="model", error="nan", message="it made no numbers"
                )
            )
            return
        data = picture(assign)
        digest = hashlib.sha256(data).hexdigest()
        file = protocol.OutputFile(index=0, content_type="image/png", size_bytes=len(data), sha256=digest)
        done = protocol.Done(attempt=assign.attempt, outputs=(file,), result={"seed": 7}, timings=TIMINGS)
        self.link.heard(Finished(done=done, outputs=(data,)))

    def describe(self, description: protocol.DescribeVersion | protocol.DescribeAdapter) -> None: ...
    def cancel(self, attempt: protocol.AttemptKey) -> None: ...
    def stage(self, stage: protocol.Stage) -> None: ...
    def drop(self, digests: tuple[Digest, ...]) -> None: ...
    def know_peers(self, urls: Sequence[str]) -> None: ...
    def drain(self) -> tuple[protocol.AttemptKey, ...]:
        return ()

    def held(self) -> tuple[protocol.Held, ...]:
        return ()

    def known(self) -> tuple[Digest, ...]:
        return ()


@contextlib.asynccontextmanager
async def host(live: Live, home: Path, endpoint: str | None) -> AsyncIterator[Worker]:
    """The host's real side of the link."""
    worker = Worker()
    hello = live.host("one").hello()
    with tracing.opened(Settings(home=home, otlp_endpoint=endpoint), "marquee-host") as traces:
        loop = asyncio.get_running_loop()
        worker.link = Link(
            Address(url=live.url, key=live.host_key), worker, hello=hello, loop=loop, traces=traces
        )
        task = asyncio.create_task(worker.link.run())
        try:
            yield worker
        finally:
            task.cancel()
            await asyncio.wait([task])


async def call(collector: Collector, dsn: str, home: Path, *, fail: bool = False) -> dict[str, Told]:
    tokens = await furnish(dsn)
    there = collector.address
    async with (
        serving(dsn, home, tokens, otlp_endpoint=there) as live,
        host(live, home, there) as worker,
    ):
        worker.fail = fail
        headers = {"traceparent": TRACEPARENT}
        answer = await live.client.post("/fal/run/acme/toys", json=BODY, headers=headers)
        assert (answer.status_code == 200) is not fail, answer.text
        await live.client.get("/metrics")
    return {span.name: span for span in collector.spans}


def parents(spans: dict[str, Told]) -> dict[str, str]:
    names = {span.id: span.name for span in spans.values()} | {CALLER: "the caller"}
    return {span.name: names[span.parent] for span in spans.values()}


async def test_one_call_is_one_trace(dsn: str, tmp_path: Path) -> None:
    began = time.time()
    with collecting() as collector:
        spans = await call(collector, dsn, tmp_path)
    route = "POST /fal/run/{slug}"
    assert parents(spans) == {
        route: "the caller",
        "submit": route,
        "queue": route,
        "attempt": route,
        "place": "attempt",
        "assign": "attempt",
        "host": "attempt",
        "load": "host",
        "run": "host",
        "encode": "host",
        "store": "attempt",
        "settle": "attempt",
    }
    assert {span.trace for span in spans.values()} == {TRACE}
    assert len(collector.spans) == len(spans)  # nothing told twice, and the scrape not at all
    on_host = {"host", "load", "run", "encode"}
    assert {span.name for span in spans.values() if span.service == "marquee-host"} == on_host
    assert [span.name for span in spans.values() if span.failed] == []
    assert round(spans["run"].ended - spans["run"].began, 3) == 0.05
    order = ("submit", "queue", "place", "assign", "load", "run", "encode", "store", "settle")
    ends = [spans[name].ended for name in order]
    assert ends == sorted(ends)
    assert all(began - 1 < span.began <= span.ended < time.time() + 1 for span in spans.values())
    for child in (span for span in spans.values() if span.name not in {route, "queue", "submit"}):
        assert child.began >= spans["attempt"].began - 0.001
    assert spans[route].facts == {
        "http.request.method": "POST",
        "http.route": "/fal/run/{slug}",
        "http.response.status_code": 200,
    }
    assert spans["attempt"].facts["marquee.slug"] == "acme/toys"
    assert "red circle" not in str(collector.spans)
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT traceparent FROM requests").fetchone()
    assert row == (f"00-{TRACE}-{spans[route].id}-01",)


async def test_a_failure_is_marked_where_it_happened(dsn: str, tmp_path: Path) -> None:
    with collecting() as collector:
        spans = await call(collector, dsn, tmp_path, fail=True)
    assert sorted(name for name, span in spans.items() if span.failed and "POST" not in name) == [
        "attempt",
        "host",
    ]
    assert "store" not in spans


async def test_without_a_collector_nothing_is_told_or_imported(dsn: str, tmp_path: Path) -> None:
    tokens = await furnish(dsn)
    async with serving(dsn, tmp_path, tokens) as live, host(live, tmp_path, None) as worker:
        answer = await live.client.post("/fal/run/acme/toys", json=BODY, headers={"traceparent": TRACEPARENT})
        assert answer.status_code == 200
        assert worker.link is not None
        assert worker.link._traced == {}
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT traceparent FROM requests").fetchone()
    assert row == (None,)


def test_what_is_no_traceparent_is_not_passed_on() -> None:
    for wrong in (
        None,
        "",
        "00-zz-1-01",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{TRACEPARENT} x",
    ):
        assert tracing.accepted(wrong) is None
    assert tracing.accepted(TRACEPARENT) == TRACEPARENT


def test_an_assignment_without_trace_is_as_small_as_before() -> None:
    assign = protocol.Assign(
        attempt=protocol.AttemptKey("r", 1), version=Digest("sha256:v"), adapters=(), input={}
    )
    assert b"traceparent" not in protocol.encode(assign)
    assert protocol.decode_to_host(
        protocol.encode(msgspec.structs.replace(assign, traceparent=TRACEPARENT))
    ) == msgspec.structs.replace(assign, traceparent=TRACEPARENT)
