"""Changing variants and LoRAs with the weights in memory: ours beside diffusers' own ways, and exactness back.

A FLUX-shaped transformer that is deep and narrow, so that what is measured is the number of tensors as well as
their bytes. Ours is timed from "the previous run ended" to "the modules point at the right weights", which on a GPU
(`BENCH_DEVICE`) have arrived there by then; from host memory there too, where all have to cross.
"""

import contextlib
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

from benchmarks import _device

ROUNDS = int(os.environ.get("SWAP_ROUNDS", "7"))
LAYERS = {
    "num_layers": int(os.environ.get("SWAP_LAYERS", "8")),
    "num_single_layers": 2 * int(os.environ.get("SWAP_LAYERS", "8")),
    "attention_head_dim": 32,
    "num_attention_heads": 8,
}


def make(folder, seed):
    import diffusers
    import torch

    from tests.architectures import pictures

    torch.manual_seed(seed)
    small = pictures.flux()
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, joint_attention_dim=32, pooled_projection_dim=32,
        axes_dims_rope=(8, 12, 12), guidance_embeds=True, **LAYERS,
    )  # fmt: skip
    small.register_modules(transformer=transformer)
    small.save_pretrained(folder)
    return folder


def median_of(action):
    seconds = []
    for _ in range(ROUNDS):
        _device.wait()
        began = time.perf_counter()
        action()
        _device.wait()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


class Ours:
    """The engine's own steps of a swap, on one thread, without the run."""

    def __init__(self, home, manifests, adapters, device_bytes=8 << 30):
        from loaders.assembly import Assembly
        from loaders.interest import Interest
        from loaders.merging import Pace
        from loaders.residency import Shelf
        from loaders.store import Store

        self.device = device = _device.device()
        self.shelf = Shelf(
            _device.budgets(device, device_bytes),
            on_change=lambda change: None,
            drop_files=lambda digest, staying: None,
        )
        assembly = Assembly(home, Store(home), device)
        self.interest = Interest()
        for manifest in manifests:
            assembly.fetch(manifest, self.interest)
        self.ready = [assembly.ready(manifest, {}) for manifest in manifests]
        self.adapters = [assembly.adapters(self.ready[0], [adapter]) for adapter in adapters]
        self.pace = Pace(device)
        self.turn = 0

    def bind(self, which, adapters=(), *, way="kept", cached=True):
        """Points the modules at a variant and applies its LoRAs; what `lora` returns ends that again."""
        from loaders import merging, ways
        from loaders.errors import NotHereError

        ready = self.ready[which]
        items = (*ready.components, *adapters)
        try:
            payloads = self.shelf.acquire(items, self.interest)
        except NotHereError:
            self.shelf.fetch(items, self.interest)()
            payloads = self.shelf.acquire(items, self.interest)
        plan = merging.plan(ready, items, payloads, [1.0] * len(adapters), self.device)
        for payload in payloads:
            self.device.expect(payload.arena)
        for component, payload in zip(ready.manifest.components, payloads, strict=False):
            ready.built.slots[component.name].point(payload.views)
        self.applied = contextlib.ExitStack()
        if plan is not None:
            choice = ways.Choice(way=way, reason="measured", seconds={})
            lora = merging.Kept(plan, choice, self.pace) if way == "kept" else merging.Streamed(plan, choice)
            self.shelf.book(lora.digest, lora.size_bytes, own=(), interest=self.interest)
            self.applied.enter_context(lora.applied(self.shelf, self.device))
            self.shelf.release([lora.digest])
            if not cached:
                self.shelf.forget(lora.digest)
        self.shelf.release([item.digest for item in items])
        return ready

    def unbind(self, which):
        self.applied.close()
        self.device.wait()
        for slots in self.ready[which].built.slots.values():
            slots.unbind()

    def switch(self):
        self.turn ^= 1
        self.bind(self.turn)
        self.unbind(self.turn)

    def cross(self):
        """The other variant, which is in host memory alone."""
        self.shelf.evict_idle()
        self.switch()

    def lora(self, *, way="kept", cached=True):
        self.turn ^= 1
        self.bind(0, self.adapters[self.turn], way=way, cached=cached)
        self.unbind(0)

    def picture(self, which, adapters=(), way="kept"):
        ready = self.bind(which, adapters, way=way)
        made = output(ready.built.pipeline(ready.assets))
        self.unbind(which)
        return made

    def run_seconds(self, adapters=(), way="kept"):
        ready = self.bind(0, adapters, way=way)
        seconds = median_of(lambda: output(ready.built.pipeline(ready.assets)))
        self.unbind(0)
        return seconds


def output(pipeline):
    import torch

    return pipeline(
        "a cat", num_inference_steps=1, height=32, width=32, output_type="np",
        generator=torch.Generator("cpu").manual_seed(0),
    ).images  # fmt: skip


