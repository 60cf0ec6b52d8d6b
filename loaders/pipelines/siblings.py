"""Which class of a family runs a call: the text-to-image class has siblings for a start image, a mask, a video.

Pure but for importing diffusers, whose own tables of tasks say who is related to whom. All siblings run over the same
modules, so an image-to-image call on a warm text-to-image model moves no weights.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from loaders.pipelines import names

TABLES = (  # diffusers' names, in the order of trying
    "AUTO_IMAGE2IMAGE_PIPELINES_MAPPING",
    "AUTO_INPAINT_PIPELINES_MAPPING",
    "AUTO_IMAGE2VIDEO_PIPELINES_MAPPING",
    "AUTO_VIDEO2VIDEO_PIPELINES_MAPPING",
)


def choose(pipeline_class: Any, media: Iterable[str], roles: Iterable[str]) -> Any:
    """The class itself when it takes all these media, else the first relative that does; else the class itself.

    `roles` are the parts there are; a relative that must have another one cannot be put together, unless the class
    itself is made to have that one too and goes without it (Stable Diffusion 3 without its T5).
    """
    wanted = tuple(media)
    if _takes_all(pipeline_class, wanted):
        return pipeline_class
    have = frozenset(roles) | _required(pipeline_class)
    fitting = (
        one for one in _relatives(pipeline_class) if _takes_all(one, wanted) and _required(one) <= have
    )
    return next(fitting, pipeline_class)


def _takes_all(pipeline_class: Any, wanted: tuple[str, ...]) -> bool:
    return all(names.place(names.taken(pipeline_class.__call__), wanted).values())


def _relatives(pipeline_class: Any) -> Iterator[Any]:
    from diffusers.pipelines import auto_pipeline

    tables: list[Mapping[str, Any]] = [getattr(auto_pipeline, name, {}) for name in TABLES]
    everyone = [*tables, *getattr(auto_pipeline, "SUPPORTED_TASKS_MAPPINGS", ())]
    families = {key for table in everyone for key, kind in table.items() if kind is pipeline_class}
    for table in tables:
        yield from (kind for key, kind in table.items() if key in families)


def _required(pipeline_class: Any) -> frozenset[str]:
    optional = frozenset(getattr(pipeline_class, "_optional_components", ()))
    return frozenset(
        name
        for name, parameter in inspect.signature(pipeline_class.__init__).parameters.items()
        if name != "self" and parameter.default is inspect.Parameter.empty and name not in optional
    )
