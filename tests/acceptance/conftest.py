"""Acceptance tests run the product as its users do."""

import contextlib
import subprocess

import pytest

from tests.product import Marquee


@pytest.fixture(scope="session")
def marquee(tmp_path_factory):
    """One running product for every test that does no harm to it."""
    product = Marquee(tmp_path_factory.mktemp("shared") / "home").start()
    yield product
    product.stop()


@pytest.fixture
def own_marquee(tmp_path):
    """Products of a test's own, for tests that kill things."""
    products = []

    def make(**options):
        product = Marquee(options.pop("home", tmp_path / f"home{len(products)}"), **options)
        products.append(product)
        return product

    yield make
    for product in products:
        if product.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                product.stop()
