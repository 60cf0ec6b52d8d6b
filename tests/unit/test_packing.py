"""What is built from the source tree: a wheel that brings Marquee up where there is no checkout."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from registry import shipped
from tools import packing

ROOT = Path(__file__).parents[2]
SOURCES = ("registry", "loaders", "router", "migrations", "starter", "tools")
FILES = ("pyproject.toml", "README.md", "catalog.yaml", "constraints.txt", "Makefile", "MANIFEST.in")
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Unpacked, from a copy of the tree: setuptools leaves its traces beside what it builds."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "work"))
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-c", BUILD, str(built)], cwd=source, check=True, capture_output=True)
    (file,) = built.glob("*.whl")
    zipfile.ZipFile(file).extractall(built / "unpacked")
    return built / "unpacked"


def test_every_file_of_a_package_is_in_its_wheel(wheel):
    def files(root: Path) -> set[str]:
        found = (
            path
            for name in ("registry", "loaders", "router", "migrations")
            for path in (root / name).rglob("*")
        )
        return {
            str(path.relative_to(root))
            for path in found
            if path.is_file() and "__pycache__" not in path.parts and shipped.FOLDER not in path.parts
        } - {"registry/web/static/fonts/README.md"}

    assert files(wheel) == files(ROOT)


def test_a_wheel_holds_the_catalogue_and_the_models_that_it_names(wheel):
    within, here = shipped.catalog(wheel / "registry"), shipped.catalog()
    assert (within, here) == (wheel / "registry" / shipped.FOLDER / shipped.FILE, ROOT / shipped.FILE)
    assert contents(within.parent) == {
        name: content for part in packing.SHIPPED for name, content in contents(ROOT, part).items()
    }


def contents(root: Path, part: str = ".") -> dict[str, bytes]:
    whole = root / part
    files = [whole] if whole.is_file() else [path for path in whole.rglob("*") if path.is_file()]
    return {str(file.relative_to(root)): file.read_bytes() for file in files}
