import numpy as np
import pytest

from registry import cohorts, forecasts

RHYTHM = np.array([1.15, 1.2, 1.2, 1.1, 1.0, 0.7, 0.65])


def demand(seed: int, half_life: float, level: float = 300, days: int = 150) -> np.ndarray:
    rng, day = np.random.default_rng(seed), np.arange(days)
    mean = level * 2 ** (-day / half_life) * RHYTHM[day % 7]
    return rng.negative_binomial(10, 10 / (10 + mean)).astype(float)


def test_a_forecast_goes_on_with_the_decay_and_the_rhythm() -> None:
    day = np.arange(114)
    truth = 300 * 2 ** (-day / 30) * RHYTHM[day % 7]
    made = forecasts.forecast(truth[:100])
    assert made is not None
    np.testing.assert_allclose(made.expected, truth[100:], rtol=0.1)


def test_nothing_to_go_by_gives_no_forecast() -> None:
    assert forecasts.forecast(np.zeros(30)) is None
    assert forecasts.forecast(np.ones(3)) is None


def test_a_launch_of_yesterday_is_not_forecast() -> None:
    assert forecasts.forecast(np.r_[np.zeros(362), 1000, 1000, 1000]) is None


@pytest.mark.parametrize("days", [1, 2, 3, 7, 14])
def test_one_try_before_a_launch_makes_no_rocket_of_it(days: int) -> None:
    made = forecasts.forecast(np.r_[np.zeros(300), 1, np.zeros(30), np.full(days, 1000.0)])
    assert made is not None
    assert max(made.expected) <= 4000
    assert max(made.high) <= 16_000


def test_demand_that_never_changes_narrows_nobodys_interval() -> None:
    series = [demand(seed, 15 * (1 + seed % 4)) for seed in range(24)]
    alone, together = (
        forecasts.backtest(series),
        forecasts.backtest([*series, np.full(365, 288.0), np.ones(365)]),
    )
    assert alone is not None
    assert together is not None
    assert together.factor == pytest.approx(alone.factor, rel=0.2)


def test_forecasts_beat_last_week_and_their_intervals_hold_once_widened() -> None:
    series = [demand(seed, 15 * (1 + seed % 4)) for seed in range(24)]
    score = forecasts.backtest(series)
    assert score is not None
    assert score.error < score.naive_error
    came = [demand(seed + 500, 30, days=114) for seed in range(24)]
    held = []
    for amounts in came:
        made = forecasts.forecast(amounts[:100], factor=score.factor)
        assert made is not None
        held.append((amounts[100:] >= np.floor(made.low)) & (amounts[100:] <= np.ceil(made.high)))
    assert np.mean(held) >= 0.85


def test_nobody_to_score_gives_no_backtest() -> None:
    assert forecasts.backtest([]) is None
    assert forecasts.backtest([np.zeros(200)]) is None


def test_cohorts_follow_the_share_of_the_peak() -> None:
    launches = [
        cohorts.Launch(cohort="2026-03", amounts=1000 * 2.0 ** (-np.arange(60 + extra) / 20))
        for extra in range(4)
    ]
    (curve,) = cohorts.curves(launches)
    assert (curve.members, len(curve.median)) == (4, 55)
    assert curve.median[20] == pytest.approx(0.5)


def test_a_cohort_of_two_tells_nothing() -> None:
    assert cohorts.curves([cohorts.Launch(cohort="2026-03", amounts=np.ones(30))] * 2) == ()


def test_retention_counts_who_came_back() -> None:
    assert cohorts.retention({"a": [0, 1, 2], "b": [0, 2], "c": [1]}) == {0: [1.0, 0.5, 1.0], 1: [1.0, 0.0]}
    assert cohorts.retention({}) == {}
