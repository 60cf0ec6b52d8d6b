"""The GenTD26 production traces (Alibaba clusterdata, SoCC'25) as workloads. ● reads the files, which are not ours.

`gentd26_loras.csv.gz` names LoRAs but no times: arrivals are Poisson at the asked load. `gentd26_requests.csv.gz`
has times and customers but no LoRA names: its own arrival pattern is kept, compressed to the asked load. Run times
are the trace's over five, an H100 against its GPUs. Sizes are not in the trace: bases are drawn log-uniformly from
2.1 to 23.8 GB, LoRAs from 0.05 to 0.4 GB, by seed.
"""

import csv
import gzip
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from registry.catalog import Digest
from router.residency import Bundle, Part
from router.simulator.errors import TraceMissingError
from router.simulator.workload import GB, Job, Workload, arrival_rate

SPEED_UP = 5.0  # an H100-class GPU against the trace's
BASE_FIXED_SECONDS = 2.0  # building a pipeline once the bytes are there
LORA_FIXED_SECONDS = 2.9  # diffusers' LoRA load is nearly all module injection
LORAS_FILE, REQUESTS_FILE = "gentd26_loras.csv.gz", "gentd26_requests.csv.gz"


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        raise TraceMissingError(path)
    with gzip.open(path, "rt", newline="") as lines:
        return list(csv.DictReader(lines))


def _number(text: str, default: float) -> float:
    try:
        return float(text)
    except ValueError:
        return default


def _stable(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on seed and name only."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:6]) / 2**48


def base_bundle(name: str, seed: int) -> Bundle:
    size = int(2.1 * GB * (23.8 / 2.1) ** _stable(seed, name))
    part = Part(Digest(f"{name}/weights"), size)
    return Bundle(digest=Digest(name), parts=(part,), fixed_seconds=BASE_FIXED_SECONDS)


def lora_bundle(name: str, seed: int) -> Bundle:
    size = int(0.05 * GB * 8.0 ** _stable(seed, name))
    part = Part(Digest(name), size)
    return Bundle(digest=Digest(name), parts=(part,), kind="adapter", fixed_seconds=LORA_FIXED_SECONDS)


def with_loras(
    folder: Path, *, seed: int, load: float, capacity: float, limit: int | None = None
) -> Workload:
    """The trace that names its LoRAs, one customer, Poisson arrivals."""
    rows = [row for row in _rows(folder / LORAS_FILE) if row["base"]][:limit]
    seconds = np.array([max(0.2, _number(row["exec_seconds"], 20.0) / SPEED_UP) for row in rows])
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / arrival_rate(float(seconds.mean()), load, capacity), len(rows))
    times = np.cumsum(gaps)
    jobs = []
    for number, row in enumerate(rows):
        loras = [name.split(":")[0] for name in row["loras"].split()]
        units = max(0.1, _number(row["images"], 1.0) * _number(row["steps"], 30.0) / 30.0)
        names = tuple(Digest(name) for name in dict.fromkeys(loras))
        jobs.append(
            Job(
                number,
                float(times[number]),
                "all",
                Digest(row["base"]),
                names,
                float(seconds[number]),
                units,
            )
        )
    return _finish("GenTD26 with LoRA names", jobs, seed)


def with_customers(
    folder: Path, *, seed: int, load: float, capacity: float, limit: int | None = None
) -> Workload:
    """The trace with times and customers; its hourly shape and bursts are kept, the whole compressed."""
    rows = [row for row in _rows(folder / REQUESTS_FILE) if row["checkpoint_model_version_id"]][:limit]
    stamps = np.array([np.datetime64(row["gmt_create"]).astype("int64") for row in rows], dtype=np.float64)
    order = np.argsort(stamps, kind="stable")
    seconds = np.array([max(0.2, _number(row["exec_time_seconds"], 20.0) / SPEED_UP) for row in rows])
    rng = np.random.default_rng(seed)
    offsets = stamps[order] - stamps[order[0]] + rng.random(len(rows))
    squeeze = len(rows) / arrival_rate(float(seconds.mean()), load, capacity) / float(offsets[-1])
    jobs = []
    for number, (index, offset) in enumerate(zip(order.tolist(), np.sort(offsets) * squeeze, strict=True)):
        row = rows[index]
        units = max(
            0.1,
            _number(row["num_images_per_prompt"], 1.0) * _number(row["num_inference_steps"], 30.0) / 30.0,
        )
        jobs.append(
            Job(
                number,
                float(offset),
                row["groupId"],
                Digest(row["checkpoint_model_version_id"]),
                (),
                float(seconds[index]),
                units,
            )
        )
    return _finish("GenTD26 with customers", jobs, seed)


def _finish(name: str, jobs: Sequence[Job], seed: int) -> Workload:
    bases = sorted({job.version for job in jobs})
    loras = sorted({lora for job in jobs for lora in job.adapters})
    bundles = [*(base_bundle(b, seed) for b in bases), *(lora_bundle(a, seed) for a in loras)]
    return Workload(name, bundles, jobs, dict.fromkeys(bases, 5.0))
