"""LoRAs on the device: which weights a set of them touches, the room their merged copies take, and the copies.

Planned by the mover thread, which books the room; made by the device thread. Merged copies are kept like any other
payload, so that a hot LoRA costs nothing the second time. Touches tensors, no files.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from loaders import adapters
from loaders.adapters import Place
from loaders.assembly import Ready
from loaders.device import Device
from loaders.layout import Layout, pack
from loaders.residency import Item
from registry.catalog import Digest, digest_of


class Merge(msgspec.Struct, frozen=True, kw_only=True):
    """Merged copies to come. The same components, adapters and scales always have the same digest."""

    digest: Digest
    uses: tuple[
        tuple[adapters.Lora, float], ...
    ]  # in the order of the adapters' digests: sums are not associative
    originals: Mapping[Place, Any]

    layout: Layout

    @property
    def size_bytes(self) -> int:
        return self.layout.size_bytes

    def make(self, device: Device) -> Mapping[Place, Any]:
        """In an arena of their own, aligned like the originals."""
        views = device.empty_arena(self.layout).views
        targets = {place: views["/".join(place)] for place in self.originals}
        with device.few_cores(self.size_bytes):
            adapters.merge(self.originals, self.uses, targets)
        return targets


def plan(
    ready: Ready, items: Sequence[Item], payloads: Sequence[Any], scales: Sequence[float]
) -> Merge | None:
    """None without LoRAs. `items` and `payloads`: the components in the manifest's order, then the adapters."""
    components = ready.manifest.components
    count = len(components)
    if len(items) == count:
        return None
    digests = [item.digest for item in items]
    uses = sorted(zip(digests[count:], scales, payloads[count:], strict=True), key=lambda use: use[:2])
    touched = adapters.touched([lora for _, _, lora in uses])
    roles = {component.name: position for position, component in enumerate(components)}
    originals = {
        (role, name): payloads[roles[role]].views[name] for role, names in touched.items() for name in names
    }
    return Merge(
        digest=digest_of(
            {
                "merged": [[role, digests[roles[role]]] for role in touched],
                "adapters": [[adapter, scale] for adapter, scale, _ in uses],
            }
        ),
        uses=tuple((lora, scale) for _, scale, lora in uses),
        originals=originals,
        layout=pack(
            {
                "/".join(place): (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
                for place, tensor in originals.items()
            }
        ),
    )
