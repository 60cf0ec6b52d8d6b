"""The shared libraries that torch's C++ backend made: those this process uses, and others put where torch looks first.

IO on torch's own cache folder. Torch's artefacts hold the code of a CPU's kernels as text and would compile it again
at each new host; a library that lies in its place already is taken as it is. It refuses to know whose they are.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from loaders import whole

SUFFIX = ".so"
MAPS = Path("/proc/self/maps")  # elsewhere than on Linux nothing is found, and torch compiles again


def used() -> dict[str, bytes]:
    """Path below torch's cache folder → content, of what is loaded into this process."""
    folder = _folder()
    found: dict[str, bytes] = {}
    for path in _loaded():
        if path.is_relative_to(folder) and path.suffix == SUFFIX:
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def install(libraries: Mapping[str, bytes]) -> None:
    """What is there already stays: it may be in use."""
    folder = _folder()
    for name, content in libraries.items():
        inner = PurePosixPath(name)
        if inner.is_absolute() or ".." in inner.parts or inner.suffix != SUFFIX:
            continue  # signed by our own pool, and yet: nothing is written outside
        path = folder / inner
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            whole.write(path, content)


def _folder() -> Path:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir()).resolve()


def _loaded() -> set[Path]:
    try:
        lines = MAPS.read_text().splitlines()
    except OSError:
        return set()
    places = (line.split(maxsplit=5)[5:] for line in lines)
    return {Path(place[0]) for place in places if place and place[0].startswith("/")}
