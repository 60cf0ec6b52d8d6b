"""Reading safetensors, cold and warm: ours beside raw parallel reads of the same file and beside the usual libraries.

The file is a diffusers transformer of about 1.2 GB in bf16 with random bytes, in a folder of its own on a real disk
(`BENCH_DIR`, default the system's large temporary folder) and deleted afterwards. Cold means dropped from the page
cache. Every way ends with all bytes in memory that is really there. Medians of `ROUNDS`, the ways taken in turns, so
that a noisy neighbour disturbs all of them alike; shares are medians of the rounds' own, of the raw way with the best
median (the best of each round would be whichever was lucky). The peers of `peers/readers.txt` are imported where they
can be installed; `BENCH_ONLY=raw,ours` leaves all others out, for many rounds where the disk wavers. With a GPU
(`BENCH_DEVICE`) the same ways go on to it, each until all has arrived; the limit beside them is one copy from pinned memory.
"""

import gc
import importlib.util
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import _device, _onto
from loaders import tunables

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
ONLY = tuple(os.environ.get("BENCH_ONLY", "").split(","))  # how the names of the ways begin that are wanted
BLOCK_BYTES = 8 << 20
LAYERS = int(os.environ.get("BENCH_LAYERS", "8"))  # 1 for a quick look at whether it works
CONFIG = {
    "sample_size": 64, "patch_size": 2, "in_channels": 16, "num_layers": LAYERS, "attention_head_dim": 64,
    "num_attention_heads": 22, "caption_projection_dim": 1408, "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048, "out_channels": 16, "pos_embed_max_size": 96,
}  # fmt: skip


def make(folder):
    """The model's folder as `save_pretrained` leaves it, without building its weights in memory first."""
    import torch
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        model = SD3Transformer2DModel(**CONFIG)
    model.save_config(folder)
    header, offset = {}, 0
    for name, tensor in model.state_dict().items():
        header[name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.numel() * 2],
        }
        offset += tensor.numel() * 2
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = folder / "diffusion_pytorch_model.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        noise = os.urandom(BLOCK_BYTES)
        for start in range(0, offset, BLOCK_BYTES):
            file.write(noise[: min(BLOCK_BYTES, offset - start)])
        file.flush()
        os.fsync(file.fileno())
    return path


def drop(path):
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(path):
    block = bytearray(BLOCK_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass


def prefaulted(size_bytes):
    buffer = mmap.mmap(-1, -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES)
    buffer.madvise(mmap.MADV_HUGEPAGE)
    for start in range(0, len(buffer), mmap.PAGESIZE):
        buffer[start] = 1
    return memoryview(buffer)


def raw(buffer, threads, flags, block_bytes):
    """The physical limit: nothing but parallel reads into one prefaulted buffer."""

    def way(path):
        descriptor = os.open(path, os.O_RDONLY | flags)

        def read(start):
            done, wanted = 0, min(block_bytes, path.stat().st_size - start)
            while done < wanted:
                done += os.preadv(descriptor, [buffer[start + done : start + block_bytes]], start + done)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, range(0, path.stat().st_size, block_bytes)))
        os.close(descriptor)

    return way


def ours(device):
    from loaders import layout, reader

    def way(path):
        return reader.read([path], layout.lay_out(reader.read_headers([path])), device)

    return way


def ours_in_fresh_memory(path):
    from loaders.device import Device

    return ours(Device("cpu"))(path)


def library(path):
    from safetensors.torch import load_file

    return touched(load_file(path))


def from_pretrained(path):
    import torch
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel.from_pretrained(path.parent, torch_dtype=torch.bfloat16)
    return touched(model.state_dict())


