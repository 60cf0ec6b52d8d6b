"""Weights kept 8 bits wide beside the same weights kept as wide as they are computed in: room, seconds to bring them,
seconds of a run. One FLUX-shaped variant of 366 MB in float32 and random bytes, from the page cache; runs of 2 steps, the
two ways in turns, medians of `ROUNDS`. Run by an engine in this process.
"""

import os
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

ROUNDS = int(os.environ.get("NARROW_ROUNDS", "5"))
STEPS = 2
TOKENS = 32  # pixels a side are latents a side here: 256 tokens beside the text's
ROLE = "transformer"


FORMS = {"float32": {}, "float32 in 8 bits": {"storage": "float8_e4m3fn"}}  # 16 bits are slow on many CPUs
BROAD = {  # on a GPU besides
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16 in 8 bits": {"dtype": "bfloat16", "storage": "float8_e4m3fn"},
}


def measured(bench, manifest):
    """By form: bytes of the denoiser on the device, seconds of the load, seconds of later runs."""
    call = {"image_size": {"width": TOKENS, "height": TOKENS}, "num_inference_steps": STEPS}
    bytes_held, loads, runs = {}, defaultdict(list), defaultdict(list)
    digest = next(part.digest for part in manifest.components if part.name == ROLE)
    for turn in range(ROUNDS + 1):
        for name, defaults in (FORMS if bench.engine.device.is_cpu else {**FORMS, **BROAD}).items():
            bench.defaults = defaults
            first = bench.run(manifest, **call)
            again = bench.run(manifest, **call)
            held = [item for item in bench.engine.held() if (item.digest, item.tier) == (digest, "device")]
            bytes_held[name] = held[-1].size_bytes
            if turn:
                loads[name].append(first.done.timings.load)
                runs[name].append(again.done.timings.run)
            bench.engine._shelf.evict_idle()  # noqa: SLF001  so that the next form is brought anew
    return bytes_held, loads, runs


def main():
    from benchmarks import _device, alternation
    from registry import folders
    from tests.bench import Bench

    alternation.VARIANTS, alternation.LORAS = 1, 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        alternation.made(root)
        bench = Bench(root / "home", 8 << 30, memory_bytes=8 << 30, device=_device.device())
        bytes_held, loads, runs = measured(bench, folders.read_pipeline(root / "variant0"))
        bench.engine.close()
    for name in bytes_held:
        load, run = statistics.median(loads[name]), statistics.median(runs[name])
        print(f"   {name:20} {bytes_held[name] / 1e6:6.0f} MB   load {load:5.2f} s   run {run:5.2f} s")
