"""The hosts' side of a term: who joins and with what, what they report, who leaves. IO by proxy.

A host that comes back says what it still runs. What nobody else began meanwhile goes on there, the rest it is
told to abandon; what the tables believed on it and it does not know waits again.
"""

import functools
import time

import msgspec
import structlog

from loaders import protocol
from loaders.protocol import AttemptKey, Done, Failed
from router import placement
from router.attempts import Attempt, DamagedOutputError, failure_of, not_stored
from router.errors import LinkRefusedError
from router.hosts import Assigned, Joined, Left, Reported
from router.links import Link
from router.requests import RequestId, State
from router.rows import Adoption, Entry
from router.term import Term

log = structlog.get_logger("marquee.dispatcher")

SETTLED_SECONDS = 5.0  # since a row moved before it can be called astray
ORPHAN_SECONDS = 10.0  # that a host has to come back with what the tables say it runs


class Hub:
    """Implements `links.Hub` over a `Term`."""

    def __init__(self, term: Term) -> None:
        self._term = term
        self._orphans: dict[RequestId, Entry] = {}
        self._orphaned_at = 0.0
        self._suspects: frozenset[RequestId] = frozenset()

    async def begin(self) -> None:
        """Before any host joins: what did a dispatcher before us leave behind?"""
        term = self._term
        await term.queue.release(term.pool)
        running = await term.queue.running(term.pool)
        self._orphans = {entry.id: entry for entry in running if not term.desk.resume(entry)}
        self._orphaned_at = term.now()
        await term.intake.take_up()  # a host may come back with what was handed back a moment ago

    def give_up_orphans(self, now: float) -> None:
        """Hosts that did not come back in time are gone."""
        if self._orphans and now - self._orphaned_at > ORPHAN_SECONDS:
            for entry in tuple(self._orphans.values()):
                self._disown(entry, "host_gone")

    async def reconcile(self, settled_seconds: float = SETTLED_SECONDS) -> frozenset[RequestId]:
        """Hold memory against the tables; what is found astray twice in a row is taken up again. Returns that."""
        term = self._term
        held = await term.queue.held(term.pool, settled_seconds)
        known = self._orphans.keys() | term.ends.returning.keys()
        astray = frozenset(held) - term.waiting.keys() - term.attempts.keys() - known
        lost, self._suspects = astray & self._suspects, astray
        if lost:
            log.warning("memory and tables differ", requests=sorted(lost)[:10], count=len(lost))
            found = [e for e in await term.queue.running(term.pool) if e.id in lost]
            running = [entry for entry in found if not term.desk.resume(entry)]
            self._orphans |= {entry.id: entry for entry in running}
            for entry in running:
                self._disown(
                    entry, "forgotten"
                )  # a fault, so that what cannot be stored does not run for ever
            await term.queue.untake([i for i in lost if held[i] is State.QUEUED])
            term.backlog.set()
        return lost

    def join(self, link: Link) -> None:
        term, hello = self._term, link.hello
        if term.closed or hello.pool != term.pool:
            raise LinkRefusedError(f"this is the dispatcher of pool {term.pool!r}, not {hello.pool!r}")
        if (former := term.links.get(link.host_id)) is not None:  # it noticed the loss before we did
            self._part(former, goes_on=frozenset((*hello.running, *hello.finished)))
            former.close()
        term.links[link.host_id] = link
        try:
            self._welcome(link)
        except Exception:
            self.leave(link)  # else placement would go on giving it work
            raise
        term.wake.set()

    def _welcome(self, link: Link) -> None:
        hello = link.hello
        self._fold(Joined(host_id=link.host_id, hello=hello))
        abandon = tuple(key for key in (*hello.running, *hello.finished) if not self._resume(link, key))
        for entry in tuple(self._orphans.values()):
            if entry.host_id == link.host_id:
                self._disown(entry, "host_restarted")
        link.send(protocol.Welcome(pool=self._term.pool, abandon=abandon))
        self._introduce(link)

    def leave(self, link: Link) -> None:
        if not self._term.closed and self._term.links.get(link.host_id) is link:
            self._part(link)
            self._introduce(link)
            self._term.wake.set()

    def _part(self, link: Link, goes_on: frozenset[AttemptKey] = frozenset()) -> None:
        """What was there waits again, but for what `goes_on` over the host's next link."""
        term = self._term
        del term.links[link.host_id]
        self._fold(Left(host_id=link.host_id))
        for attempt in tuple(term.attempts.values()):
            if attempt.host_id != link.host_id:
                continue
            if attempt.cancelled:
                term.ends.free(attempt)
            elif not attempt.sent:
                attempt.lost = True
            elif attempt.key not in goes_on:
                # Staged work is no suspect: only what the host had begun counts as having killed it.
                term.ends.give_back(attempt, "host_lost", is_fault=attempt.phase is not None)

    def _introduce(self, newcomer: Link) -> None:
        """Hosts hear of the others that give out files; nothing is said of hosts that do not."""
        links = self._term.links.values()
        urls = {link.host_id: link.hello.blobs_url for link in links if link.hello.blobs_url}
        for link in links:
            if newcomer.hello.blobs_url or (link is newcomer and urls):
                others = tuple(url for host_id, url in urls.items() if host_id != link.host_id)
                link.send(protocol.Peers(urls=others))

    async def report(self, link: Link, message: protocol.FromHost) -> None:
        """Reports of attempts that are no longer anybody's change nothing but the host's memory."""
        if self._term.closed or self._term.links.get(link.host_id) is not link:
            return
        match message:
            case protocol.Residency():
                self._fold(Reported(host_id=link.host_id, message=message))
            case protocol.Draining():
                self._fold(Reported(host_id=link.host_id, message=message))
                for key in message.returned:
                    if (attempt := self._attempt(link, key)) is not None:
                        self._term.ends.give_back(attempt, "host_draining", is_fault=False)
            case protocol.Hello():
                link.close()
            case _:
                attempt = self._attempt(link, message.attempt)
                if attempt is None:
                    if isinstance(message, Done | Failed):
                        link.send(protocol.Settled(attempt=message.attempt))
                    return
                self._hear(link, attempt, message)
        self._term.wake.set()

    def _hear(
        self,
        link: Link,
        attempt: Attempt,
        message: protocol.Started | protocol.Progress | protocol.OutputChunk | Done | Failed,
    ) -> None:
        match message:
            case protocol.OutputChunk():
                attempt.receive(message, self._term.files)
                return
            case protocol.Started(phase=phase):
                attempt.phase, attempt.began_at = phase, attempt.began_at or self._term.now()
            case protocol.Progress():
                attempt.advance(message)
            case Done() | Failed():
                self.end(attempt, message)
                return
        self._fold(Reported(host_id=link.host_id, message=message))
        self._term.board.touch(attempt.entry.id)

    def end(self, attempt: Attempt, report: Done | Failed) -> None:
        term, entry = self._term, attempt.entry
        if attempt.cancelled:
            term.ends.free(attempt, attempt.device_seconds(term.now()))
            term.ends.settle(attempt.host_id, attempt.key)
        elif not attempt.sent:
            attempt.early = report
        elif isinstance(report, Done):
            began = time.time()
            try:
                outcome = attempt.succeed(report, began)
            except DamagedOutputError as error:
                log.warning("damaged output", host=attempt.host_id, error=str(error))
                term.ends.give_back(attempt, "damaged_output", is_fault=True)
                return
            except OSError as error:  # another host could not store them either
                log.warning("outputs cannot be stored", request=entry.id, error=str(error))
                outcome = attempt.fail(not_stored(error), report.timings)
            booked, ran = attempt.booked_seconds, report.timings.run
            placement.finished(term.placement, attempt.work, attempt.host_id, booked, ran)
            attempt.booked_seconds = 0.0  # put right by what it took
            term.traces.tell("store", attempt.span.traceparent, began, time.time(), files=len(outcome.files))
            term.ends.free(attempt)
            term.ends.finish(entry, attempt.key, outcome, attempt.span)
        elif report.kind == "host":
            term.ends.give_back(attempt, f"host_fault: {report.error}: {report.message}", is_fault=True)
        elif report.kind == "cancelled":  # though nobody here asked for it
            term.ends.give_back(attempt, "host_cancelled", is_fault=False)
        else:
            term.ends.free(attempt, attempt.device_seconds(term.now()))
            outcome = attempt.fail(failure_of(report), report.timings)
            term.ends.finish(entry, attempt.key, outcome, attempt.span)

    # who comes back

    def _resume(self, link: Link, key: AttemptKey) -> bool:
        """True when the attempt goes on where it is."""
        term, request_id = self._term, RequestId(key.request_id)
        if (attempt := self._attempt(link, key)) is not None:
            attempt.lost, attempt.early = False, None
            attempt.discard()  # it says all of it again
            self._hold(link, attempt)
            return True
        orphan = self._orphans.get(request_id)
        if orphan is not None and orphan.attempt == key.number:
            del self._orphans[request_id]
            self._book(link, orphan, key).sent = True
            return True
        entry, returned = term.ends.returning.get(request_id, (term.waiting.get(request_id), None))
        if entry is None or not entry.attempt or entry.attempt != key.number:
            return False
        if returned is None:
            term.unlist(request_id)
            placement.cancel(term.placement, request_id)
        else:
            del term.ends.returning[request_id]
        adopt = functools.partial(self._adopt, self._book(link, self._absolved(entry, link.host_id), key))
        if returned is None:
            adopt(moved=True)
        else:  # its row can be adopted once it waits again
            term.then(returned, adopt, lambda: adopt(moved=False))
        return True

    def _absolved(self, entry: Entry, host_id: str) -> Entry:
        """The host has it still, so it was no fault of the host's."""
        blamed = self._term.faulty.get(entry.id, frozenset())
        if host_id not in blamed:
            return entry
        self._term.faulty[entry.id] = blamed - {host_id}
        return msgspec.structs.replace(entry, host_faults=entry.host_faults - 1)

    def _adopt(self, attempt: Attempt, moved: bool) -> None:  # noqa: FBT001  a future's result
        adopted = functools.partial(self._adopted, attempt)
        if not moved:
            adopted(moved=False)
            return
        entry, number = attempt.entry, attempt.key.number
        row = Adoption(id=entry.id, number=number, host_id=attempt.host_id, faults=entry.host_faults)
        self._term.then(self._term.queue.adopt(row), adopted, lambda: adopted(moved=False))

    def _book(self, link: Link, entry: Entry, key: AttemptKey) -> Attempt:
        term = self._term
        work = term.work_of(entry)
        seconds = term.placement.run_times.estimate(work.version, work.units)
        attempt = Attempt(entry, key, link.host_id, work, seconds, term.now())
        term.attempts[entry.id] = attempt
        term.turns.claim(entry.id, entry.request.key_id)
        term.reuse.claim(entry)
        self._hold(link, attempt)
        return attempt

    def _hold(self, link: Link, attempt: Attempt) -> None:
        """The host has it, as far as placement goes."""
        if self._term.describe_to_fleet(attempt.entry) is None:
            bundles = (attempt.work.version, *attempt.work.adapters)
            key, seconds = attempt.key, attempt.run_seconds
            self._fold(Assigned(host_id=link.host_id, attempt=key, bundles=bundles, run_seconds=seconds))

    def _adopted(self, attempt: Attempt, moved: bool) -> None:  # noqa: FBT001  a future's result
        term = self._term
        if not moved or attempt.cancelled:
            attempt.cancelled = True
            if attempt.lost or (link := term.links.get(attempt.host_id)) is None:
                term.ends.free(attempt)  # nobody is left who would report its end
            else:
                link.send(protocol.Cancel(attempt=attempt.key))
            return
        attempt.sent = True
        if attempt.lost:
            term.ends.give_back(attempt, "host_lost", is_fault=False)
        elif attempt.early is not None:
            self.end(attempt, attempt.early)

    def _disown(self, entry: Entry, reason: str) -> None:
        """The tables believed it on a host that does not know of it."""
        del self._orphans[entry.id]
        key = AttemptKey(entry.id, entry.attempt)
        term, work = self._term, self._term.work_of(entry)
        attempt = Attempt(entry, key, entry.host_id or "", work, 0.0, term.now(), sent=True)
        term.ends.give_back(attempt, reason, is_fault=True)

    def _attempt(self, link: Link, key: AttemptKey) -> Attempt | None:
        attempt = self._term.attempts.get(RequestId(key.request_id))
        return attempt if attempt and attempt.key == key and attempt.host_id == link.host_id else None

    def _fold(self, event: Joined | Left | Assigned | Reported) -> None:
        placement.fold(self._term.placement, event, self._term.now())
