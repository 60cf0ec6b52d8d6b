"""From a played simulation to numbers: latencies, loads, GPU time, fairness; intervals over seeds. Pure."""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from router.grid import Floats
from router.simulator.engine import Run
from router.simulator.workload import Job

FAIR_LEAST_REQUESTS = 10  # of a customer that counts for fairness
T_95 = (math.nan, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # Student's t by degrees of freedom
Z_95 = 1.96


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One policy on one seed. Latencies in seconds from arrival to finish."""

    mean: float
    p50: float
    p95: float
    p99: float
    slowdown: float  # mean of latency / own run time
    base_loads: float  # per 1,000 requests
    lora_loads: float
    stalled: float  # share of GPU time that waited for weights
    loading: float  # share of time the movers were busy
    fairness: float  # largest customer's mean slowdown over the mean of all customers
    worst: float  # that largest mean slowdown
    unfinished: int


def measure(run: Run) -> Figures:
    done = [job for job in run.jobs if job.number in run.finished_at]
    if not done:
        nothing = dict.fromkeys(Figures.__struct_fields__, math.nan)
        return Figures(**nothing | {"unfinished": len(run.jobs)})  # type: ignore[arg-type]
    latency = latencies(run, done)
    slowdown = latency / np.array([job.run_seconds for job in done])
    gpu_seconds = len(run.machines) * run.ended_at
    tallies = [machine.tally for machine in run.machines]
    by_customer = _by_customer(done, slowdown)
    per_thousand = 1000 / len(done)
    p50, p95, p99 = np.percentile(latency, [50, 95, 99])
    return Figures(
        mean=float(latency.mean()),
        p50=float(p50),
        p95=float(p95),
        p99=float(p99),
        slowdown=float(slowdown.mean()),
        base_loads=sum(tally.base_loads for tally in tallies) * per_thousand,
        lora_loads=sum(tally.lora_loads for tally in tallies) * per_thousand,
        stalled=sum(tally.stalled_seconds for tally in tallies) / gpu_seconds,
        loading=sum(tally.load_seconds for tally in tallies) / gpu_seconds,
        fairness=max(by_customer) / float(np.mean(by_customer)) if by_customer else math.nan,
        worst=max(by_customer, default=math.nan),
        unfinished=len(run.jobs) - len(done),
    )


def latencies(run: Run, jobs: Sequence[Job]) -> Floats:
    return np.array([run.finished_at[job.number] - job.arrives_at for job in jobs])


def _by_customer(jobs: Sequence[Job], slowdown: Floats) -> list[float]:
    """Mean slowdown of each customer with enough requests to say something."""
    found: dict[str, list[float]] = {}
    for job, value in zip(jobs, slowdown.tolist(), strict=True):
        found.setdefault(job.customer, []).append(value)
    return [float(np.mean(values)) for values in found.values() if len(values) >= FAIR_LEAST_REQUESTS]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One figure over seeds: its mean and half the width of the 95 % interval."""

    mean: float
    half: float


def summarise(figures: Sequence[Figures]) -> Mapping[str, Summary]:
    found = {}
    for name in Figures.__struct_fields__:
        values = np.array([getattr(each, name) for each in figures], dtype=np.float64)
        count = len(values)
        half = 0.0
        if count > 1:
            half = _student(count - 1) * float(values.std(ddof=1)) / math.sqrt(count)
        found[name] = Summary(mean=float(values.mean()), half=half)
    return found


def _student(freedom: int) -> float:
    """97.5 % of t; beyond the table by two terms of its expansion around the normal (within 0.01)."""
    if freedom < len(T_95):
        return T_95[freedom]
    z = Z_95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
