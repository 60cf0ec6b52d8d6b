"""On synthetic demand whose half-life is known, and at the edges where no honest figure exists."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from registry import decay, halflife
from registry.decay import Array

SEEDS = 20
RHYTHM = np.array([1.15, 1.2, 1.2, 1.1, 1.0, 0.7, 0.65])
Noise = Callable[[np.random.Generator, Array], Array]


def poisson(rng: np.random.Generator, mean: Array) -> Array:
    return rng.poisson(mean).astype(float)


def bursts(rng: np.random.Generator, mean: Array) -> Array:
    return rng.negative_binomial(8, 8 / (8 + mean)).astype(float)


def money(rng: np.random.Generator, mean: Array) -> Array:
    return mean * np.exp(rng.normal(0, 0.3, len(mean)) - 0.045)


def drifting(rng: np.random.Generator, mean: Array) -> Array:
    """Days resemble their neighbours: the kind of noise that makes plain errors too small."""
    drift = np.zeros(len(mean))
    for day in range(1, len(mean)):
        drift[day] = 0.6 * drift[day - 1] + rng.normal(0, 0.2)
    return rng.poisson(mean * np.exp(drift)).astype(float)


def fading(seed: int, half_life: float, noise: Noise, days: int = 120) -> tuple[Array, int]:
    rng, day = np.random.default_rng(seed), np.arange(days)
    mean = 400 * 2 ** (-day / half_life) * RHYTHM[(day + seed) % 7]
    return noise(rng, mean), seed % 7


@pytest.mark.parametrize("half_life", [15, 30, 60])
def test_known_half_lives_are_found_within_a_tenth(half_life: float) -> None:
    for noise in (poisson, bursts, money, drifting):
        found = [
            halflife.demand(amounts, first_weekday=weekday).days
            for amounts, weekday in (fading(seed, half_life, noise) for seed in range(SEEDS))
        ]
        assert np.median([days for days in found if days]) == pytest.approx(half_life, rel=0.1)


def test_the_90_percent_intervals_hold_in_85_to_95_percent() -> None:
    held = []
    for half_life in (15, 30, 60):
        for noise in (poisson, bursts, money):
            for seed in range(SEEDS):
                amounts, weekday = fading(seed, half_life, noise)
                found = halflife.demand(amounts, first_weekday=weekday)
                held.append((found.low or np.inf) <= half_life <= (found.high or np.inf))
    assert 0.85 <= np.mean(held) <= 0.95


def test_what_came_before_the_peak_does_not_count() -> None:
    amounts, weekday = fading(3, 30, poisson)
    ramp = np.linspace(5, 300, 21)
    found = halflife.demand(np.r_[ramp, amounts], first_weekday=weekday)
    assert found.days == pytest.approx(30, rel=0.1)
    assert 18 <= found.peak_day <= 28


@pytest.mark.parametrize(
    ("amounts", "reason"),
    [
        (np.zeros(0), "0 days since its peak"),
        (np.r_[np.zeros(30), np.full(10, 50.0)], "days since its peak"),
        (np.r_[20.0, np.zeros(60)], "since its peak, 30 are needed"),
    ],
)
def test_too_little_is_said_to_be_too_little(amounts: Array, reason: str) -> None:
    found = halflife.demand(amounts)
    assert (found.verdict, found.days) == ("not enough data", None)
    assert reason in found.reason


def test_steady_demand_has_no_half_life() -> None:
    found = halflife.demand(np.random.default_rng(1).poisson(100 * RHYTHM[np.arange(200) % 7]).astype(float))
    assert found.days is None or found.days > 200
    assert found.high is None or found.high > 400


def test_a_week_of_rhythm_is_not_decay() -> None:
    found = halflife.demand(400.0 * RHYTHM[np.arange(28) % 7])
    assert found.verdict != "fading" or (found.days or 0) > 365


def test_weekday_factors_are_found() -> None:
    day = np.arange(84)
    fit = decay.fit(400 * 2 ** (-day / 30) * RHYTHM[day % 7])
    expected = fit.expected(day[:7].astype(float)) / fit.trend(day[:7].astype(float))
    np.testing.assert_allclose(expected, RHYTHM / RHYTHM.mean(), rtol=0.03)


def replaced(seed: int, half_life: float, days: int = 365, size: int = 5) -> Array:
    """A set of `size` leaders; each day each is replaced by a newcomer with the hazard that the half-life means."""
    rng = np.random.default_rng(seed)
    amounts, leaders, newest = np.zeros((2000, days)), list(range(size)), size
    for day in range(days):
        for place in range(size):
            if rng.random() < 1 - 2 ** (-1 / half_life):
                leaders[place], newest = newest, newest + 1
        amounts[leaders, day] = rng.poisson(1000, size)
    return amounts[:newest]


@pytest.mark.parametrize("half_life", [15, 30, 60])
def test_the_turnover_of_a_top_five_is_found(half_life: float) -> None:
    found = [halflife.turnover(replaced(seed, half_life), 5) for seed in range(SEEDS)]
    assert np.median([one.days or np.inf for one in found]) == pytest.approx(half_life, rel=0.1)
    held = np.mean([(one.low or 0) <= half_life <= (one.high or np.inf) for one in found])
    assert 0.8 <= held <= 1.0


def test_a_set_that_keeps_its_members_has_no_turnover() -> None:
    found = halflife.turnover(np.arange(1.0, 11.0)[:, None] * np.ones(60), 5)
    assert (found.days, found.reason) == (None, "nobody left the set while we watched")


def test_a_short_absence_is_not_a_departure() -> None:
    row = np.array([True] * 10 + [False] * 3 + [True] * 10 + [False] * 20)
    assert halflife._stays(row) == [(0, 23, True)]
    assert halflife._stays(row[:26]) == [(0, 23, False)]


def test_survival_is_kaplan_meier() -> None:
    rng = np.random.default_rng(0)
    ends = np.bincount(rng.integers(1, 30, 80), minlength=40).astype(float)
    cut = np.bincount(rng.integers(1, 30, 40), minlength=40).astype(float)
    lengths = [np.repeat(np.arange(40), group.astype(int)) for group in (ends, cut)]
    data = stats.CensoredData(uncensored=lengths[0], right=lengths[1])
    reference = stats.ecdf(data).sf.evaluate(np.arange(40))
    np.testing.assert_allclose(halflife._survival(ends, cut), reference, atol=1e-12)
