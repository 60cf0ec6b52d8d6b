"""Demand decays, survives a restart, and run times are learned."""

import math

import numpy as np
import pytest

from registry.catalog import Digest
from router.demand import FAST, FAST_SECONDS, SLOW, Demand, RunTimes, units_of

DAY = 86400.0
FLUX, SDXL = Digest("flux"), Digest("sdxl")


def test_a_rate_is_in_busy_seconds():
    demand = Demand(0.0)
    for second in range(3000):
        demand.note(FLUX, 4.0, float(second) + 1)
    assert demand.busy_rate(FLUX, 3000.0) == pytest.approx(4.0, rel=0.02)
    assert demand.request_rates(3000.0, SLOW)[0] == pytest.approx(1.0, rel=0.02), "a young sum is not diluted"


def test_what_nobody_asks_for_fades_at_its_scale():
    demand = Demand(0.0)
    demand.note(FLUX, 4.0, 1000.0)
    before, after = (demand.busy_rate(FLUX, at, FAST) for at in (1e6, 1e6 + FAST_SECONDS))
    assert after == pytest.approx(before / math.e)
    assert demand.busy_rate(SDXL, 1000.0) == 0.0


def test_a_restart_is_not_an_amnesia():
    demand = Demand(0.0)
    demand.note(FLUX, 4.0, 100.0)
    demand.note(SDXL, 2.0, 200.0)
    again = Demand.load(demand.save(300.0))
    for scale in (FAST, SLOW):
        assert np.allclose(demand.busy_rates(400.0, scale), again.busy_rates(400.0, scale))


def test_a_clock_that_is_put_back_adds_nothing_and_stops_nothing():
    demand = Demand(0.0)
    demand.note(FLUX, 4.0, 10 * DAY)
    demand.note(FLUX, 4.0, 3 * DAY)
    again = Demand.load(demand.save(3 * DAY))
    for known in (demand, again):
        assert known.busy_rate(FLUX, 3 * DAY) == pytest.approx(8.0 / FAST_SECONDS)


def test_no_run_is_expected_to_take_longer_than_a_month():
    times = RunTimes()
    for units, seconds in ((1.0, 1.0), (10.0, 1e4)) * 40:
        times.learn(FLUX, units, seconds)
    assert times.estimate(FLUX, 1e6) == pytest.approx(30 * DAY), "four more digits for each"


def test_run_times_start_at_the_prior_and_follow_what_happens():
    times = RunTimes({FLUX: 10.0})
    assert times.estimate(FLUX, 2.0) == pytest.approx(20.0)
    for _ in range(50):
        times.learn(FLUX, 1.0, 4.0, host_speed=0.5)
    assert times.estimate(FLUX, 1.0) == pytest.approx(2.0, rel=0.05), "4 s on a host of half speed"


@pytest.mark.parametrize(
    ("values", "units"),
    [
        ({}, 1.0),
        ({"num_inference_steps": 14}, 0.5),
        ({"num_images": 4, "image_size": {"width": 512, "height": 512}}, 1.0),
        ({"width": 2048, "height": 1024}, 2.0),
        ({"num_frames": 81}, 81.0),
        ({"num_inference_steps": 1e308}, 1e6),
        ({"num_inference_steps": 1e308, "num_images": 1e308}, 1e6),
        ({"num_inference_steps": 1e-308, "num_images": 1e-308, "width": 1e308, "height": 1e308}, 1e-3),
        ({"num_images": "many", "num_inference_steps": -3, "image_size": "square_hd"}, 1.0),
    ],
)
def test_an_input_has_a_size(values, units):
    assert units_of(values) == pytest.approx(units)
