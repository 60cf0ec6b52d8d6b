"""Answers `registry.examination`: builds a model from its configs without weights, and compares names and shapes.

A process of its own (`python -m loaders.examiner`: `ready`, then a verdict a line on stdout for a question a line on stdin), because
configs are strangers': one that asks for a giant may cost this process its memory limit, and nobody else anything.
It reads no files and knows no network.
"""

import functools
import os
import re
import resource
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from loaders import adapters
from loaders.assembly import warm_up
from loaders.errors import AdapterFormatError, ArchitectureError, LoaderError
from loaders.pipelines import modules
from loaders.pipelines.modules import Slots
from registry.catalog import Component, FileRef
from registry.examination import Lora, Part, Question, Shapes, Verdict

MEMORY_BYTES = 12 << 30  # private memory; modules on the meta device need little of it
KEPT = 4  # models built last, so that many adapters of one base build it once
NUMBER = re.compile(r"\d+")


def examine(question: Question) -> Verdict:
    """What does not fit is a verdict, not an exception."""
    try:
        if question.lora is not None:
            return _adapter(question, question.lora)
        return Verdict(unexamined=tuple(_check_parts(question.parts)))
    except (LoaderError, _Misfit) as error:
        name = "ConfigMismatchError" if isinstance(error, _Misfit) else type(error).__name__
        return Verdict(error=name, message=str(error))


class _Misfit(Exception):  # noqa: N818  never leaves this module
    """Weights and config disagree."""


# Versions


def _check_parts(parts: Iterable[Part]) -> Iterator[str]:
    """Names the parts of which nothing can be said. Raises `_Misfit`, `ArchitectureError`."""
    for part in parts:
        if not _is_known(part) or not _fits(part, _built(msgspec.json.encode(_without_shapes(part)))):
            yield part.name


def _is_known(part: Part) -> bool:
    try:
        modules.class_of(part.library, part.class_name)
    except ArchitectureError:
        return False
    return True


def _without_shapes(part: Part) -> Part:
    return msgspec.structs.replace(part, shapes={})


@functools.lru_cache(maxsize=KEPT * 4)
def _built(encoded: bytes) -> Slots:
    import torch

    part = msgspec.json.decode(encoded, type=Part)
    nothing = FileRef(path="config.json", size_bytes=0, sha256="")
    component = Component(
        name=part.name, library=part.library, class_name=part.class_name, config=nothing, weights=()
    )
    return modules.build(component, part.config, torch.device("cpu"))


def _fits(part: Part, slots: Slots) -> bool:
    """False when the names are of another release's layout, which the library itself translates at loading."""
    shapes = _renamed(part.shapes, slots.module)
    try:
        names = slots.names_for(frozenset(shapes))
    except ArchitectureError as error:
        if _is_translated(slots.module):
            return False
        raise _Misfit(f"{part.name}: {error}") from error
    for slot, name in sorted(names.items()):
        expected, given = slots.shapes[slot], tuple(shapes[name])
        if expected != given:
            raise _Misfit(
                f"{part.name}: {name} has the shape {list(given)}; its config makes it {list(expected)}"
            )
    for stray in sorted(_strays(shapes, names.values(), slots.module)):
        raise _Misfit(f"{part.name}: its config knows no {stray}")
    return True


def _renamed(shapes: Shapes, module: Any) -> Shapes:
    """As diffusers renames older attention blocks; it only moves keys, so shapes do as well as tensors."""
    mend = getattr(module, "_fix_state_dict_keys_on_load", None)
    given = dict(shapes)
    if mend is not None:
        mend(given)
    return given


def _is_translated(module: Any) -> bool:
    """Whether transformers merges or splits weights of this class while it loads them."""
    if not hasattr(module, "base_model_prefix"):
        return False
    from transformers import conversion_mapping, core_model_loading

    changes = conversion_mapping.get_model_conversion_mapping(module)
    return any(not isinstance(change, core_model_loading.WeightRenaming) for change in changes)


def _strays(shapes: Shapes, taken: Iterable[str], module: Any) -> set[str]:
    """Weights that the config has no place for. Text encoders are often cut out of larger models: theirs may stay."""
    if hasattr(module, "base_model_prefix"):
        return set()
    ignored = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    left = set(shapes) - set(taken)
    return {name for name in left if not any(re.search(pattern, name) for pattern in ignored)}


# Adapters


def _adapter(question: Question, lora: Lora) -> Verdict:
    """Raises `AdapterFormatError`, `AdapterMismatchError`."""
    import torch

    if unknown := tuple(part.name for part in question.parts if not _is_known(part)):
        return Verdict(unexamined=unknown)
    try:
        pipeline_class = modules.class_of("diffusers", question.pipeline_class)
    except ArchitectureError:
        return Verdict(unexamined=tuple(part.name for part in question.parts))
    slots = {part.name: _built(msgspec.json.encode(_without_shapes(part))) for part in question.parts}
    one = torch.ones(())  # shown in every shape: conversions look at shapes alone, so no memory is needed
    tensors = {name: one.expand(tuple(shape)) for name, shape in lora.shapes.items()}
    try:
        parsed = adapters.parse(
            tensors, lora.metadata, pipeline_class, {role: found.module for role, found in slots.items()}
        )
    except (RuntimeError, ValueError, KeyError, IndexError, msgspec.MsgspecError) as error:
        raise AdapterFormatError(f"the LoRA's layout is not known: {_first_line(error)}") from error
    adapters.check(parsed, {role: found.shapes for role, found in slots.items()})
    layers = [name.removesuffix(".weight") for part in parsed.pairs.values() for name in part]
    return Verdict(
        rank=parsed.rank, layout=_layout(lora.shapes), target_modules=tuple(sorted(set(map(_target, layers))))
    )


def _layout(shapes: Mapping[str, Any]) -> Any:
    is_kohya = any("lora_down" in name or name.startswith("lora_") for name in shapes)
    return "kohya" if is_kohya else "diffusers"


def _target(layer: str) -> str:
    """A layer's name within its block: `to_q`, `to_out.0`."""
    *_, owner, leaf = ("", *layer.split("."))
    return f"{owner}.{leaf}" if NUMBER.fullmatch(leaf) and owner else leaf


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


# The process


def main() -> None:
    """Until stdin ends. What libraries print goes to stderr."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warm_up()
    answers.write(b"ready\n")
    for line in sys.stdin.buffer:
        verdict = examine(msgspec.json.decode(line, type=Question))
        answers.write(msgspec.json.encode(verdict) + b"\n")


if __name__ == "__main__":
    main()
