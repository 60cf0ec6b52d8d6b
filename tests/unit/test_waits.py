from typing import Any

import pytest

from registry.catalog import OrganizationName, Slug, Variant
from registry.defaults import LONGEST_WAIT
from router import limits
from router.requests import RequestId
from router.waits import Waits

BATCHER, SINGLE, THIRD = (OrganizationName(name) for name in ("batcher", "single", "third"))


def batch() -> Waits:
    waits = Waits()
    for number in range(100):
        waits.add(RequestId(f"b{number}"), BATCHER, 10.0)
    waits.add(RequestId("t"), THIRD, 10.0)
    return waits


@pytest.mark.parametrize(
    ("organization", "priority", "hosts", "seconds"),
    [
        pytest.param(
            BATCHER, "normal", 10, 101.0, id="a batch waits for itself, and never longer than for all"
        ),
        pytest.param(SINGLE, "normal", 10, 0.0, id="a newcomer waits for no batch"),
        pytest.param(THIRD, "normal", 10, 2.0, id="its own wait, as many times as there are who share"),
        pytest.param(SINGLE, "low", 10, 101.0, id="low priority waits for everybody"),
        pytest.param(BATCHER, "normal", 0, 0.0, id="without hosts nobody can say"),
    ],
)
def test_the_expected_wait_is_the_callers_own(organization, priority, hosts, seconds):
    assert batch().expected_seconds(organization, priority, hosts) == pytest.approx(seconds)
    assert batch().crowd(hosts).expected_seconds(organization, priority) == pytest.approx(seconds)


def test_what_waits_no_more_is_forgotten():
    waits = batch()
    for number in range(100):
        waits.remove(RequestId(f"b{number}"))

    waits.check_integrity()
    assert waits.expected_seconds(BATCHER, "normal", 1) == 0.0
    assert waits.expected_seconds(THIRD, "normal", 1) == 10.0


@pytest.mark.parametrize(("own", "bound"), [(2, 2.0), (0.5, 0.5), ("abc", 9.0), (None, 9.0), (True, 9.0)])
def test_a_variants_own_bound_counts_where_it_is_a_number(own: Any, bound: float) -> None:
    variant = Variant(
        slug=Slug("acme/toys"),
        model="acme/toys",
        task="text-to-image",
        input_schema={},
        defaults={LONGEST_WAIT: own},
    )
    assert limits.longest_wait(variant, 9.0) == bound