def touched(tensors):
    """Maps count when their pages are there."""
    for tensor in tensors.values():
        tensor.view(-1)[:: mmap.PAGESIZE // tensor.element_size()].sum()
    return tensors


def streamer(path):
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as stream:
        stream.stream_file(str(path))
        return {name: tensor.clone() for name, tensor in stream.get_tensors()}


def fast(path):
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    loader = SafeTensorsFileLoader(SingleGroup(), "cpu", nogds=True)
    loader.add_filenames({0: [str(path)]})
    buffers = loader.copy_files_to_device()
    touched({name: buffers.get_tensor(name) for name in buffers.key_to_rank_lidx})
    buffers.close()
    loader.close()


def packed(path):
    """The same tensors in flashpack's own format, beside the file."""
    from flashpack import pack_to_file
    from safetensors.torch import load_file

    other = path.with_suffix(".flashpack")
    pack_to_file(load_file(path), str(other), None)
    return other


def flash(path):
    from flashpack.deserialization import revert_from_file

    return touched(revert_from_file(str(path), silent=True))


def ways(path):
    """Name, the file it reads, how."""
    from loaders.device import Device

    buffer = prefaulted(path.stat().st_size)
    yield "raw O_DIRECT, 16 threads, 8 MiB", path, raw(buffer, 16, os.O_DIRECT, BLOCK_BYTES)
    yield "raw O_DIRECT, 8 threads, 4 MiB", path, raw(buffer, 8, os.O_DIRECT, BLOCK_BYTES // 2)
    yield "raw pread, 4 threads", path, raw(buffer, 4, 0, BLOCK_BYTES)
    yield "ours", path, ours(Device("cpu"))
    yield "ours, first in fresh memory", path, ours_in_fresh_memory
    yield "safetensors load_file", path, library
    yield "diffusers from_pretrained", path, from_pretrained
    if any(ONLY):
        yield from _onto.ways(path)
        return
    peers()
    yield from _onto.ways(path)
    for module, way in (("runai_model_streamer", streamer), ("fastsafetensors", fast)):
        if importlib.util.find_spec(module):
            yield module, path, way
        else:
            print(f"   {module} is not installed: not compared")
    if importlib.util.find_spec("flashpack"):
        yield "flashpack (its own format)", packed(path), flash
    else:
        print("   flashpack is not installed: not compared")


def peers():
    """Makes the peers importable, behind our own packages."""
    from benchmarks import _peers

    if interpreter := _peers.python("readers"):
        sys.path += map(str, interpreter.parent.parent.glob("lib/python*/site-packages"))


def measured(path):
    """Seconds of every round by (way, is cold). The first round warms up code and memory and does not count."""
    seconds = defaultdict(list)
    found = [way for way in ways(path) if way[0].startswith(ONLY)]
    for turn in range(ROUNDS + 1):
        for cold in (True, False):
            for name, file, way in found:
                if cold:
                    drop(file)
                else:
                    warm(file)
                began = time.perf_counter()
                made = way(file)
                _device.wait()
                if turn:
                    seconds[name, cold].append(time.perf_counter() - began)
                del made
                gc.collect()
    return seconds


def share(best, values):
    """Of the best raw way, round by round: the median and its quartiles."""
    shares = sorted(limit / value for limit, value in zip(best, values, strict=True))
    return statistics.median(shares), shares[len(shares) // 4], shares[-1 - len(shares) // 4]


def main():
    """In a process that begins as a host does."""
    if (environment := tunables.wanted(os.environ)) is not None:
        subprocess.run([sys.executable, "-m", "benchmarks", "reader"], env=environment, check=True)
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR", "/var/tmp")) as folder:
        path = make(Path(folder))
        gigabytes = path.stat().st_size / 1e9
        seconds = measured(path)
    raws = {name for name, _ in seconds if name.startswith("raw")}
    best = {
        cold: min((seconds[name, cold] for name in raws), key=statistics.median) for cold in (True, False)
    }
    print(
        f"   {gigabytes:.2f} GB of bf16, medians of {ROUNDS}; in brackets the share of the best raw way, and its quartiles"
    )
    for name in dict.fromkeys(name for name, _ in seconds):
        row = []
        for cold in (True, False):
            median = statistics.median(seconds[name, cold])
            part, low, high = share(best[cold], seconds[name, cold])
            row.append(
                f"{median:6.2f} s {gigabytes / median:6.2f} GB/s ({part:4.2f}, {low:4.2f} to {high:4.2f})"
            )
        print(f"   {name:40} cold {row[0]}   warm {row[1]}")
    print("   bars: ours cold 0.95, warm 0.90")
