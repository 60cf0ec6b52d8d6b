"""Where the catalogue that Marquee comes with lies: at the top of a checkout, or inside an installed wheel. IO: looks.

A wheel carries `catalog.yaml` and the starter models that it names, at the same places beside each other, because
`tools/packing.py` copies them there when it is built.
"""

from pathlib import Path

FILE = "catalog.yaml"
FOLDER = "shipped_files"  # of a wheel, in this package
HERE = Path(__file__).resolve().parent


def catalog(package: Path = HERE) -> Path:
    """The catalogue file; one in a checkout wins, so that an edit there is an edit."""
    checkout = package.parent / FILE
    return checkout if checkout.exists() else package / FOLDER / FILE