def exact(ours):
    """Base, a LoRA both ways, two at once both ways, the other variant, base."""
    first = ours.picture(0)
    one, both = ours.adapters[0], [*ours.adapters[0], *ours.adapters[1]]
    bent = [ours.picture(0, one, way) for way in ("kept", "streamed")]
    mixed = [ours.picture(0, both, way) for way in ("kept", "streamed")]
    other = ours.picture(1)
    last = ours.picture(0)
    same = [(first, last), bent, mixed]
    different = [(first, bent[0]), (first, mixed[0]), (bent[0], mixed[0]), (first, other)]
    return all((a == b).all() for a, b in same) and all((a != b).any() for a, b in different)


def reloaded(folder):
    import diffusers

    return _device.placed(diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True))


def diffusers_lora(folder, files):
    """Seconds of load + unload, of a hotswap, and of a run with one LoRA loaded."""
    pipeline = reloaded(folder)

    def load_and_unload():
        pipeline.load_lora_weights(str(files[0]))
        pipeline.unload_lora_weights()

    slow = median_of(load_and_unload)
    hot = reloaded(folder)
    hot.enable_lora_hotswap(target_rank=16)
    hot.load_lora_weights(str(files[0]), adapter_name="one")
    turn = [0]

    def hotswap():
        turn[0] ^= 1
        hot.load_lora_weights(str(files[turn[0]]), adapter_name="one", hotswap=True)

    swapped = median_of(hotswap)
    return slow, swapped, median_of(lambda: output(hot))


def prepared(root):
    """Ours, warm: two variants and two LoRAs. Their folders and files besides."""
    from loaders import adapters
    from registry import folders
    from tests import architectures

    paths = [make(root / f"variant{seed}", seed) for seed in (1, 2)]
    manifests = [folders.read_pipeline(path) for path in paths]
    files = [architectures.write_lora(root / f"{n}.safetensors", paths[0], seed=n, rank=16) for n in (1, 2)]
    described = [adapters.describe(file, architecture=manifests[0].architecture) for file in files]
    ours = Ours(root / "home", manifests, described)
    for which in (0, 1):
        ours.bind(which)
        ours.bind(0, ours.adapters[which])
        ours.unbind(which)
    return ours, paths, files


def swaps(ours, paths):
    """Seconds of each swap of ours, by what it is, and of loading the variant anew."""
    crossing = {} if ours.device.is_cpu else {"crossing": median_of(ours.cross)}
    return {
        **crossing,
        "variant": median_of(ours.switch),
        "merged anew": median_of(lambda: ours.lora(cached=False)),
        "merged copy still held": median_of(ours.lora),
        "run-time buffers filled": median_of(lambda: ours.lora(way="streamed")),
        "reload": median_of(lambda: reloaded(paths[1])),
    }


def tell(ours, swapped, load_unload, hotswap):
    manifest = ours.ready[0].manifest
    slots = len(ours.ready[0].built.slots["transformer"].slots)
    print(f"   {manifest.size_bytes / 1e6:.0f} MB, {slots} tensors, {ours.device.title}, medians of {ROUNDS}")
    switch, reload = swapped.pop("variant"), swapped.pop("reload")
    print(f"   variant switch, on the device        {switch * 1e3:8.1f} ms")
    if crossing := swapped.pop("crossing", None):
        rate = manifest.size_bytes / crossing / 1e9
        print(f"   variant switch, from host memory     {crossing * 1e3:8.1f} ms  ({rate:.1f} GB/s)")
    print(f"   diffusers from_pretrained            {reload * 1e3:8.1f} ms  {reload / switch:6.0f} x ours")
    for name, seconds in swapped.items():
        print(
            f"   LoRA swap, {name:<25} {seconds * 1e3:8.1f} ms; diffusers load + unload {load_unload / seconds:6.1f} x,"
            f" its hotswap {hotswap / seconds:6.1f} x"
        )
    print(f"   diffusers load + unload {load_unload * 1e3:.1f} ms, hotswap {hotswap * 1e3:.1f} ms")


def main():
    import diffusers

    warnings.simplefilter("ignore")
    diffusers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        ours, paths, files = prepared(Path(temporary))
        same = exact(ours)
        swapped = swaps(ours, paths)
        bare = ours.run_seconds()
        kept, streamed = (ours.run_seconds(ours.adapters[0], way) for way in ("kept", "streamed"))
        load_unload, hotswap, peft = diffusers_lora(paths[0], files)
    tell(ours, swapped, load_unload, hotswap)
    print(
        f"   a run of one step: base {bare * 1e3:.0f} ms, merged copy {kept / bare:.2f} x, "
        f"buffers {streamed / bare:.2f} x, PEFT {peft / bare:.2f} x"
    )
    print(f"   base, LoRAs both ways, other variant, base: {'the same bits' if same else 'DIFFERENT'}")
