"""LoRAs on the device: which weights a set of them touches, the room their merged copies take, and the copies.

Planned by the mover thread, which books the room; made by the device thread. Merged copies are kept like any other
payload, so that a hot LoRA costs nothing the second time. Touches tensors, no files.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from loaders import adapters
from loaders.assembly import Ready
from loaders.layout import ALIGNMENT_BYTES
from loaders.residency import Item
from registry.catalog import Digest, digest_of

Place = tuple[str, str]  # role, weight


class Merge(msgspec.Struct, frozen=True, kw_only=True):
    """Merged copies to come. The same components, adapters and scales always have the same digest."""

    digest: Digest
    uses: tuple[
        tuple[adapters.Lora, float], ...
    ]  # in the order of the adapters' digests: sums are not associative
    originals: Mapping[Place, Any]

    @property
    def size_bytes(self) -> int:
        return sum(-(-t.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for t in self.originals.values())

    def make(self) -> Mapping[Place, Any]:
        return adapters.merged(self.originals, self.uses)


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
    return Merge(
        digest=digest_of(
            {
                "merged": [[role, digests[roles[role]]] for role in touched],
                "adapters": [[adapter, scale] for adapter, scale, _ in uses],
            }
        ),
        uses=tuple((lora, scale) for _, scale, lora in uses),
        originals={
            (role, name): payloads[roles[role]].views[name]
            for role, names in touched.items()
            for name in names
        },
    )
