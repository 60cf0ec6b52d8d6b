"""10,000 swaps of LoRAs and variants under one built pipeline: what the process holds does not grow.

Both ways of applying a LoRA take turns, with sets of one and two adapters, under a budget that evicts. Prints the
resident memory and the counts of objects and tensors over the swaps; growth beyond the bars raises.
"""

import gc
import os
import random
import tempfile
import warnings
from pathlib import Path

SWAPS = int(os.environ.get("LEAK_SWAPS", "10000"))
MARKS = 5
RSS_BAR_BYTES = 8 << 20
OBJECTS_BAR = 500


def held(ours):
    """With the cache emptied: what it may hold is its budget's business, not a leak."""
    import psutil
    import torch

    ours.shelf.evict_idle()
    ours.device.give_back()
    gc.collect()
    objects = gc.get_objects()
    tensors = sum(isinstance(one, torch.Tensor) for one in objects)
    return psutil.Process().memory_info().rss, len(objects), tensors


def swap(ours, rng):
    """One swap: bind, apply, let go. The output is not computed: it would hide what a swap itself leaves behind."""
    adapters = [item for chosen in rng.sample(ours.adapters, rng.choice((0, 1, 1, 2))) for item in chosen]
    which = rng.randrange(len(ours.ready))
    ours.bind(which, adapters, way=rng.choice(("kept", "streamed")))
    ours.unbind(which)


def play(root, swaps):
    """Yields (swaps done, resident bytes, objects, tensors) after the first tenth, and then `MARKS` times."""
    from benchmarks.swap import Ours
    from loaders import adapters
    from registry import folders
    from tests import architectures

    paths = [architectures.write(root / f"flux{seed}", "flux", seed=seed) for seed in (1, 2)]
    manifests = [folders.read_pipeline(path) for path in paths]
    files = [
        architectures.write_lora(root / f"{rank}.safetensors", paths[0], seed=rank, rank=rank)
        for rank in (4, 16, 64, 256)
    ]
    described = [adapters.describe(file, architecture=manifests[0].architecture) for file in files]
    room = int(sum(manifest.size_bytes for manifest in manifests) * 1.2)
    ours = Ours(root / "home", manifests, described, device_bytes=room)
    rng = random.Random(3)
    begun = swaps // 10
    for done in range(1, swaps + 1):
        swap(ours, rng)
        if done == begun or (done > begun and (done - begun) % max((swaps - begun) // MARKS, 1) == 0):
            yield done, *held(ours)
    ours.shelf.check_integrity()


def main():
    warnings.simplefilter("ignore")  # looking at every object wakes deprecated ones
    with tempfile.TemporaryDirectory() as temporary:
        marks = list(play(Path(temporary), SWAPS))
    for done, rss, objects, tensors in marks:
        print(f"   after {done:6} swaps: {rss / 1e6:7.1f} MB resident, {objects} objects, {tensors} tensors")
    (_, rss, objects, tensors), last = marks[0], marks[-1]
    assert last[1] - rss <= RSS_BAR_BYTES, "resident memory grows"
    assert last[2] - objects <= OBJECTS_BAR, "objects are left behind"
    assert last[3] <= tensors, "tensors are left behind"
    print(f"   grown by {(last[1] - rss) / 1e6:+.1f} MB and {last[2] - objects:+} objects")
