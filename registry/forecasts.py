"""The next two weeks of a variant's demand, with an interval that a backtest has tried. Pure.

The recent past is fitted with an exponential and a weekly rhythm; a slope that does not stand out from its error is
drawn towards zero. Intervals are widened by what past forecasts of the whole catalogue got wrong (split conformal).
"""

from collections.abc import Sequence

import numpy as np

from registry import decay
from registry.catalog import Record
from registry.decay import Array

HORIZON_DAYS = 14
WINDOW_DAYS = 56
RECENCY_DAYS = 14.0  # a day so long ago counts half
MINIMUM_DAYS = 7
NORMAL_90 = 1.6449
CONFIDENCE = 0.90
MOST_EXPECTED, MOST_HIGH = 4.0, 16.0  # times the best recent day: a launch's first days do not go on for ever
SMALLEST_SPREAD = 1e-6  # demand that is the same every day leaves no noise to measure


class Forecast(Record, frozen=True, kw_only=True):
    """Per coming day: expected amount and the bounds of a 90 % interval."""

    expected: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Backtest(Record, frozen=True, kw_only=True):
    """Forecasts made in the past against what came. Errors are sums of |error| over sums of amounts."""

    forecasts: int
    error: float
    naive_error: float  # "as on the same weekday of the last week"
    coverage: float  # share of days inside the interval, before widening
    factor: float  # what intervals must be widened by to hold 90 %


def forecast(amounts: Array, *, first_weekday: int = 0, factor: float = 1.0) -> Forecast | None:
    """`amounts`: float64, shape (days,), oldest first. None where there is too little to go by.

    Days before the first demand are no demand that grew: a launch of yesterday is not forecast at all.
    """
    recent = np.trim_zeros(amounts[-WINDOW_DAYS:], "f")
    if len(recent) < MINIMUM_DAYS or recent.sum() <= 0:
        return None
    expected, spread = _ahead(recent, (first_weekday + len(amounts) - len(recent)) % decay.WEEK_DAYS)
    best = float(recent.max())
    expected, margin = np.minimum(expected, MOST_EXPECTED * best), NORMAL_90 * factor * spread
    return Forecast(
        expected=tuple(expected.tolist()),
        low=tuple((expected * np.exp(-margin)).tolist()),
        high=tuple(np.minimum(expected * np.exp(margin), MOST_HIGH * best).tolist()),
    )


def _ahead(recent: Array, first_weekday: int) -> tuple[Array, Array]:
    """Expected amounts of the coming days, and the standard errors of their logarithms."""
    ages = np.arange(len(recent))[::-1]
    fit = decay.fit(recent, first_weekday=first_weekday, weights=0.5 ** (ages / RECENCY_DAYS))
    days = np.arange(len(recent), len(recent) + HORIZON_DAYS, dtype=np.float64)
    noise = np.log1p(fit.dispersion / np.maximum(fit.expected(days), 1.0))
    spread = np.maximum(np.sqrt(fit.log_error(days) ** 2 + noise), SMALLEST_SPREAD)
    certainty = max(0.0, 1.0 - (fit.rate_error / fit.rate) ** 2) if fit.rate else 0.0
    fit.coefficients[0] += fit.rate * (1 - certainty) * (len(recent) - 1 - fit.centre) * 0.5
    fit.coefficients[1] *= certainty
    return fit.expected(days), spread


def backtest(series: Sequence[Array], *, first_weekday: int = 0, origins: int = 4) -> Backtest | None:
    """Forecasts from `origins` past days, a horizon apart, for every series that had begun by then."""
    scores, errors, naive, total = [], 0.0, 0.0, 0.0
    for amounts in series:
        for step in range(1, origins + 1):
            cut = len(amounts) - step * HORIZON_DAYS
            past, came = amounts[: max(cut, 0)], amounts[cut : cut + HORIZON_DAYS]
            made = forecast(past, first_weekday=first_weekday)
            if made is None or len(past) < 2 * decay.WEEK_DAYS:
                continue
            expected, high = np.array(made.expected), np.array(made.high)
            scores.append(np.abs(np.log((came + 0.5) / (expected + 0.5))) / np.log(high / expected))
            errors += float(np.abs(came - expected).sum())
            naive += float(np.abs(came - np.tile(past[-decay.WEEK_DAYS :], 2)).sum())
            total += float(came.sum())
    if not scores or total <= 0:
        return None
    pooled = np.concatenate(scores)
    return Backtest(
        forecasts=len(scores),
        error=errors / total,
        naive_error=naive / total,
        coverage=float((pooled <= 1).mean()),
        factor=float(max(0.5, np.quantile(pooled, CONFIDENCE))),
    )
