"""Regional compilation: the blocks that a denoiser repeats, compiled once and used when asked to.

Touches torch. Weights are guarded by shape, not by address, so variants and merged LoRAs swap under compiled code.
Shapes are static: code for many sizes would be the code of whichever size came first, and the same request would not
give the same bits after another history. It refuses to decide whether compiling pays.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

GRAPHS = 1024  # of one block: sizes times rank buckets; torch's own limit is 8, after which it fails


class Blocks:
    """The repeated blocks of some modules. Compiled lazily, at each one's first call of a new shape."""

    def __init__(self, modules: Iterable[Any], *, backend: str = "inductor") -> None:
        self.found = [block for module in modules for block in _repeated(module)]
        self._backend = backend
        self._code: list[Any] = []

    @contextmanager
    def compiled(self) -> Iterator[None]:
        """The blocks run compiled for the length of the block, and as they are afterwards."""
        import torch

        if not self._code:
            # What else a C++ compiler is asked at each start: can it make code for this CPU, and the headers once for all.
            torch._inductor.config.cpp.vec_isa_ok = True  # noqa: SLF001
            torch._dynamo.config.recompile_limit = GRAPHS  # noqa: SLF001  the documented place of this switch
            torch._dynamo.config.accumulated_recompile_limit = GRAPHS * 8  # noqa: SLF001
            for block in self.found:
                block.compile(fullgraph=True, dynamic=False, backend=self._backend)
                self._code.append(block._compiled_call_impl)  # noqa: SLF001
        try:
            for block, code in zip(self.found, self._code, strict=True):
                block._compiled_call_impl = code  # noqa: SLF001
            yield
        finally:
            for block in self.found:
                block._compiled_call_impl = None  # noqa: SLF001


def _repeated(module: Any) -> list[Any]:
    """As diffusers names them for each class; none for classes that it has not looked at."""
    names = getattr(module, "_repeated_blocks", None) or ()
    return [part for part in module.modules() if type(part).__name__ in names]
