"""A queue that alternates over eight variants and twenty LoRAs where memory holds three: ours beside what is usual.

The peers load with diffusers: anew for each request, and through Ray Serve's multiplexing with three models to a
replica. Each runs in a process of its own and gets the same requests, two at a time; its memory is sampled all the
while (on a GPU the device's, all that is taken of it) and counted from where it stood after a tiny model of the same architecture had run. Each variant and LoRA once to
warm up (ours knows the digests then), then `ALTERNATION_REQUESTS`; weights are in the page cache. Contenders take turns, medians of `ALTERNATION_ROUNDS`.
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import psutil

REQUESTS = int(os.environ.get("ALTERNATION_REQUESTS", "40"))
ROUNDS = int(os.environ.get("ALTERNATION_ROUNDS", "3"))
VARIANTS, LORAS, HELD, AT_ONCE = 8, 20, 3, 2
LORA_SHARE = 0.7  # of the requests
LAYERS = {"num_layers": 1, "num_single_layers": 3, "attention_head_dim": 64, "num_attention_heads": 16}
ATTENTION = tuple(f"to_{part}.weight" for part in ("q", "k", "v", "out.0"))
RANK = 16
SAMPLE_SECONDS = 0.02


def write(path, shapes, rng):
    """A safetensors file of noise, without making as much of it as the file is long."""
    import numpy as np

    header, offset = {}, 0
    for name, shape in shapes.items():
        size_bytes = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size_bytes]}
        offset += size_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = (rng.standard_normal(1 << 20) * 0.02).astype(np.float32).tobytes()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, offset, len(noise)):
            file.write(noise[: min(len(noise), offset - start)])


def made(root):
    """Tiny, the variants and the LoRAs, on disk and in the page cache; bytes of one variant."""
    import diffusers
    import numpy as np
    import torch

    from registry import folders
    from tests import architectures

    if (root / "done").exists():
        return folders.read_pipeline(root / "variant0").size_bytes
    rng = np.random.default_rng(0)
    tiny = architectures.write(root / "tiny", "flux")
    with torch.device("meta"):
        broad = diffusers.FluxTransformer2DModel(
            patch_size=1, in_channels=16, joint_attention_dim=32, pooled_projection_dim=32,
            axes_dims_rope=(16, 24, 24), guidance_embeds=True, **LAYERS,
        )  # fmt: skip
    shapes = {name: tuple(tensor.shape) for name, tensor in broad.state_dict().items()}
    for number in range(VARIANTS):
        folder = root / f"variant{number}"
        shutil.copytree(tiny, folder)
        broad.save_config(folder / "transformer")
        write(folder / "transformer" / "diffusion_pytorch_model.safetensors", shapes, rng)
    targets = [name for name in shapes if name.endswith(ATTENTION)]
    for number in range(LORAS):
        lora = {}
        for name in targets:
            layer = f"transformer.{name.removesuffix('.weight')}"
            lora[f"{layer}.lora_A.weight"] = (RANK, shapes[name][1])
            lora[f"{layer}.lora_B.weight"] = (shapes[name][0], RANK)
        write(root / f"lora{number}.safetensors", lora, rng)
    (root / "done").touch()
    return folders.read_pipeline(root / "variant0").size_bytes


def queue(seed):
    """(variant, LoRA or None, seed): never one variant twice running."""
    rng, found, last = random.Random(seed), [], None
    for number in range(REQUESTS):
        last = rng.choice([variant for variant in range(VARIANTS) if variant != last])
        found.append((last, rng.randrange(LORAS) if rng.random() < LORA_SHARE else None, number))
    return found


@contextmanager
def contender(kind, root, budget_bytes):
    """Its process, ready. The peer's own environment where it needs one; None where that cannot be had."""
    from benchmarks import _peers

    arguments = [str(Path(__file__).with_name("_alternators.py")), kind, str(root), str(budget_bytes)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    if kind == "ray":
        with _peers.running("ray", *arguments, **pipes) as process:
            yield process
        return
    process = subprocess.Popen([sys.executable, *arguments], cwd=Path(__file__).parent.parent, **pipes)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def said(process):
    """The next JSON line; what libraries print between is passed over."""
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise RuntimeError(f"a contender ended: {process.wait()}")


def taken(watched):
    """Bytes, of the process, or of the GPU, which nobody else should be using."""
    import torch

    from benchmarks import _device

    if _device.name() == "cpu":
        return watched.memory_info().rss
    free_bytes, all_bytes = torch.cuda.mem_get_info(_device.name())
    return all_bytes - free_bytes


def play(kind, root, budget_bytes, requests):
    """Requests a second, and the bytes it took at its highest. None where the peer is missing."""
    with contender(kind, root, budget_bytes) as process:
        if process is None:
            return None
        watched = psutil.Process(said(process)["pid"])
        before = taken(watched)
        highest, done = [before], threading.Event()

        def sample():
            while not done.wait(SAMPLE_SECONDS):
                highest[0] = max(highest[0], taken(watched))

        sampling = threading.Thread(target=sample)
        sampling.start()
        try:
            process.stdin.write(json.dumps(requests) + "\n")
            process.stdin.flush()
            answer = said(process)
        finally:
            done.set()
            sampling.join()
        return len(requests) / answer["seconds"], highest[0] - before


@contextmanager
def kept():
    """A folder for the models: `ALTERNATION_FOLDER`, which stays and is used again, or one that goes."""
    if folder := os.environ.get("ALTERNATION_FOLDER"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR", "/var/tmp")) as folder:
        yield Path(folder)


def main():
    from benchmarks import _device

    rates, peaks = defaultdict(list), defaultdict(list)
    with kept() as root:
        one = made(root)
        budget_bytes = one * HELD
        for turn in range(ROUNDS):
            requests = queue(turn)
            for kind in ("ours", "diffusers", "ray"):
                print(f"   round {turn + 1}: {kind}", file=sys.stderr, flush=True)
                found = play(kind, root, budget_bytes, requests)
                if found is not None:
                    rates[kind].append(found[0])
                    peaks[kind].append(found[1])
    titles = {"ours": "ours", "diffusers": "diffusers, reloading per request", "ray": "Ray Serve multiplexed"}
    print(
        f"   {_device.name()}: {REQUESTS} requests over {VARIANTS} variants of {one / 1e6:.0f} MB and {LORAS} LoRAs, "
        f"memory for {HELD} ({budget_bytes / 1e6:.0f} MB), medians of {ROUNDS}"
    )
    for kind, found in rates.items():
        share = statistics.median(ours / theirs for ours, theirs in zip(rates["ours"], found, strict=True))
        print(
            f"   {titles[kind]:34} {statistics.median(found):6.2f} requests/s (ours is {share:5.2f} x)   "
            f"at most {max(peaks[kind]) / 1e6:6.0f} MB, {max(peaks[kind]) / budget_bytes:4.2f} of the budget"
        )
