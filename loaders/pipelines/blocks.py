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
        kinds = [(module, repeated(module)) for module in modules]
        self.found = [block for _, blocks in kinds for block in blocks]
        self._listed = {id(block) for module, blocks in kinds if _listed(module) for block in blocks}
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
                # A class that diffusers has looked at has whole graphs; any other may break off and go on.
                block.compile(fullgraph=id(block) in self._listed, dynamic=False, backend=self._backend)
                self._code.append(block._compiled_call_impl)  # noqa: SLF001
        try:
            for block, code in zip(self.found, self._code, strict=True):
                block._compiled_call_impl = code  # noqa: SLF001
            yield
        finally:
            for block in self.found:
                block._compiled_call_impl = None  # noqa: SLF001


def repeated(module: Any) -> list[Any]:
    """As diffusers names them for each class, else the outermost lists of parts of one kind; nothing of autoencoders.

    Text encoders run once a request, and autoencoders once as well: their compilation would take longer than it saves.
    """
    if listed := _listed(module):
        return [part for part in module.modules() if type(part).__name__ in listed]
    return list(_outermost(module)) if is_denoiser(module) else []


def _listed(module: Any) -> tuple[str, ...]:
    return tuple(getattr(module, "_repeated_blocks", None) or ())


def is_denoiser(module: Any) -> bool:
    from diffusers import ModelMixin

    return isinstance(module, ModelMixin) and not hasattr(module, "decode")


def _outermost(module: Any) -> Iterator[Any]:
    import torch

    for child in module.children():
        if isinstance(child, torch.nn.ModuleList) and _is_of_blocks(child):
            yield from child
        else:
            yield from _outermost(child)


def _is_of_blocks(parts: Any) -> bool:
    """Of one class, each more than a layer."""
    return len({type(part) for part in parts}) == 1 and any(parts[0].children())
