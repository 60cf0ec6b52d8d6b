"""Optimizations on tiny models, each beside the plain run: compiled blocks from nothing and from what an earlier
process left (by the C++ backend, or a GPU's, with another cache folder), what `auto` makes of them, and the step cache.

Compiling takes minutes on few cores. With `OPTIMIZED_FOLDER` models and compiled code stay, so that it is done once,
on a busy machine or not, and later calls measure the rest in less than a minute for each of `OPTIMIZED_FAMILIES`.
"""

import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FAMILIES = os.environ.get("OPTIMIZED_FAMILIES", "flux,qwen_image,z_image,wan,ltx,cogvideox").split(",")
ROUNDS = 5
STEPS = 8
NO_CACHE = "this model has no step cache"
CHILD = "import sys; from benchmarks.optimized import child; child(*sys.argv[1:])"


def child(home, folder, family, mode, step_cache):
    """One process: an engine with a compile mode. Prints seconds of the first and of later runs, and what was said."""
    from benchmarks import _device
    from loaders.artefacts import Artefacts
    from loaders.compiling import Compiler
    from registry import folders
    from tests.architectures.calls import CALLS
    from tests.bench import Bench

    device = _device.device()
    compiler = Compiler(mode, Artefacts(Path(home) / "compiled", device))
    bench = Bench(Path(home), 4 << 30, compiler, device=device)
    example = CALLS[family]
    values = {**example.defaults, **example.values, "num_inference_steps": STEPS}
    if step_cache != "off":
        values["step_cache"] = float(step_cache)
    manifest = folders.read_pipeline(Path(folder))
    began = time.perf_counter()
    bench.run(manifest, **values)
    first = time.perf_counter() - began
    runs = [bench.run(manifest, **values) for _ in range(ROUNDS)]
    (Path(home) / "output").write_bytes(runs[0].outputs[0])
    bench.engine.close()
    print(
        json.dumps(
            {
                "first": first,
                "run": statistics.median(run.done.timings.run for run in runs),
                "same": len({run.outputs for run in runs}) == 1,
                "said": runs[-1].done.how.get("compiled", "plain"),
            }
        )
    )


def watched_compiler(folder):
    """A `g++` for the front of the path that writes down in `log` what it was asked to make.

    Under the usual name: a compiler's name is part of what torch knows its libraries by.
    """
    compiler = folder / "bin" / "g++"
    compiler.parent.mkdir()
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {folder}/log\nexec {shutil.which("g++")} "$@"\n')
    compiler.chmod(0o755)
    (folder / "log").touch()
    return compiler.parent


def run(folder, family, mode, *, home=None, code_of=None, step_cache="off"):
    """One process with a home, a cache folder and a compiler of its own; `code_of`: a home that lends its artefacts.

    None for a step cache that the family does not have.
    """
    with tempfile.TemporaryDirectory() as temporary:
        own = Path(temporary)
        home = home or own / "home"
        if code_of is not None:
            shutil.copytree(code_of / "compiled", home / "compiled")
        environment = {
            **os.environ,
            "TORCHINDUCTOR_CACHE_DIR": str(own / "cache"),
            "PATH": f"{watched_compiler(own)}:{os.environ['PATH']}",
        }
        command = [sys.executable, "-c", CHILD, str(home), str(folder), family, mode, step_cache]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            if NO_CACHE in done.stderr:
                return None
            raise RuntimeError(done.stderr[-2000:])
        made = sum(".main.so" in line for line in (own / "log").read_text().splitlines())
        found = json.loads(done.stdout.splitlines()[-1])
        return {**found, "output": (home / "output").read_bytes(), "libraries": made}


def apart(one, other):
    """The largest difference of two pictures in 255ths; for clips only whether they are the same bytes."""
    import numpy as np
    from PIL import Image

    if one == other:
        return "same bits"
    if not one.startswith(b"\x89PNG"):
        return "other bits"
    pictures = [np.asarray(Image.open(io.BytesIO(data))).astype(int) for data in (one, other)]
    return f"{np.abs(pictures[0] - pictures[1]).max()}/255"


def compiled_once(root, folder, family):
    """The home with compiled code, made where it is missing; what making it took."""
    home, note = root / f"{family}-compiled", root / f"{family}.json"
    if not note.exists():
        shutil.rmtree(home, ignore_errors=True)
        cold = run(folder, family, "on", home=home)
        note.write_text(json.dumps({name: cold[name] for name in ("first", "libraries")}))
    return home, json.loads(note.read_text())


def measure(root, family):
    """A line of the table."""
    from tests import architectures

    folder = root / family
    if not folder.exists():
        architectures.write(folder, family, seed=1)
    home, cold = compiled_once(root, folder, family)
    if os.environ.get("OPTIMIZED_ONLY_COMPILE"):
        return f"compiled in {cold['first']:.0f} s"
    plain = run(folder, family, "off")
    warm = run(folder, family, "on", code_of=home)
    chosen = run(folder, family, "auto", code_of=home)
    cached = run(folder, family, "off", step_cache="0.1")
    assert all(one["same"] for one in (plain, warm, chosen, cached) if one is not None)
    return (
        f"plain {plain['run'] * 1e3:5.0f} ms | compiled {plain['run'] / warm['run']:5.2f} x, "
        f"{apart(plain['output'], warm['output'])} | first run: plain {plain['first']:.1f} s, "
        f"from nothing {cold['first']:.0f} s ({cold['libraries']} libraries), "
        f"from artefacts {warm['first']:.1f} s ({warm['libraries']} libraries) | auto: {chosen['said']}, "
        f"{plain['run'] / chosen['run']:4.2f} x | " + with_step_cache(plain, cached)
    )


def with_step_cache(plain, cached):
    if cached is None:
        return "no step cache"
    return f"step cache 0.1 {plain['run'] / cached['run']:5.2f} x, {apart(plain['output'], cached['output'])}"


@contextlib.contextmanager
def kept():
    if folder := os.environ.get("OPTIMIZED_FOLDER"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main():
    with kept() as root:
        for family in FAMILIES:
            print(f"   {family:<12} {measure(root, family)}", flush=True)
