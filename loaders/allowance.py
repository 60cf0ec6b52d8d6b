"""How much memory this process may still take, where it lives in a container: the machine's own figure knows no limit.

IO on the kernel's files alone, of both generations of control groups. What the page cache could give back counts as
free. Elsewhere than on Linux, and where nothing is limited, there is nothing to say.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


class Files(NamedTuple):
    """A group's files of one generation."""

    limit: str
    usage: str
    idle: str  # a line of memory.stat


UNIFIED = Files("memory.max", "memory.current", "inactive_file")
FORMER = Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def left_bytes(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int | None:
    """The least that any group around this process leaves; None where none limits it."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    found = (_left(folder, files) for folder, files in _groups(root, lines))
    return min((left for left in found if left is not None), default=None)


def _groups(root: Path, lines: list[str]) -> Iterator[tuple[Path, Files]]:
    """Its own and all above it. In a container the path may be the machine's, of which only the end is to be seen."""
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        base, files = (root / "memory", FORMER) if kinds else (root, UNIFIED)
        inner = base / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(base):
                yield folder, files


def _left(folder: Path, files: Files) -> int | None:
    try:
        limit, usage = ((folder / name).read_text().strip() for name in files[:2])
        stat = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - int(usage) + int(stat.get(files.idle, 0)))
    except (OSError, ValueError):  # "max" is no number: no limit
        return None
