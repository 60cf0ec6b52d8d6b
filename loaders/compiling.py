"""Whether an architecture's blocks run compiled: off, on, or found out by its first request and remembered.

Touches torch's caches through `artefacts`. Called on the device thread. The first request in `auto` is run as it is,
then compiled, then once more either way against the clock (the very first run of a process is slow in any case); it
gets the result of the way that is kept, so that it has the bytes which all later ones have. A verdict that is on disk, or that a host of the pool has, is taken over with its code.
"""

from collections.abc import Callable
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

T = TypeVar("T")
Timed = tuple[T, float]  # a run's result and its seconds


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
        with blocks.compiled():
            made = attempt()
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
        plain = attempt()
        try:
            with blocks.compiled():
                attempt()
                fast = attempt()
            settled = attempt()
        except OutOfMemoryError:  # a new try with each request would fail each of them
            self._verdicts[architecture] = Verdict(is_compiled=False, reason="compiled runs found no memory")
            return plain
        except Exception as error:
            if not _is_of_compiler(error):
                raise  # a cancel: nothing was found out
            verdict, made = Verdict(is_compiled=False, reason=f"{type(error).__name__} in compiling"), plain
        else:
            verdict = judge(min(plain[1], settled[1]), fast[1])
            made = fast if verdict.is_compiled else plain
        self._verdicts[architecture] = verdict
        self._save(architecture)
        return made

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


def judge(plain_seconds: float, compiled_seconds: float) -> Verdict:
    gain = plain_seconds / compiled_seconds
    pays = gain >= LEAST_GAIN
    return Verdict(
        is_compiled=pays,
        reason=f"compiled runs were {gain:.2f} times as fast" + ("" if pays else ", which does not pay"),
        seconds={"plain": plain_seconds, "compiled": compiled_seconds},
    )


def _is_of_compiler(error: Exception) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
