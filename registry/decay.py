"""An exponential fitted to daily amounts: level, daily rate, weekly rhythm, and how sure we may be. Pure.

Quasi-Poisson regression with a log link: amounts may be counts, seconds or money, days without any are welcome, and
only "variance grows with the mean" is assumed of the noise. Standard errors are of the sandwich kind with leverage
correction (HC2), widened by the residuals' day-to-day correlation; so neither bursts nor slow drifts feign certainty.
It refuses to say what a fit means: `halflife` and `forecasts` do.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
WEEK_DAYS = 7
RHYTHM_DAYS = 14  # from two weeks on, weekdays get factors of their own
RHYTHM_PRIOR = 0.5  # pseudo-observations that hold a weekday's factor near 1
STEPS = 60
TOLERANCE = 1e-9


class Fit:
    """E[amount on day t] = exp(level + rate·(t - centre) + weekday). Days count from the series' first."""

    def __init__(self, coefficients: Array, covariance: Array, *, centre: float, first_weekday: int) -> None:
        self.coefficients = coefficients
        self.covariance = covariance
        self.centre = centre
        self.first_weekday = first_weekday
        self.dispersion = 1.0
        self.correlation = 0.0
        self.degrees = 1

    @property
    def rate(self) -> float:
        """Change of the logarithm per day; negative while demand fades."""
        return float(self.coefficients[1])

    @property
    def rate_error(self) -> float:
        return float(np.sqrt(self.covariance[1, 1]))

    def expected(self, days: Array) -> Array:
        """Shape (days,): the fitted curve, weekly rhythm included."""
        return np.asarray(np.exp(self._columns(days) @ self.coefficients))

    def trend(self, days: Array) -> Array:
        """Shape (days,): the fitted curve without the weekly rhythm, at the level of a mean day."""
        rhythm = np.exp(self._rhythm() @ self.coefficients[2:]).mean() if len(self.coefficients) > 2 else 1.0
        return np.asarray(np.exp(self.coefficients[0] + self.coefficients[1] * (days - self.centre)) * rhythm)

    def log_error(self, days: Array) -> Array:
        """Shape (days,): standard error of the logarithm of `expected`."""
        columns = self._columns(days)
        return np.asarray(np.sqrt(np.einsum("ij,jk,ik->i", columns, self.covariance, columns)))

    def _rhythm(self) -> Array:
        return _weekday_columns(np.arange(WEEK_DAYS, dtype=np.float64), self.first_weekday)

    def _columns(self, days: Array) -> Array:
        has_rhythm = len(self.coefficients) > 2
        return columns(days, centre=self.centre, first_weekday=self.first_weekday, rhythm=has_rhythm)


def fit(amounts: Array, *, first_weekday: int = 0, weights: Array | None = None) -> Fit:
    """`amounts`: float64, shape (days,), not all zero. `first_weekday` of day 0; `weights` per day, 1 if not given."""
    days = np.arange(len(amounts), dtype=np.float64)
    weights = np.ones_like(amounts) if weights is None else weights
    centre = float(np.average(days, weights=weights))
    design = columns(days, centre=centre, first_weekday=first_weekday, rhythm=len(amounts) >= RHYTHM_DAYS)
    prior = np.zeros(design.shape[1])
    prior[2:] = RHYTHM_PRIOR * max(float(np.average(amounts, weights=weights)), 1e-12)
    coefficients = _regress(design, amounts, weights, prior)
    return _with_errors(coefficients, design, amounts, weights, prior, centre, first_weekday)


def columns(days: Array, *, centre: float, first_weekday: int, rhythm: bool) -> Array:
    """Shape (days, 2 or 8): constant, centred day, and six contrasts for seven weekdays."""
    plain = np.column_stack([np.ones_like(days), days - centre])
    return np.hstack([plain, _weekday_columns(days, first_weekday)]) if rhythm else plain


def _weekday_columns(days: Array, first_weekday: int) -> Array:
    weekday = (days.astype(np.int64) + first_weekday) % WEEK_DAYS
    contrasts = np.vstack([np.eye(WEEK_DAYS - 1), -np.ones(WEEK_DAYS - 1)])
    return np.asarray(contrasts[weekday])


def _regress(design: Array, amounts: Array, weights: Array, prior: Array) -> Array:
    """Iteratively reweighted least squares; each step is bounded, so that empty days cannot throw it off."""
    coefficients = np.zeros(design.shape[1])
    coefficients[0] = np.log(np.average(amounts, weights=weights))
    for _ in range(STEPS):
        mean = np.exp(np.clip(design @ coefficients, -50, 50))
        slope = design.T @ (weights * (amounts - mean)) - prior * coefficients
        curve = design.T @ (design * (weights * mean)[:, None]) + np.diag(prior)
        step = np.clip(np.linalg.solve(curve + 1e-12 * np.eye(len(prior)), slope), -1.0, 1.0)
        coefficients = coefficients + step
        if np.abs(step).max() < TOLERANCE:
            break
    return coefficients


def _with_errors(
    coefficients: Array,
    design: Array,
    amounts: Array,
    weights: Array,
    prior: Array,
    centre: float,
    first_weekday: int,
) -> Fit:
    mean = np.exp(np.clip(design @ coefficients, -50, 50))
    bread = np.linalg.pinv(design.T @ (design * (weights * mean)[:, None]) + np.diag(prior))
    leverage = np.clip(weights * mean * np.einsum("ij,jk,ik->i", design, bread, design), 0, 0.95)
    surprise = weights * (amounts - mean) / np.sqrt(1 - leverage)
    meat = design.T @ (design * (surprise**2)[:, None])
    pearson = (amounts - mean) / np.sqrt(np.maximum(mean, 1e-12))
    correlation = _correlation(pearson)
    found = Fit(
        coefficients,
        bread @ meat @ bread * (1 + correlation) / (1 - correlation),
        centre=centre,
        first_weekday=first_weekday,
    )
    found.degrees = max(1, len(amounts) - design.shape[1])
    found.dispersion = float(np.average(pearson**2 / (1 - leverage), weights=weights))
    found.correlation = correlation
    return found


def _correlation(residuals: Array) -> float:
    """Correlation of neighbouring days' residuals; negative values would only narrow the errors and count as none."""
    spread = float(residuals @ residuals)
    if len(residuals) < WEEK_DAYS or spread <= 0:
        return 0.0
    return float(np.clip(residuals[1:] @ residuals[:-1] / spread, 0.0, 0.9))
