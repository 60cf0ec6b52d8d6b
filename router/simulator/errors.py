"""Errors of the simulator.

SimulatorError
├── ScenarioError        a scenario file says something that cannot be simulated
├── TraceMissingError    a scenario wants a trace that is not there
└── PlotsMissingError    plots are wanted where matplotlib is not installed
"""

from pathlib import Path


class SimulatorError(Exception):
    """Root of the simulator's errors."""


class ScenarioError(SimulatorError):
    """A scenario cannot be read; the message names the place. Correct the file."""


class TraceMissingError(SimulatorError):
    """The trace is not in the folder given: pass `--trace DIR` or set MARQUEE_TRACES."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"no trace at {path}: pass --trace DIR or set MARQUEE_TRACES")
        self.path = path


class PlotsMissingError(SimulatorError):
    """Said before anything is simulated: install the extra `sim`, or leave `--plots` away."""

    def __init__(self) -> None:
        super().__init__("plots need matplotlib: pip install 'marquee[sim]', or leave --plots away")
