"""What is wanted how much: decayed demand per version and adapter at two time scales, run-time estimates learned
from finished attempts.

Pure; both can be written down and read back, so that a restart is not an amnesia. Demand is counted in busy
seconds, not in requests: at four seconds a run, fifteen a minute fill a GPU.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from registry.catalog import Digest
from router.grid import Floats, Names

FAST_SECONDS = 300.0  # a burst is seen within minutes
SLOW_SECONDS = 6 * 3600.0  # and yesterday's favourite is not dropped for one quiet quarter of an hour
SCALES = (FAST_SECONDS, SLOW_SECONDS)
FAST, SLOW = range(2)
MOST_UNITS = 1e6
TARGET_LOAD = 0.7  # share of a copy's seconds that demand may fill before there should be one more


class DemandState(msgspec.Struct, kw_only=True):
    """Sums as of `at`, per digest: busy seconds fast and slow, requests fast and slow."""

    at: float
    began_at: float
    sums: dict[str, tuple[float, float, float, float]]


class Demand:
    """Exponentially decayed sums; a rate is a sum divided by the seconds it covers."""

    def __init__(self, now: float) -> None:
        self.names: Names[Digest] = Names()
        self.began_at = now
        # Per digest: busy fast, busy slow, requests fast, requests slow, last change. Lists, because nearly all
        # reading and writing is of one row.
        self._sums: list[list[float]] = []

    def note(self, digest: Digest, busy_seconds: float, now: float) -> None:
        """One more request that wants this version or adapter."""
        index = self.names.add(digest)
        if index == len(self._sums):
            self._sums.append([busy_seconds, busy_seconds, 1.0, 1.0, now])
            return
        row = self._sums[index]
        elapsed = max(0.0, now - row[4])  # a clock that was put back by days would else pass every number
        fast, slow = math.exp(-elapsed / FAST_SECONDS), math.exp(-elapsed / SLOW_SECONDS)
        row[0] = row[0] * fast + busy_seconds
        row[1] = row[1] * slow + busy_seconds
        row[2] = row[2] * fast + 1
        row[3] = row[3] * slow + 1
        row[4] = max(row[4], now)

    def busy_rates(self, now: float, scale: int = FAST) -> Floats:
        """GPU seconds wanted per second, by index in `names`."""
        return self._rates(now, scale, scale)

    def request_rates(self, now: float, scale: int = FAST) -> Floats:
        """Requests per second, by index in `names`."""
        return self._rates(now, 2 + scale, scale)

    def busy_rate(self, digest: Digest, now: float, scale: int = FAST) -> float:
        index = self.names.get(digest)
        return 0.0 if index is None else float(self.busy_rates(now, scale)[index])

    def _rates(self, now: float, column: int, scale: int) -> Floats:
        rows = self._rows()
        seconds = SCALES[scale]
        # A young sum covers less than its time scale: without this the first minutes would look idle.
        covered = seconds * -math.expm1(-max(now - self.began_at, 1.0) / seconds)
        rates: Floats = rows[:, column] * np.exp(_since(rows, now) / -seconds) / covered
        return rates

    def _rows(self) -> Floats:
        return np.array(self._sums, dtype=np.float64).reshape(-1, 5)

    def save(self, now: float) -> DemandState:
        rows = self._rows()
        for column in range(4):
            rows[:, column] *= np.exp(_since(rows, now) / -SCALES[column % 2])
        kept = {name: tuple(float(x) for x in row[:4]) for name, row in zip(self.names, rows, strict=True)}
        sums = {str(name): (a, b, c, d) for name, (a, b, c, d) in kept.items() if d > 1e-3}
        return DemandState(at=now, began_at=self.began_at, sums=sums)

    @classmethod
    def load(cls, state: DemandState) -> "Demand":
        demand = cls(state.began_at)
        for name, sums in state.sums.items():
            demand.names.add(Digest(name))
            demand._sums.append([*sums, state.at])
        return demand


def _since(rows: Floats, now: float) -> Floats:
    elapsed: Floats = np.maximum(now - rows[:, 4], 0.0)
    return elapsed


def units_of(values: Mapping[str, Any]) -> float:
    """An input's size relative to one image of one megapixel in 28 steps; what is not said counts as that.

    Not every schema has bounds, and a number that no host could ever work off must not upset the books.
    """
    steps = _number(values, "num_inference_steps", 28.0) / 28.0
    images = _number(values, "num_images", 1.0)
    frames = _number(values, "num_frames", 1.0)
    size = values.get("image_size", values)
    pixels = 1.0
    if isinstance(size, Mapping):
        pixels = _number(size, "width", 1024.0) * _number(size, "height", 1024.0) / 1024.0**2
    return min(MOST_UNITS, max(1e-3, steps * images * frames * pixels))


def _number(values: Mapping[str, Any], name: str, default: float) -> float:
    value = values.get(name, default)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return float(value) if usable else default


class RunModel(msgspec.Struct):
    """log(seconds) = base + slope x log(units), by recursive least squares; `p` is the 2x2 covariance."""

    base: float
    slope: float = 1.0
    p: tuple[float, float, float] = (1.0, 0.0, 0.05)  # variances of base and slope, and between them

    def seconds(self, units: float) -> float:
        return math.exp(min(self.base + self.slope * math.log(units), LOG_LONGEST))

    def learn(self, units: float, seconds: float) -> None:
        x = math.log(units)
        p0, p01, p1 = self.p
        k0, k1 = p0 + p01 * x, p01 + p1 * x
        scale = NOISE + k0 + k1 * x
        error = math.log(max(seconds, 1e-3)) - self.base - self.slope * x
        self.base += k0 * error / scale
        self.slope += k1 * error / scale
        left = (p0 - k0 * k0 / scale, p01 - k0 * k1 / scale, p1 - k1 * k1 / scale)
        # A little is forgotten each time, up to the prior, so that a changed model is learned again.
        self.p = (min(1.0, left[0] * FORGET), left[1], min(0.05, left[2] * FORGET))


FAR_OFF = math.log(1.2)
NOISE = 0.06  # variance of log seconds between runs of one size: about 25 %
FORGET = 1.005
LOG_LONGEST = math.log(30 * 86400.0)  # no run is expected to take more than a month
DEFAULT_SECONDS = 5.0  # for one unit of a version that nobody described


class RunTimes:
    """Seconds a run needs on a host of speed 1, learned per version on top of the catalogue's prior."""

    def __init__(self, priors: Mapping[Digest, float] | None = None) -> None:
        self.priors: dict[Digest, float] = dict(priors or {})
        self.models: dict[Digest, RunModel] = {}
        self._told: dict[Digest, float] = {}

    def estimate(self, version: Digest, units: float = 1.0) -> float:
        return self._model(version).seconds(units)

    def learn(self, version: Digest, units: float, run_seconds: float, host_speed: float = 1.0) -> bool:
        """Whether runs of one unit are expected to take far other than when this was answered with yes last."""
        model = self.models.setdefault(version, self._model(version))
        told = self._told.setdefault(version, model.base)
        model.learn(units, run_seconds * host_speed)
        if abs(model.base - told) < FAR_OFF:
            return False
        self._told[version] = model.base
        return True

    def _model(self, version: Digest) -> RunModel:
        known = self.models.get(version)
        return known or RunModel(math.log(self.priors.get(version, DEFAULT_SECONDS)))
