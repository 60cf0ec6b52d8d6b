"""Whether weights fit the configs beside them: what is asked, and what the answer looks like. Pure vocabulary.

Names and shapes come from checked headers; no weight is read. Who answers has the model libraries (`loaders.examiner`,
in a process of its own), so the registry imports none of them.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from registry.catalog import Record

Shapes = Mapping[str, tuple[int, ...]]


class Part(Record, frozen=True, kw_only=True):
    """One component: its class, its config, and the names and shapes in its files."""

    name: str
    library: str
    class_name: str
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]] = {}


class Lora(Record, frozen=True, kw_only=True):
    """An adapter's tensors, and what its header says beside them."""

    shapes: Shapes
    metadata: Mapping[str, str] = {}


class Question(Record, frozen=True, kw_only=True):
    """Without `lora`: do the parts fit their configs? With it: does it fit a model of these parts?"""

    pipeline_class: str
    parts: tuple[Part, ...]
    lora: Lora | None = None


class Verdict(Record, frozen=True, kw_only=True):
    """`error` names the refusal. `unexamined` are parts of which nothing can be said: their class is not known."""

    error: str | None = None
    message: str | None = None
    unexamined: tuple[str, ...] = ()
    rank: int | None = None
    layout: Literal["diffusers", "kohya"] | None = None
    target_modules: tuple[str, ...] = ()


class Examiner(Protocol):
    """Whoever can answer."""

    async def __call__(self, question: Question) -> Verdict: ...


async def nobody(question: Question) -> Verdict:
    """Where the model libraries are not installed: nothing is said of anything."""
    return Verdict(unexamined=tuple(part.name for part in question.parts))
