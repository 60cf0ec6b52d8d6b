"""What a wheel carries beside the packages: the catalogue file and the starter models, so that `marquee up` has a picture
to make wherever it is installed. Run by setuptools (`pyproject.toml`), which imports it from the source tree. IO.
"""

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py

SHIPPED = ("catalog.yaml", "starter/models", "starter/loras", "starter/MODEL_CARD.md")
WITHIN = "registry/shipped_files"  # `registry/shipped.py` looks there


class BuildWithStarter(build_py):
    """An editable installation reads the checkout's own files."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            copy(Path(), Path(self.build_lib) / WITHIN)


def copy(source: Path, target: Path) -> None:
    """Anew: what an earlier build left there may have been removed since."""
    shutil.rmtree(target, ignore_errors=True)
    for name in SHIPPED:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        whole = source / name
        (shutil.copytree if whole.is_dir() else shutil.copy)(whole, target / name)
