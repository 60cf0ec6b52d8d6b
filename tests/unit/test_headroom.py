"""What a run takes beside its weights: a prior, then what was measured, larger outputs in proportion."""

from typing import Any

import pytest

from loaders.headroom import Headroom, pixels
from registry.catalog import Digest

FLUX, OTHER = Digest("sha256:f"), Digest("sha256:o")


def test_the_prior_is_a_share_of_the_weights_until_a_run_was_measured() -> None:
    known = Headroom()
    assert known.expected(FLUX, 4096, weight_bytes=1000) == 100
    known.learn(FLUX, 4096, 700)
    assert known.expected(FLUX, 4096, weight_bytes=1000) == 700
    assert known.expected(OTHER, 4096, weight_bytes=1000) == 100


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(2000, 600, id="measured itself"),
        pytest.param(4000, 1200, id="twice the largest below"),
        pytest.param(500, 600, id="smaller than all: what the others take"),
        pytest.param(0, 600, id="the pipeline's own size, unknown"),
    ],
)
def test_other_sizes_follow_from_the_nearest_below(asked: int, expected: int) -> None:
    known = Headroom()
    known.learn(FLUX, 1000, 400)
    known.learn(FLUX, 2000, 600)
    assert known.expected(FLUX, asked, weight_bytes=1000) == expected


def test_a_peak_that_does_not_come_again_fades() -> None:
    known = Headroom()
    for peak_bytes in (1000, 100, 100):
        known.learn(FLUX, 1, peak_bytes)
    assert known.expected(FLUX, 1, weight_bytes=0) == 810


@pytest.mark.parametrize(
    ("arguments", "count", "expected"),
    [
        ({"width": 64, "height": 32}, 2, 4096),
        ({"width": 64, "height": 32, "num_frames": 5}, 1, 10240),
        ({"prompt": "a cat"}, 4, 0),
    ],
)
def test_pixels_are_those_of_all_frames_and_pictures(
    arguments: dict[str, Any], count: int, expected: int
) -> None:
    assert pixels(arguments, count) == expected
