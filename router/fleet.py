"""The hosts as the dispatcher knows them: what each holds, runs and has under way, and when it will be free.

Pure: `fold(event, now)` is the only way in. Events are the hosts' own reports (`loaders.protocol`) and what the
dispatcher did. Loads that an assignment starts are believed at once (`arriving`) and confirmed or corrected by
the host's next `Residency`. It decides nothing; `placement` reads its arrays.
"""

from collections.abc import Iterable

from loaders import protocol
from loaders.protocol import AttemptKey, Hello
from registry.catalog import Digest
from router import arrivals
from router.grid import Names
from router.hosts import (
    Assigned,
    FleetEvent,
    Host,
    Joined,
    Left,
    Reported,
    Running,
    Staging,
    expected_end,
)
from router.numbers import NEVER, HostNumbers
from router.residency import ABSENT, DEVICE, LEVEL, Bundle, Part, Residency

NOTHING: frozenset[int] = frozenset()
ARRIVAL_GRACE_SECONDS = 10.0  # that staged weights may take longer than expected


class Fleet(HostNumbers):
    """Arrays are indexed by host; a host keeps its index when it comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Names[str] = Names()
        self.hosts: dict[str, Host] = {}  # linked now
        self.by_index: list[Host | None] = []
        self.residency = Residency()
        self.opened: dict[
            int, None
        ] = {}  # hosts with a slot that placement has not looked at since it opened
        self._zones: Names[str] = Names()
        self.zone_hosts: dict[float, int] = {}  # of linked hosts, a bit for each
        self.has_several_zones = False
        self.least_budget_bytes = 0.0  # of the linked hosts: what fits this fits them all
        self.residency_changes = 0  # grows with every change of what is where

    # fold

    def describe(self, bundle: Bundle) -> int:
        """Make a version or adapter known before anything names it."""
        return self.residency.describe(bundle)

    def fold(self, event: FleetEvent, now: float) -> None:
        match event:
            case Joined():
                self._join(event.hello, now)
            case Left():
                self._leave(event.host_id)
            case _ if event.host_id not in self.hosts:
                pass  # a host that has left is not heard any more
            case Assigned():
                self._assign(self.hosts[event.host_id], event, now)
            case Staging():
                self._load(self.hosts[event.host_id], event.bundles, event.evicts, now)
            case Reported():
                self._report(self.hosts[event.host_id], event.message, now)

    def _join(self, hello: Hello, now: float) -> None:
        if hello.host_id in self.hosts:
            self._leave(hello.host_id)
        index = self.names.add(hello.host_id)
        self.reserve(len(self.names))
        host = Host(index=index, hello=hello)
        self.hosts[hello.host_id] = host
        self.by_index.extend([None] * (index + 1 - len(self.by_index)))
        self.by_index[index] = host
        self.zone[index] = self._zones.add(hello.zone or "")
        self.speed[index], self.slowness[index] = hello.speed, 1 / hello.speed
        self.budget_bytes[index] = hello.budgets.get("device", 0)
        self.overlaps[index] = hello.slots > 1
        self.mover_free_at[index] = now
        self._hold_all(host)
        self._settle(host, now)
        self._measure()

    def _hold_all(self, host: Host) -> None:
        """All that it said it holds, at once."""
        residency = self.residency
        for item in host.hello.held:
            part = residency.add_part(Part(item.digest, item.size_bytes))
            host.held[part] = host.held.get(part, 0) | 1 << LEVEL[item.tier]
        tiers = {part: bits.bit_length() - 1 for part, bits in host.held.items()}
        residency.add_host(host.index, host.hello.speeds, tiers)
        host.on_device = {part for part, tier in tiers.items() if tier == DEVICE}
        self.used_bytes[host.index] = sum(residency.part_bytes[part] for part in host.on_device)
        self.residency_changes += 1

    def _leave(self, host_id: str) -> None:
        host = self.hosts.pop(host_id, None)
        if host is None:
            return
        self.by_index[host.index] = None
        self.residency.add_host(host.index, host.hello.speeds)
        self.free_slots[host.index] = 0
        self.expect_free(host.index, NEVER, 0.0)
        self.run_ends_at[host.index] = NEVER
        self.budget_bytes[host.index] = 0
        self.opened.pop(host.index, None)
        self.residency_changes += 1
        self._measure()

    def _measure(self) -> None:
        """After a host came or went."""
        budgets = [host.hello.budgets.get("device", 0) for host in self.hosts.values()]
        self.least_budget_bytes = float(min(budgets, default=0))
        slownesses = set(self.arrays.slowness.tolist())
        self.same_slowness = slownesses.pop() if len(slownesses) == 1 else 0.0
        self.zone_hosts = {}
        for host in self.hosts.values():
            zone = self.zone[host.index]
            self.zone_hosts[zone] = self.zone_hosts.get(zone, 0) | 1 << host.index
        self.has_several_zones = len(self.zone_hosts) > 1

    def _assign(self, host: Host, event: Assigned, now: float) -> None:
        ready_at = self._load(host, event.bundles, event.evicts, now)
        bundles = tuple(self.residency.bundles[digest] for digest in event.bundles)
        parts = frozenset(part for bundle in bundles for part in self.residency.bundle_parts[bundle])
        attempt = Running(event.attempt, bundles, parts, event.run_seconds, ready_at)
        attempt.is_afar = any(part in host.arriving and not host.held.get(part) for part in parts)
        host.attempts[event.attempt] = attempt
        host.used_at.update(dict.fromkeys(parts, now))
        self._settle(host, now)

    def _load(self, host: Host, bundles: Iterable[Digest], evicts: Iterable[Digest], now: float) -> float:
        """Book the parts that are missing as arriving; returns when all of them are expected."""
        residency = self.residency
        for digest in evicts:
            part = residency.parts[digest]
            host.leaving.add(part)
            self._retier(host, part)
        ready_at = now
        for digest in bundles:
            bundle = residency.bundles[digest]
            parts = residency.bundle_parts[bundle]
            if not host.on_device.issuperset(parts):
                there_at = arrivals.book(self, host, bundle, now)
                self._expect_loads(host.index)
                for part in parts:
                    if part not in host.on_device:
                        host.leaving.discard(part)
                        host.arriving[part] = there_at
                        self._retier(host, part)
            if host.arriving:
                ready_at = max(ready_at, *(host.arriving.get(part, now) for part in parts))
        return ready_at

    def _report(self, host: Host, message: protocol.FromHost, now: float) -> None:
        match message:
            case protocol.Residency():
                self._drop(host, message.removed)
                self._hold(host, message.added)
            case protocol.Started(attempt=key, phase="running") if key in host.attempts:
                attempt = host.attempts[key]
                attempt.started_at, attempt.ready_at = now, now
                attempt.ends_at = now + attempt.run_seconds
            case protocol.Progress(attempt=key) if key in host.attempts and message.step:
                attempt = host.attempts[key]
                began = now if attempt.started_at is None else attempt.started_at
                attempt.started_at = began
                attempt.ends_at = began + (now - began) * message.steps / message.step
            case protocol.Done(attempt=key) | protocol.Failed(attempt=key):
                self._finish(host, [key], now)
                self._expire(host, now)
            case protocol.Draining(returned=returned):
                host.draining = True
                self._finish(host, returned, now)
            case _:
                return
        self._settle(host, now)

    def _finish(self, host: Host, keys: Iterable[AttemptKey], now: float) -> None:
        for key in keys:
            attempt = host.attempts.pop(key, None)
            if attempt is None:
                continue
            host.used_at.update(dict.fromkeys(attempt.parts, now))
            if attempt.started_at is None:  # what was booked for it may never come
                wanted = {part for other in host.attempts.values() for part in other.parts}
                for part in attempt.parts - wanted:
                    host.arriving.pop(part, None)
                    self._retier(host, part)

    def _expire(self, host: Host, now: float) -> None:
        """Loads ahead are only tried: what has not come long after its time, and no attempt waits for, will not."""
        overdue = [part for part, at in host.arriving.items() if now > at + ARRIVAL_GRACE_SECONDS]
        wanted = {part for attempt in host.attempts.values() for part in attempt.parts} if overdue else ()
        for part in overdue:
            if part not in wanted:
                del host.arriving[part]
                self._retier(host, part)

    def give_up_overdue(self, now: float) -> None:
        """On all hosts; a busy one is looked through at the end of each of its attempts as well."""
        for host in self.hosts.values():
            self._expire(host, now)

    def _hold(self, host: Host, held: Iterable[protocol.Held]) -> None:
        for item in held:
            part = self.residency.add_part(Part(item.digest, item.size_bytes))
            host.held[part] = host.held.get(part, 0) | 1 << LEVEL[item.tier]
            if item.tier == "device":
                host.arriving.pop(part, None)
                host.leaving.discard(part)
            self._retier(host, part)

    def _drop(self, host: Host, removed: Iterable[protocol.Held]) -> None:
        for item in removed:
            part = self.residency.parts.get(item.digest)
            if part is None:
                continue
            host.held[part] = host.held.get(part, 0) & ~(1 << LEVEL[item.tier])
            if item.tier == "device":
                host.leaving.discard(part)
            self._retier(host, part)

    def _expected_tier(self, host: Host, part: int) -> int:
        bits = host.held.get(part, 0)
        if part in host.leaving:
            bits &= ~(1 << DEVICE)
        if part in host.arriving:
            return DEVICE
        return bits.bit_length() - 1 if bits else ABSENT

    def _retier(self, host: Host, part: int) -> None:
        after = self._expected_tier(host, part)
        if after == self.residency.tier(part, host.index):
            return
        self.residency.set_tier(part, host.index, after)
        self.residency_changes += 1
        if after == DEVICE:
            host.on_device.add(part)
            self.used_bytes[host.index] += self.residency.part_bytes[part]
        elif part in host.on_device:
            host.on_device.remove(part)
            self.used_bytes[host.index] -= self.residency.part_bytes[part]

    def _settle(self, host: Host, now: float) -> None:
        """Bring the host's numbers up to date after a change to its attempts."""
        index, attempts = host.index, host.attempts
        free_at, ends_at, behind = now, NEVER, 0.0
        host.pinned = NOTHING
        for attempt in attempts.values():
            host.pinned = host.pinned | attempt.parts if host.pinned else attempt.parts
            if attempt.started_at is not None:
                ends_at, self.run_began_at[index] = attempt.ends_at, attempt.started_at
            elif arrivals.is_awaited(host, attempt):
                continue  # others run before it
            else:
                behind += attempt.run_seconds
            free_at = expected_end(attempt, free_at, now)
        self.expect_end(index, ends_at)
        self.behind_seconds[index] = behind
        slots = 0 if host.draining else max(0, host.hello.slots - len(attempts))
        if slots > self.free_slots[index] or (slots and not attempts):
            self.opened[index] = None
        self.free_slots[index] = slots
        self.expect_free(index, NEVER if host.draining else free_at, now)
        self._expect_loads(index)
        part_bytes = self.residency.part_bytes
        self.pinned_bytes[index] = sum([part_bytes[part] for part in host.pinned])

    def _expect_loads(self, index: int) -> None:
        """After a change to when a host's device or its mover is free."""
        self.loads_from[index] = (self.mover_free_at if self.overlaps[index] else self.device_free_at)[index]

    def check_integrity(self) -> None:
        """Arrays and matrices equal what the hosts' records say."""
        self.residency.check_integrity()
        for name, host in self.hosts.items():
            assert self.names[name] == host.index
            assert self.by_index[host.index] is host
            for part in range(len(self.residency.parts)):
                assert self.residency.tier(part, host.index) == self._expected_tier(host, part)
            on_device = [
                size
                for part, size in enumerate(self.residency.part_bytes)
                if self.residency.tier(part, host.index) == DEVICE
            ]
            assert self.used_bytes[host.index] == sum(on_device)
            assert {p: p in host.on_device for p in host.on_device} == dict.fromkeys(
                (p for p in range(len(self.residency.parts)) if self.residency.tier(p, host.index) == DEVICE),
                True,
            )
            free = 0 if host.draining else max(0, host.hello.slots - len(host.attempts))
            assert self.free_slots[host.index] == free
