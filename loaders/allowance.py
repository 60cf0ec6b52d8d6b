"""What memory and cores this process may take, where it lives in a container: the machine's own figures know no limit.

IO on the kernel's files alone, of both generations of control groups. What the page cache could give back counts as
free. Elsewhere than on Linux, and where nothing is limited, there is nothing to say.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

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
    found = (
        _left(folder, FORMER if is_former else UNIFIED)
        for folder, is_former in _groups(root, lines, "memory")
    )
    return min((left for left in found if left is not None), default=None)


def cores(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """How many threads are worth having: more than the quota of the narrowest group only wait for their share."""
    usable = len(psutil.Process().cpu_affinity())
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return usable
    quotas = (_quota(folder, is_former=is_former) for folder, is_former in _groups(root, lines, "cpu"))
    least = min((quota for quota in quotas if quota is not None), default=float(usable))
    return max(1, min(usable, int(least)))


def _groups(root: Path, lines: list[str], kind: str) -> Iterator[tuple[Path, bool]]:
    """Its own and all above it, and whether they are of the former generation.

    In a container the path may be the machine's, of which only the end is to be seen.
    """
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and kind not in kinds.split(","):
            continue
        base = root / kind if kinds else root
        inner = base / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(base):
                yield folder, bool(kinds)


def _quota(folder: Path, *, is_former: bool) -> float | None:
    """Cores' worth of time; None without a limit ("max", or -1 in the former generation)."""
    try:
        if is_former:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        else:
            quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else None
    except (OSError, ValueError):
        return None


def _left(folder: Path, files: Files) -> int | None:
    try:
        limit, usage = ((folder / name).read_text().strip() for name in files[:2])
        stat = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - int(usage) + int(stat.get(files.idle, 0)))
    except (OSError, ValueError):  # "max" is no number: no limit
        return None
