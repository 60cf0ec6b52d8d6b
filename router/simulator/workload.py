"""What a simulation is fed: jobs in order of arrival, and the weights they name. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from registry.catalog import Digest
from router.prewarm import Launch
from router.residency import Bundle, Part

GB = 1_000_000_000


@dataclass(slots=True)
class Job:
    """One request as it will have been: `run_seconds` is what a host of speed 1 needs, known only afterwards."""

    number: int
    arrives_at: float
    customer: str
    version: Digest
    adapters: tuple[Digest, ...]
    run_seconds: float
    units: float
    kind: str = "image"  # reports may be split by it


@dataclass(frozen=True)
class Workload:
    """`prior_seconds` is what the catalogue says of each version before anything ran."""

    name: str
    bundles: Sequence[Bundle]
    jobs: Sequence[Job]
    prior_seconds: dict[Digest, float]
    launches: Sequence[Launch] = ()  # that the catalogue says should be warm when they open

    @property
    def mean_run_seconds(self) -> float:
        return float(np.mean([job.run_seconds for job in self.jobs]))


def arrival_rate(mean_run_seconds: float, load: float, capacity: float) -> float:
    """Requests per second that keep `capacity` (the sum of host speeds) busy for the share `load`."""
    return load * capacity / mean_run_seconds


def last_that_fit(bundles: Collection[Bundle], budget_bytes: int) -> list[Part]:
    """What a disk still holds that got one bundle after the other, oldest first."""
    newest_first = {
        part.digest: part for bundle in reversed(list(bundles)) for part in reversed(bundle.parts)
    }
    left, found = budget_bytes, []
    for part in newest_first.values():
        left -= part.size_bytes
        if left < 0:
            break
        found.append(part)
    return found[::-1]
