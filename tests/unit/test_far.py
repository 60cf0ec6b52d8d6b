"""No tensor meets one of another device, whatever a request asks for: the mistake that only a GPU finds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.far import CASES

REFUSED = [
    "Expected all tensors to be on the same device, but found at least two devices, far:0 and cpu! (aten::mm)",
    "Expected a 'far' device type for generator but found 'cpu'",
    "can't convert far tensor to numpy",
    [[1.0, 1.0]],  # indices may be a CPU's
]


@pytest.mark.slow
def test_nothing_is_left_on_the_cpu(tmp_path: Path) -> None:
    """In a process of its own, which has a second kind of device from then on."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.far", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = json.loads(done.stdout.splitlines()[-1])
    assert outcomes == {"refused": REFUSED, **dict.fromkeys(CASES, "finished")}
    assert torch._C._get_privateuse1_backend_name() == "privateuseone", "and this one has not"
