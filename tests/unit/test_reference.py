"""The reference says what the code says, and the README's tree names what is there."""

import gc
from collections.abc import Iterator

import pytest

from tools import reference


@pytest.fixture(autouse=True)
def no_finalizers() -> Iterator[None]:
    """CPython 3.11 gives up an AST when a finalizer of an earlier test's leftovers runs while it is built."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_the_reference_is_that_of_this_code():
    assert reference.FILE.read_text() == reference.text(), "run `make reference`"


def test_every_module_says_what_it_owns():
    paths = [path for package in reference.PACKAGES for path in (reference.ROOT / package).rglob("*.py")]
    assert [str(path) for path in paths if not reference.purpose(path)] == []


def test_the_readme_names_every_package_and_target():
    readme = (reference.ROOT / "README.md").read_text()
    assert [
        name for name in (*reference.PACKAGES, "make up", "make test", "catalog.yaml") if name not in readme
    ] == []
