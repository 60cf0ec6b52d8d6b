"""Optimizations on tiny models, each beside the plain run of the same process: compiled blocks from nothing and from
what an earlier process left, and the step cache. Prints gains per architecture and how far the outputs are apart.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FAMILIES = os.environ.get("OPTIMIZED_FAMILIES", "flux,qwen_image,z_image,wan,ltx,cogvideox").split(",")
ROUNDS = 5
STEPS = 8
CHILD = "import sys; from benchmarks.optimized import child; child(*sys.argv[1:])"


def child(home, folder, family, mode, step_cache):
    """One process: an engine with a compile mode. Prints seconds of the first and of a later run, and the output."""
    from loaders.artefacts import Artefacts
    from loaders.compiling import Compiler
    from loaders.device import Device
    from registry import folders
    from tests.architectures.calls import CALLS
    from tests.bench import Bench

    compiler = Compiler(mode, Artefacts(Path(home) / "compiled", Device("cpu")))
    bench = Bench(Path(home), 4 << 30, compiler)
    example = CALLS[family]
    values = {**example.defaults, **example.values, "num_inference_steps": STEPS}
    if step_cache != "off":
        values["step_cache"] = float(step_cache)
    manifest = folders.read_pipeline(Path(folder))
    began = time.perf_counter()
    finished = bench.run(manifest, **values)
    first = time.perf_counter() - began
    seconds = [bench.run(manifest, **values).done.timings.run for _ in range(ROUNDS)]
    (Path(home) / "output").write_bytes(finished.outputs[0])
    again = bench.run(manifest, **values).outputs[0] == finished.outputs[0]
    bench.engine.close()
    print(json.dumps({"first": first, "run": statistics.median(seconds), "again": again}))


def run(root, folder, family, mode, *, step_cache="off", home=None):
    home = home or Path(tempfile.mkdtemp(dir=root))
    # Torch keeps compiled code of its own in a folder; each home has another, so that only artefacts are shared.
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.mkdtemp(dir=root)))}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(home), str(folder), family, mode, step_cache],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return {**found, "output": (home / "output").read_bytes(), "home": home}


def apart(one, other):
    """The largest difference of two pictures in 255ths; for clips only whether they are the same bytes."""
    import io

    import numpy as np
    from PIL import Image

    if one == other:
        return "the same bits"
    if not one.startswith(b"\x89PNG"):
        return "other bits"
    pictures = [np.asarray(Image.open(io.BytesIO(data))).astype(int) for data in (one, other)]
    return f"apart by {np.abs(pictures[0] - pictures[1]).max()} of 255"


def main():
    from tests import architectures

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for family in FAMILIES:
            folder = architectures.write(root / family, family, seed=1)
            plain = run(root, folder, family, "off")
            cold = run(root, folder, family, "on")
            warm = run(root, folder, family, "on", home=cold["home"])
            cached = run(root, folder, family, "off", step_cache="0.1")
            print(
                f"   {family:<12} plain {plain['run'] * 1e3:6.0f} ms; compiled {plain['run'] / cold['run']:5.2f} x, "
                f"{apart(plain['output'], cold['output'])}; first run {plain['first']:.1f} s, "
                f"compiling {cold['first']:.1f} s, from artefacts {warm['first']:.1f} s, "
                f"{apart(cold['output'], warm['output'])}; "
                f"step cache 0.1 {plain['run'] / cached['run']:5.2f} x, {apart(plain['output'], cached['output'])}",
                flush=True,
            )
            assert all(one["again"] for one in (plain, cold, warm, cached))
