"""Changing variants and LoRAs with the weights in memory: ours beside diffusers' own ways, and exactness back.

A FLUX-shaped transformer that is deep and narrow, so that what is measured is the number of tensors as well as
their bytes. Ours is timed from "the previous run ended" to "the modules point at the right weights".
"""

import statistics
import tempfile
import time
import warnings
from pathlib import Path

ROUNDS = 7
LAYERS = {"num_layers": 8, "num_single_layers": 16, "attention_head_dim": 32, "num_attention_heads": 8}


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
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


class Ours:
    """The engine's own steps of a swap, on one thread, without the run."""

    def __init__(self, home, manifests, adapters):
        from loaders.assembly import Assembly
        from loaders.device import Device
        from loaders.residency import Shelf
        from loaders.store import Store

        self.device = device = Device("cpu")
        self.shelf = Shelf(
            {"disk": 1 << 40, "device": 8 << 30},
            on_change=lambda change: None,
            drop_files=lambda digest: None,
        )
        assembly = Assembly(home, Store(home), device)
        self.ready = [assembly.ready(manifest, {}) for manifest in manifests]
        self.adapters = [assembly.adapters(self.ready[0], [adapter]) for adapter in adapters]
        self.turn = 0

    def bind(self, which, adapters=(), *, cached=True):
        from loaders import merging

        ready = self.ready[which]
        items = (*ready.components, *adapters)
        payloads = self.shelf.acquire(items)
        merge = merging.plan(ready, items, payloads, [1.0] * len(adapters))
        for component, payload in zip(ready.manifest.components, payloads, strict=False):
            ready.built.slots[component.name].point(payload.views)
        if merge is not None:
            self.shelf.book(merge.digest, merge.size_bytes, own=())
            for (role, name), view in self.shelf.fill(merge.digest, lambda: merge.make(self.device)).items():
                ready.built.slots[role].point({name: view})
            self.shelf.release([merge.digest])
            if not cached:
                self.shelf.forget(merge.digest)
        self.shelf.release([item.digest for item in items])
        return ready

    def unbind(self, which):
        for slots in self.ready[which].built.slots.values():
            slots.unbind()

    def switch(self):
        self.turn ^= 1
        self.bind(self.turn)
        self.unbind(self.turn)

    def lora(self, *, cached):
        self.turn ^= 1
        self.bind(0, self.adapters[self.turn], cached=cached)
        self.unbind(0)


def output(pipeline):
    import torch

    return pipeline(
        "a cat", num_inference_steps=1, height=32, width=32, output_type="np",
        generator=torch.Generator("cpu").manual_seed(0),
    ).images  # fmt: skip


def exact(ours):
    """Base, a LoRA, the other variant, base: the first and the last output are the same bits."""
    first = output(ours.bind(0).pipeline)
    bent = output(ours.bind(0, ours.adapters[0]).pipeline)
    other = output(ours.bind(1).pipeline)
    last = output(ours.bind(0).pipeline)
    return bool((first == last).all()) and bool((first != bent).any()) and bool((first != other).any())


def diffusers_lora(folder, files):
    import diffusers

    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)

    def load_and_unload():
        pipeline.load_lora_weights(str(files[0]))
        pipeline.unload_lora_weights()

    slow = median_of(load_and_unload)
    hot = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    hot.enable_lora_hotswap(target_rank=16)
    hot.load_lora_weights(str(files[0]), adapter_name="one")
    turn = [0]

    def hotswap():
        turn[0] ^= 1
        hot.load_lora_weights(str(files[turn[0]]), adapter_name="one", hotswap=True)

    return slow, median_of(hotswap)


def main():
    import diffusers

    from loaders import adapters
    from registry import folders
    from tests import architectures

    warnings.simplefilter("ignore")
    diffusers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        paths = [make(root / f"variant{seed}", seed) for seed in (1, 2)]
        manifests = [folders.read_pipeline(path) for path in paths]
        files = [
            architectures.write_lora(root / f"{n}.safetensors", paths[0], seed=n, rank=16) for n in (1, 2)
        ]
        described = [adapters.describe(file, architecture=manifests[0].architecture) for file in files]
        ours = Ours(root / "home", manifests, described)
        for which in (0, 1):
            ours.bind(which)
            ours.bind(0, ours.adapters[which])
            ours.unbind(which)
        same = exact(ours)
        switch = median_of(ours.switch)
        fresh, hot = median_of(lambda: ours.lora(cached=False)), median_of(lambda: ours.lora(cached=True))
        reload = median_of(
            lambda: diffusers.DiffusionPipeline.from_pretrained(paths[1], local_files_only=True)
        )
        load_unload, hotswap = diffusers_lora(paths[0], files)
    megabytes = manifests[0].size_bytes / 1e6
    print(
        f"   {megabytes:.0f} MB, {len(ours.ready[0].built.slots['transformer'].slots)} tensors, medians of {ROUNDS}"
    )
    print(f"   variant switch, in memory          {switch * 1e3:8.1f} ms")
    print(f"   diffusers from_pretrained          {reload * 1e3:8.1f} ms  {reload / switch:6.0f} x ours")
    print(f"   LoRA swap, merged anew             {fresh * 1e3:8.1f} ms")
    print(f"   LoRA swap, merged copy still held  {hot * 1e3:8.1f} ms")
    print(
        f"   diffusers load + unload            {load_unload * 1e3:8.1f} ms  {load_unload / fresh:6.1f} x ours (anew)"
    )
    print(
        f"   diffusers hotswap                  {hotswap * 1e3:8.1f} ms  {hotswap / fresh:6.1f} x ours (anew)"
    )
    print(f"   base, LoRA, other variant, base: {'the same bits' if same else 'DIFFERENT'}")
