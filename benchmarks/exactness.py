"""1,000 random sequences on one engine with a tight budget, against fresh processes: variants, LoRAs, scales,
cancels, prewarms, and a fault injected into every IO step. Prints what happened; one differing bit raises.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEQUENCES = int(os.environ.get("EXACTNESS_SEQUENCES", "1000"))
SEED = 11
FRESH = """
import base64, json, sys
from pathlib import Path
from benchmarks import _device
from loaders.running import Finished
from tests.bench import Bench
from tests.sequences import Zoo
root, requests = Path(sys.argv[1]), json.load(sys.stdin)
zoo, found = Zoo(root), []
for variant, loras, seed in requests:
    bench = Bench(root / "reference", 1 << 30, device=_device.device())
    zoo.submit(bench, (variant, tuple(map(tuple, loras)), seed))
    outcome = bench.outcome()
    assert isinstance(outcome, Finished), outcome
    found.append(base64.b64encode(outcome.outputs[0]).decode())
    bench.engine.close()
print(json.dumps(found))
"""


def fresh(root, requests):
    """Each request on an engine of its own, in a process that has run no sequence."""
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(root)],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        check=True,
    )
    return [base64.b64decode(picture) for picture in json.loads(done.stdout.splitlines()[-1])]


def main():
    from benchmarks import _device
    from tests import sequences
    from tests.bench import Bench

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        zoo = sequences.Zoo(root / "models")
        wanted = sequences.requests(zoo, steps=SEQUENCES, seed=SEED)
        expected = dict(zip(wanted, fresh(root / "models", wanted), strict=True))
        room = int(max(variant.size_bytes for variant in zoo.variants) * 2.5)
        device = _device.device()
        bench = Bench(root / "home", room, memory_bytes=int(room * 1.5), device=device)
        began = time.perf_counter()
        counts = sequences.play(zoo, bench, expected, steps=SEQUENCES, seed=SEED)
        seconds = time.perf_counter() - began
        bench.engine.close()
        bench.engine.check_integrity()
    print(
        f"   {SEQUENCES} sequences over {len(zoo.variants)} variants on {device.title} in {seconds:.0f} s, room for about two"
    )
    print(
        f"   {counts['exact']} pictures, every one the bits of a fresh process ({len(expected)} different requests)"
    )
    print(
        f"   {counts['cancelled']} cancelled, {counts['failed']} failed by {counts['faults']} injected faults"
    )
