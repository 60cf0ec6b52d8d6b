"""What a container lets its process take, from files as the kernel shows them."""

from pathlib import Path

import psutil
import pytest

from loaders import allowance
from loaders.device import Device

GIB = 1 << 30


def group(folder: Path, files: allowance.Files, limit: int | str, usage: int, idle: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / files.limit).write_text(f"{limit}\n")
    (folder / files.usage).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon {usage}\n{files.idle} {idle}\n")


def left(root: Path, membership: str) -> int | None:
    (root / "self").write_text(membership)
    return allowance.left_bytes(root, root / "self")


def test_a_containers_limit_counts_less_what_the_page_cache_could_give_back(tmp_path: Path) -> None:
    group(tmp_path, allowance.UNIFIED, 16 * GIB, 6 * GIB, idle=2 * GIB)
    assert left(tmp_path, "0::/\n") == 12 * GIB


def test_the_narrowest_group_around_it_counts(tmp_path: Path) -> None:
    group(tmp_path / "pod", allowance.UNIFIED, 8 * GIB, GIB)
    group(tmp_path / "pod/one", allowance.UNIFIED, "max", GIB)
    assert left(tmp_path, "0::/pod/one\n") == 7 * GIB


def test_the_former_generation_is_understood(tmp_path: Path) -> None:
    group(tmp_path / "memory", allowance.FORMER, 4 * GIB, GIB, idle=GIB)
    assert left(tmp_path, "5:cpu,cpuacct:/x\n4:memory:/docker/of/the/machine\n0::/\n") == 4 * GIB


@pytest.mark.parametrize("membership", ["", "0::/nowhere\n", "4:memory:/\n"])
def test_without_a_limit_there_is_nothing_to_say(tmp_path: Path, membership: str) -> None:
    assert left(tmp_path, membership) is None
    assert allowance.left_bytes(tmp_path, tmp_path / "no such file") is None


def test_a_device_has_no_more_than_its_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "left_bytes", lambda: 12345)
    assert Device("cpu").free_bytes() == 12345
    monkeypatch.setattr(allowance, "left_bytes", lambda: None)
    assert Device("cpu").free_bytes() <= psutil.virtual_memory().total


def cores(root: Path, membership: str, quotas: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> int:
    """On a machine of eight."""
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda process: list(range(8)))
    for name, text in quotas.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "self").write_text(membership)
    return allowance.cores(root, root / "self")


FORMER_QUOTA, FORMER_PERIOD = "cpu/x/cpu.cfs_quota_us", "cpu/x/cpu.cfs_period_us"
QUOTAS = [
    pytest.param("0::/\n", {}, 8, id="no limit"),
    pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, 8, id="no limit, said"),
    pytest.param("0::/\n", {"cpu.max": "200000 100000\n"}, 2, id="two cores"),
    pytest.param("0::/\n", {"cpu.max": "350000 100000\n"}, 3, id="three and a half: the half is the other threads'"),
    pytest.param("0::/\n", {"cpu.max": "50000 100000\n"}, 1, id="half a core"),
    pytest.param("0::/\n", {"cpu.max": "6400000 100000\n"}, 8, id="more than there are"),
    pytest.param("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3, id="of a group above"),
    pytest.param("0::/\n", {"cpu.max": "many\n"}, 8, id="what nobody understands"),
    pytest.param("4:cpu,cpuacct:/x\n", {FORMER_QUOTA: "200000\n", FORMER_PERIOD: "100000\n"}, 2, id="former"),
    pytest.param("4:cpu,cpuacct:/x\n", {FORMER_QUOTA: "-1\n", FORMER_PERIOD: "100000\n"}, 8, id="former, no limit"),
]  # fmt: skip


@pytest.mark.parametrize(("membership", "quotas", "expected"), QUOTAS)
def test_as_many_cores_count_as_the_container_gives_time_for(
    tmp_path: Path,
    membership: str,
    quotas: dict[str, str],
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert cores(tmp_path, membership, quotas, monkeypatch) == expected


def test_a_device_runs_on_no_more_cores_than_its_container_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(allowance, "cores", lambda: 3)
    monkeypatch.setattr("torch.set_num_threads", told.append)
    Device("cpu").use_all_cores()
    assert told == [3]
