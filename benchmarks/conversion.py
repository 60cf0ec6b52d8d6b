"""Memory while weights are converted, of what was booked for it: GGUF computed back, and the library's own loader.

One FLUX-shaped denoiser of 364 MB in float32, as it is and quantized to 8 bits, loaded as float32 and bfloat16 by an
item of this process; anonymous memory, looked at every 2 ms. Above 1.00 the budget would have been passed.
"""

import gc
import shutil
import tempfile
import threading
from pathlib import Path

LOOK_SECONDS = 0.002
ROLE = "transformer"


class Highest:
    """The process's anonymous memory over a block, beyond what there was before it."""

    def __enter__(self):
        gc.collect()
        self._before = self._now = resident_bytes()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._over.wait(LOOK_SECONDS):
            self._now = max(self._now, resident_bytes())

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    @property
    def size_bytes(self):
        return self._now - self._before


def resident_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def quantized(plain, target):
    import safetensors.torch

    from tests.unit.test_packings import gguf

    shutil.copytree(plain, target)
    files = list((target / ROLE).glob("*.safetensors"))
    tensors = {name: tensor for file in files for name, tensor in safetensors.torch.load_file(file).items()}
    for file in (*files, *(target / ROLE).glob("*.index.json")):
        file.unlink()
    gguf(target / ROLE / "denoiser-Q8_0.gguf", tensors)
    return target


def measured(assembly, device, manifest, dtype):
    """Bytes of the place, booked beside it, and taken at most."""
    from loaders.interest import Interest

    interest = Interest()
    assembly.fetch(manifest, interest)
    ready = assembly.ready(manifest, {"dtype": dtype})
    item = next(
        item for item, part in zip(ready.components, manifest.components, strict=True) if part.name == ROLE
    )
    item.fetch(interest)
    size_bytes = item.measure()
    with Highest() as highest:
        payload = item.load(interest)
    del payload
    gc.collect()
    device.give_back()
    return size_bytes, item.aside(), highest.size_bytes


def main():
    from benchmarks import alternation
    from loaders.assembly import Assembly
    from loaders.device import Device
    from loaders.store import Store
    from registry import folders

    alternation.VARIANTS, alternation.LORAS = 1, 0
    with tempfile.TemporaryDirectory() as folder:
        root, device = Path(folder), Device("cpu")
        alternation.made(root)
        plain = root / "variant0"
        assembly = Assembly(root / "home", Store(root / "home"), device)
        for kind, path in (("plain", plain), ("GGUF Q8_0", quantized(plain, root / "gguf"))):
            manifest = folders.read_pipeline(path)
            for dtype in ("float32", "bfloat16"):
                size_bytes, aside_bytes, highest_bytes = measured(assembly, device, manifest, dtype)
                print(
                    f"   {kind:10} as {dtype:9} {size_bytes / 1e6:5.0f} MB and {aside_bytes / 1e6:4.0f} aside;"
                    f" at most {highest_bytes / 1e6:5.0f} MB, {highest_bytes / (size_bytes + aside_bytes):.2f} of it"
                )
