"""Whether an architecture's blocks run compiled: off, on, or found out by its first request and remembered.

Touches torch's caches through `artefacts`. Called on the device thread. The first request in `auto` is run as it is,
then compiled (the very first run of a process is slow in any case), then in pairs of one each against the clock until
they agree; it gets the result of the way that is kept, so that it has the bytes which all later ones have. A verdict
that is on disk, or that a host of the pool has, is taken over with its code.
"""

import contextlib
import statistics
from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from loaders import kernels
from loaders.artefacts import Artefacts, Parcel, Verdict
from loaders.errors import OutOfMemoryError
from loaders.pipelines.blocks import Blocks
from loaders.pipelines.built import Built
from registry.catalog import Digest
from registry.settings import CompileMode

log = structlog.get_logger("marquee.compiling")

LEAST_GAIN = 1.05  # below, compiling is not worth its start
LEAST_SHARE = 0.75  # of the pairs that has to gain so much
LEAST_PAIRS, MOST_PAIRS = 3, 9  # of runs that are compared: one is a matter of luck
TRIAL_SECONDS = (
    30.0  # a request that finds out waits no longer for another pair; long runs differ less by chance
)

T = TypeVar("T")
Timed = tuple[T, float]  # a run's result and its seconds
Pair = tuple[float, float]  # seconds of neighbouring runs, plain and compiled


class Compiler:
    """One device's compiled code."""

    def __init__(self, mode: CompileMode, artefacts: Artefacts, *, backend: str = "inductor") -> None:
        self._mode = mode
        self.artefacts = artefacts
        self._backend = backend
        self._blocks: dict[Digest, Blocks] = {}
        self._verdicts: dict[Digest, Verdict] = {}
        self._saved: dict[Digest, int] = {}  # how many graphs there were

    def run(self, architecture: Digest, built: Built, attempt: Callable[[], Timed[T]]) -> Timed[T]:
        """`attempt` runs the pipeline once; it may be called several times."""
        if self._mode == "off":
            return attempt()
        if architecture not in self._blocks:
            modules = [slots.module for slots in built.slots.values()]
            self._blocks[architecture] = Blocks(modules, backend=self._backend)
        blocks = self._blocks[architecture]
        if not blocks.found:
            return attempt()
        verdict = self._verdicts.get(architecture) or self._known(architecture)
        if verdict is None:
            return self._try_out(architecture, blocks, attempt)
        if not verdict.is_compiled:
            return attempt()
        try:
            made = _one(blocks, attempt, is_compiled=True)
        except Exception as error:
            if not _is_of_compiler(error):
                raise
            self._verdicts[architecture] = _refused(error)
            return attempt()
        self._save(architecture)
        return made

    def said(self, architecture: Digest) -> dict[str, str]:
        verdict = self._verdicts.get(architecture)
        return {} if verdict is None else {"compiled": verdict.reason}

    def _known(self, architecture: Digest) -> Verdict | None:
        """What is on disk or with a peer, its code ready to be used; for `on` there is nothing to find out."""
        import torch

        parcel = None
        try:
            parcel = self.artefacts.load(architecture)
            if parcel is not None and parcel.code:
                kernels.install(parcel.libraries)
                torch.compiler.load_cache_artifacts(parcel.code)
        except OSError as error:  # then it is compiled again
            log.warning("compiled code cannot be used", error=str(error))
        verdict = parcel.verdict if parcel is not None and parcel.verdict.is_found_out else None
        if self._mode == "on":
            verdict = Verdict(is_compiled=True, reason="asked for by the settings")
        if verdict is not None:
            self._verdicts[architecture] = verdict
        return verdict

    def _try_out(self, architecture: Digest, blocks: Blocks, attempt: Callable[[], Timed[T]]) -> Timed[T]:
        made = {False: attempt()}
        pairs: list[Pair] = []
        try:
            made[True] = _one(blocks, attempt, is_compiled=True)
            while not is_settled(pairs):
                pairs.append(_pair(blocks, attempt, compiled_first=len(pairs) % 2 == 0))
        except OutOfMemoryError:  # a new try with each request would fail each of them
            self._verdicts[architecture] = Verdict(is_compiled=False, reason="compiled runs found no memory")
            return made[False]
        except Exception as error:
            if not _is_of_compiler(error):
                raise  # a cancel: nothing was found out
            verdict = _refused(error)
        else:
            verdict = judge(pairs)
        self._verdicts[architecture] = verdict
        self._save(architecture)
        return made[verdict.is_compiled]

    def _save(self, architecture: Digest) -> None:
        """When something was compiled since the last time."""
        import torch

        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]  # noqa: SLF001
        if self._saved.get(architecture) == graphs:
            return
        self._saved[architecture] = graphs
        verdict = self._verdicts[architecture]
        found = torch.compiler.save_cache_artifacts() if verdict.is_compiled else None
        try:
            parcel = Parcel(verdict, b"") if found is None else Parcel(verdict, found[0], kernels.used())
            self.artefacts.save(architecture, parcel)
        except OSError as error:  # the request is done all the same
            log.warning("compiled code is not kept", error=str(error))


def _refused(error: Exception) -> Verdict:
    return Verdict(is_compiled=False, reason=f"{type(error).__name__} in compiling")


def _one(blocks: Blocks, attempt: Callable[[], Timed[T]], *, is_compiled: bool) -> Timed[T]:
    with blocks.compiled() if is_compiled else contextlib.nullcontext():
        return attempt()


def _pair(blocks: Blocks, attempt: Callable[[], Timed[T]], *, compiled_first: bool) -> Pair:
    """Which of the two is first takes turns, so that neither gains by a machine that slows down."""
    seconds = {
        is_compiled: _one(blocks, attempt, is_compiled=is_compiled)[1]
        for is_compiled in (compiled_first, not compiled_first)
    }
    return seconds[False], seconds[True]


def is_settled(pairs: Sequence[Pair]) -> bool:
    """Enough pairs, all on one side of the bar; or no more time for others."""
    if len(pairs) >= MOST_PAIRS or sum(map(sum, pairs)) >= TRIAL_SECONDS:
        return True
    sides = {plain / compiled >= LEAST_GAIN for plain, compiled in pairs}
    return len(pairs) >= LEAST_PAIRS and len(sides) == 1


def judge(pairs: Sequence[Pair]) -> Verdict:
    """By the pairs' own gains: what slows both runs of a pair counts for neither. Pairs that disagree speak against it."""
    gains = [plain / compiled for plain, compiled in pairs]
    gain = statistics.median(gains)
    pays = sum(one >= LEAST_GAIN for one in gains) >= LEAST_SHARE * len(gains)
    said = f"compiled runs were {gain:.2f} times as fast, by {len(pairs)} pairs"
    plain, compiled = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    return Verdict(
        is_compiled=pays,
        reason=said if pays else f"{said}, which does not pay",
        seconds={"plain": plain, "compiled": compiled},
    )


def _is_of_compiler(error: Exception) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
