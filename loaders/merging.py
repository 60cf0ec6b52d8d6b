"""LoRAs on the device: which weights a set of them changes, the room that takes, and the two ways of doing it.

Planned by the mover thread, which books the room; done by the device thread. Kept copies and run-time buffers are
payloads like any other: copies are named by what they were made of, so that a hot LoRA costs nothing the second
time; buffers by their shape, so that any later set of that shape fills them in place. Touches tensors, no files.
"""

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from loaders import adapters, deltas, ways
from loaders.adapters import Place
from loaders.assembly import Ready
from loaders.device import Arena, Device
from loaders.layout import Layout, is_narrow, pack
from loaders.movable import Item
from loaders.pipelines import streamed
from loaders.residency import Shelf
from registry.catalog import Digest, digest_of


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A set of LoRAs over one version."""

    built: Any
    uses: tuple[adapters.Use, ...]  # in the order of the adapters' digests: sums are not associative
    originals: Mapping[Place, Any]
    computed: Mapping[str, str]  # by role, the dtype that narrow weights are computed in
    rank: int  # the bucket that all of them fit in, side by side
    merged: Digest  # names the copies by what they are made of
    architecture: Digest

    @property
    def weights(self) -> int:
        return sum(original.numel() for original in self.originals.values())

    def kind(self, place: Place) -> tuple[str, tuple[int, ...]]:
        """Dtype and shape of what is merged."""
        original = self.originals[place]
        stored = str(original.dtype)
        computed = self.computed[place[0]] if is_narrow(stored) else stored.removeprefix("torch.")
        return computed, tuple(original.shape)

    @property
    def can_stream(self) -> bool:
        slots = self.built.slots
        return all(
            slots[role].is_single(name) and streamed.can_stream(slots[role].module, name)
            for role, name in self.originals
        )


class Kept:
    """Merged copies: the same components, adapters and scales always have the same digest."""

    def __init__(self, plan: Plan, choice: ways.Choice, pace: "Pace") -> None:
        self.choice = choice
        self.digest = plan.merged
        self._plan = plan
        self._pace = pace
        self._layout = pack({"/".join(place): plan.kind(place) for place in plan.originals})
        self.size_bytes = self._layout.size_bytes

    @contextmanager
    def applied(self, shelf: Shelf, device: Device) -> Iterator[None]:
        """The version's slots point at the copies; whoever unbinds them afterwards unbinds these."""
        for (role, name), view in shelf.fill(self.digest, functools.partial(self.make, device)).items():
            self._plan.built.slots[role].point({name: view})
        yield

    def make(self, device: Device) -> Mapping[Place, Any]:
        """In an arena of their own, aligned like the originals."""
        began = time.perf_counter()
        plan = self._plan
        views = device.empty_arena(self._layout).views
        targets = {place: views["/".join(place)] for place in plan.originals}
        adapters.merge(plan.originals, plan.uses, plan.rank, targets)
        device.wait()
        self._pace.learn(plan.weights, time.perf_counter() - began)
        return targets


class Streamed:
    """Factors in buffers of the bucket's size, filled in place; layers merge while they run."""

    def __init__(self, plan: Plan, choice: ways.Choice) -> None:
        self.choice = choice
        self._plan = plan
        self._layout = _buffers(plan)
        self.size_bytes = self._layout.size_bytes
        self.digest = digest_of(
            {
                "buffers": plan.architecture,
                "shapes": [[p.name, p.dtype, list(p.source.shape)] for p in self._layout.places],
            }
        )

    @contextmanager
    def applied(self, shelf: Shelf, device: Device) -> Iterator[None]:
        arena = shelf.fill(self.digest, lambda: device.empty_arena(self._layout))
        modules = {role: slots.module for role, slots in self._plan.built.slots.items()}
        with streamed.streaming(modules, self._filled(arena)):
            yield

    def _filled(self, arena: Arena) -> Mapping[Place, streamed.Update]:
        plan, views = self._plan, arena.views
        updates: dict[Place, streamed.Update] = {}
        for place, original in plan.originals.items():
            down, up = (views["/".join((*place, part))] for part in ("down", "up"))
            deltas.fill(down, up, adapters.factors(plan.uses, place))
            dtype, shape = plan.kind(place)
            target = views[dtype][: original.numel()].view(shape)
            wide = None if dtype == "float32" else views["float32"][: original.numel()].view(up.shape[0], -1)
            updates[place] = streamed.Update(down, up, target, wide)
        return updates


class Pace:
    """How fast this device merges, from a prior and from every merge that was made."""

    def __init__(self, device: Device) -> None:
        kind = "cpu" if device.is_cpu else "cuda"
        self.weights_per_second = ways.PRIOR_WEIGHTS_PER_SECOND[kind]
        self.reload_bytes_per_second = ways.RELOAD_BYTES_PER_SECOND[kind]

    def learn(self, weights: int, seconds: float) -> None:
        self.weights_per_second = ways.learned(self.weights_per_second, weights, seconds)


def plan(
    ready: Ready, items: Sequence[Item], payloads: Sequence[Any], scales: Sequence[float], device: Device
) -> Plan | None:
    """None without LoRAs. `items` and `payloads`: the components in the manifest's order, then the adapters."""
    components = ready.manifest.components
    count = len(components)
    if len(items) == count:
        return None
    digests = [item.digest for item in items]
    uses = sorted(zip(digests[count:], scales, payloads[count:], strict=True), key=lambda use: use[:2])
    touched = adapters.touched([lora for _, _, lora in uses])
    roles = {component.name: position for position, component in enumerate(components)}
    return Plan(
        built=ready.built,
        uses=tuple((lora, scale) for _, scale, lora in uses),
        originals={
            (role, name): payloads[roles[role]].views[name]
            for role, names in touched.items()
            for name in names
        },
        computed={
            component.name: item.computed
            for component, item in zip(components, ready.components, strict=True)
        },
        rank=deltas.bucket(sum(lora.rank for _, _, lora in uses)),
        merged=digest_of(
            {
                "merged": [[role, digests[roles[role]]] for role in touched],
                "adapters": [[adapter, scale] for adapter, scale, _ in uses],
                "few cores": device.is_small(ready.manifest.size_bytes),  # sums could differ by it
            }
        ),
        architecture=ready.manifest.architecture,
    )


def choose(plan: Plan, steps: int, shelf: Shelf, pace: Pace) -> Kept | Streamed:
    kept = Kept(plan, ways.Choice(way="kept", reason="", seconds={}), pace)
    choice = ways.choose(
        ways.Work(weights=plan.weights, steps=steps, can_stream=plan.can_stream),
        shelf.room(kept.digest, kept.size_bytes),
        pace.weights_per_second,
        pace.reload_bytes_per_second,
    )
    return Kept(plan, choice, pace) if choice.way == "kept" else Streamed(plan, choice)


def _buffers(plan: Plan) -> Layout:
    """Factors for each weight, and room for the largest of each dtype; float32 besides, where sums are made."""
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    room = {"float32": 0}
    for place, original in plan.originals.items():
        rows, columns = adapters.flat(original.shape)
        shapes["/".join((*place, "down"))] = ("float32", (plan.rank, columns))
        shapes["/".join((*place, "up"))] = ("float32", (rows, plan.rank))
        dtype = plan.kind(place)[0]
        for one in (dtype, "float32"):
            room[one] = max(room.get(one, 0), original.numel())
    return pack({**shapes, **{dtype: (dtype, (size,)) for dtype, size in sorted(room.items())}})
