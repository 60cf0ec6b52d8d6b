"""Launches by month: which share of its peak demand a model still has at which age; and whether customers stay. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from registry import decay
from registry.catalog import Record
from registry.decay import Array

MINIMUM_MEMBERS = 3  # below this a curve would tell one model's story


class Launch(Record, frozen=True, kw_only=True):
    """A variant's demand since its launch day. `amounts`: float64, shape (days since launch,)."""

    cohort: str  # the launch's month: `2026-03`
    amounts: Array


class Curve(Record, frozen=True, kw_only=True):
    """One cohort: median and quartiles of the share of peak, per day of age, while enough members are that old."""

    cohort: str
    members: int
    median: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]


def curves(launches: Iterable[Launch]) -> tuple[Curve, ...]:
    grouped: dict[str, list[Array]] = defaultdict(list)
    for launch in launches:
        if len(launch.amounts) >= decay.WEEK_DAYS and launch.amounts.sum() > 0:
            grouped[launch.cohort].append(share_of_peak(launch.amounts))
    return tuple(
        _curve(cohort, shares) for cohort, shares in sorted(grouped.items()) if len(shares) >= MINIMUM_MEMBERS
    )


def share_of_peak(amounts: Array) -> Array:
    """Shape (days - 6,): weekly means over the best weekly mean; so weekdays and single days do not matter."""
    weekly = np.convolve(amounts, np.ones(decay.WEEK_DAYS) / decay.WEEK_DAYS, mode="valid")
    return np.asarray(weekly / weekly.max())


def _curve(cohort: str, shares: Sequence[Array]) -> Curve:
    age = sorted((len(share) for share in shares), reverse=True)[MINIMUM_MEMBERS - 1]
    padded = np.full((len(shares), age), np.nan)
    for row, share in zip(padded, shares, strict=True):
        row[: min(age, len(share))] = share[:age]
    lower, median, upper = np.nanquantile(padded, [0.25, 0.5, 0.75], axis=0)
    return Curve(
        cohort=cohort,
        members=len(shares),
        median=tuple(median.tolist()),
        lower=tuple(lower.tolist()),
        upper=tuple(upper.tolist()),
    )


def retention(months: Mapping[str, Sequence[int]]) -> Mapping[int, Sequence[float]]:
    """Customers by the month (as a running number) of their first call → share that called again, 0, 1, 2… months on."""
    firsts: dict[int, list[frozenset[int]]] = defaultdict(list)
    for active in months.values():
        firsts[min(active)].append(frozenset(active))
    last = max((max(active) for active in months.values()), default=0)
    return {
        first: [
            sum(first + later in active for active in group) / len(group) for later in range(last - first + 1)
        ]
        for first, group in sorted(firsts.items())
    }
