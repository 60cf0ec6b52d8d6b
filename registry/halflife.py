"""How fast models fade: a variant's demand half-life, and how long a top-K set keeps its members. Pure.

docs/halflife.md has the formulas and their sources. Where the data cannot carry an estimate, it says so and why.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import special

from registry import decay
from registry.catalog import Record
from registry.decay import Array

CONFIDENCE = 0.90
MINIMUM_DAYS = 14  # after the peak
MINIMUM_AMOUNT = 30.0  # requests (or seconds, or cents) after the peak
GRACE_DAYS = 7  # out of the top K for so long counts as having left it
REPLICATES = 400

Verdict = Literal["fading", "steady", "rising", "not enough data"]


class HalfLife(Record, frozen=True, kw_only=True):
    """A half-life in days with its interval. `days` is None unless the verdict is `fading`; `high` None is "for ever"."""

    verdict: Verdict
    reason: str = ""
    days: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float = CONFIDENCE
    peak_day: int = 0  # index into the series
    daily_rate: float = 0.0  # of the logarithm; negative while fading
    level: float = 0.0  # fitted amount on the peak day, weekly rhythm averaged out


def demand(amounts: Array, *, first_weekday: int = 0, confidence: float = CONFIDENCE) -> HalfLife:
    """The half-life of daily amounts after their peak. `amounts`: float64, shape (days,), oldest first."""
    peak = peak_day(amounts)
    tail = amounts[peak:]
    if reason := _too_little(tail):
        return HalfLife(verdict="not enough data", reason=reason, peak_day=peak, confidence=confidence)
    fit = decay.fit(tail, first_weekday=(first_weekday + peak) % decay.WEEK_DAYS)
    margin = float(special.stdtrit(fit.degrees, (1 + confidence) / 2)) * fit.rate_error
    slowest, fastest = fit.rate + margin, fit.rate - margin
    verdict: Verdict = "fading" if slowest < 0 else "rising" if fastest > 0 else "steady"
    return HalfLife(
        verdict=verdict,
        reason="" if verdict == "fading" else "no decay that stands out from the noise",
        days=_days(fit.rate) if verdict == "fading" else None,
        low=_days(fastest) if fastest < 0 else None,
        high=_days(slowest) if slowest < 0 else None,
        confidence=confidence,
        peak_day=peak,
        daily_rate=fit.rate,
        level=float(fit.trend(np.zeros(1))[0]),
    )


def peak_day(amounts: Array) -> int:
    """The middle of the best seven days in a row: no single busy day, and no weekday, makes a peak."""
    if len(amounts) < decay.WEEK_DAYS:
        return int(np.argmax(amounts)) if len(amounts) else 0
    weekly = np.convolve(amounts, np.ones(decay.WEEK_DAYS), mode="valid")
    return int(np.argmax(weekly)) + decay.WEEK_DAYS // 2


def _too_little(tail: Array) -> str:
    if len(tail) < MINIMUM_DAYS:
        return f"{len(tail)} days since its peak, {MINIMUM_DAYS} are needed"
    if float(tail.sum()) < MINIMUM_AMOUNT:
        return f"only {tail.sum():g} since its peak, {MINIMUM_AMOUNT:g} are needed"
    return ""


def _days(rate: float) -> float:
    return math.log(2) / -rate


class Turnover(Record, frozen=True, kw_only=True):
    """How long until half of a top-K set has left it. None: fewer than half left while we watched."""

    size: int
    days: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float = CONFIDENCE
    reason: str = ""
    survival: tuple[float, ...] = ()  # share of members still in, by days since the start


def turnover(amounts: Array, size: int, *, seed: int = 0, confidence: float = CONFIDENCE) -> Turnover:
    """Over all start days. `amounts`: float64, shape (variants, days). Weekly sums rank, so weekdays do not matter.

    Kaplan-Meier over (member, start day) pairs; those still in at the end are censored. The pairs of one model are
    one story told many times, so the interval comes from resampling models, not pairs.
    """
    ends, censored = _departures(members(amounts, size))
    if not ends.any():
        return Turnover(size=size, confidence=confidence, reason="nobody left the set while we watched")
    curve = _survival(ends.sum(axis=0), censored.sum(axis=0))
    days = _median(curve)
    low, high = _interval(ends, censored, seed, confidence)
    return Turnover(
        size=size,
        days=days,
        low=_finite(low),
        high=_finite(high),
        confidence=confidence,
        reason="" if days else "fewer than half of the members left while we watched",
        survival=tuple(float(share) for share in curve),
    )


def _interval(ends: Array, censored: Array, seed: int, confidence: float) -> tuple[float, float]:
    """Quantiles over resampled models, set wider where few (effective) models carry the estimate (Hesterberg 2015)."""
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(ends), np.full(len(ends), 1 / len(ends)), size=REPLICATES)
    medians = [_median(_survival(draw @ ends, draw @ censored)) or math.inf for draw in draws]
    told = (ends + censored).sum(axis=1)
    models = max(2.0, float(told.sum() ** 2 / (told**2).sum()))
    wide = math.sqrt(models / (models - 1)) * float(special.stdtrit(models - 1, (1 + confidence) / 2))
    low, high = np.quantile(medians, [special.ndtr(-wide), special.ndtr(wide)], method="nearest")
    return float(low), float(high)


def members(amounts: Array, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Shape (variants, days - 6): who is among the `size` largest of the seven days that end on each day."""
    weekly = np.lib.stride_tricks.sliding_window_view(amounts, decay.WEEK_DAYS, axis=1).sum(axis=-1)
    places = np.argsort(np.argsort(-weekly, axis=0, kind="stable"), axis=0, kind="stable")
    return np.asarray((places < size) & (weekly > 0))


def _departures(inside: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> tuple[Array, Array]:
    """Per model, how many stays (one per start day) ended, and were cut short by the end, after how many days."""
    days = inside.shape[1]
    ends, censored = np.zeros((2, inside.shape[0], days + 1))
    for model, row in enumerate(inside):
        for start, stop, left in _stays(row):
            lengths = stop - np.flatnonzero(row[start:stop]) - start
            np.add.at((ends if left else censored)[model], lengths, 1)
    seen = inside.any(axis=1)
    return ends[seen], censored[seen]


def _stays(row: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Sequence[tuple[int, int, bool]]:
    """Stays as (first day, first day out, whether it left); gaps shorter than the grace days are bridged."""
    present = np.flatnonzero(row)
    if not len(present):
        return []
    breaks = np.flatnonzero(np.diff(present) > GRACE_DAYS)
    firsts = present[np.r_[0, breaks + 1]]
    lasts = present[np.r_[breaks, len(present) - 1]]
    return [
        (int(first), int(last) + 1, bool(last + GRACE_DAYS < len(row)))
        for first, last in zip(firsts, lasts, strict=True)
    ]


def _survival(ends: Array, censored: Array) -> Array:
    """Kaplan-Meier by whole days: share still in after 0, 1, 2… days."""
    leaving = ends + censored
    at_risk = leaving.sum() - np.r_[0.0, np.cumsum(leaving)[:-1]]
    hazard = np.divide(ends, at_risk, out=np.zeros_like(at_risk), where=at_risk > 0)
    return np.asarray(np.cumprod(1 - hazard))


def _median(curve: Array) -> float | None:
    """Where the curve crosses one half, between whole days by straight line."""
    below = np.flatnonzero(curve <= 0.5)
    if not len(below):
        return None
    day = int(below[0])
    if day == 0 or curve[day - 1] == curve[day]:
        return float(day)
    return float(day - 1 + (curve[day - 1] - 0.5) / (curve[day - 1] - curve[day]))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
