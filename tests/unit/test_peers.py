import re

import pytest

from benchmarks import _peers

FILES = sorted(_peers.REQUIREMENTS.glob("*.txt"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_peers_packages_are_pinned_exactly_and_bring_no_torch(file):
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]

    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", line)] == []
    assert [line for line in lines if line.lower().startswith(("torch", "nvidia"))] == []


def test_what_cannot_be_installed_is_skipped_with_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "void.txt").write_text("no-such-thing @ file:///nowhere.whl\n")
    monkeypatch.setattr(_peers, "REQUIREMENTS", tmp_path)
    monkeypatch.setenv("BENCH_PEERS", str(tmp_path / "made"))

    assert _peers.python("void") is None
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("   skipped: void cannot be installed here: ERROR")


def test_rays_folder_is_short_and_its_settings_are_not_inherited(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")

    made = _peers.environment("/tmp/r1")

    assert {name: value for name, value in made.items() if name.startswith("RAY_")} == {
        "RAY_TMPDIR": "/tmp/r1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
