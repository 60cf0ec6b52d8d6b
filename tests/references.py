"""What diffusers itself makes of a call: the yardstick that the engine has to meet to the bit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from loaders import intake
from loaders.pipelines.built import Built
from loaders.retrieval import Retrieval


class Loaded(Built):
    """A pipeline that `from_pretrained` made, its weights in fresh (so 64-byte aligned) memory."""

    def __init__(self, folder: Path, pipeline_class: str) -> None:
        self.pipeline_class = getattr(diffusers, pipeline_class)
        self._own = self.pipeline_class.from_pretrained(folder, local_files_only=True)
        _align(self._own)

    def pipeline(self, folder: Path, kind: Any = None) -> Any:
        if kind in {None, self.pipeline_class}:
            return self._own
        return kind.from_pretrained(folder, local_files_only=True, **self._own.components)


def run(
    folder: Path,
    pipeline_class: str,
    values: Mapping[str, Any],
    defaults: Mapping[str, Any],
    lora: Path | None = None,
) -> Any:
    """The result's arrays. A LoRA is applied as PEFT does it, beside the weights."""
    loaded = Loaded(folder, pipeline_class)
    if lora is not None:
        loaded.pipeline(folder).load_lora_weights(str(lora.parent), weight_name=lora.name)
    own = intake.chosen(loaded, folder, values)
    media = intake.gather(values, Retrieval(), rate=intake.sample_rate(own))
    taken = intake.take_in(loaded, own, media, values, defaults)
    taken.pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(taken.call.seed)
    with torch.no_grad():
        return arrays(taken.pipeline(**taken.call.arguments, generator=generator))


def arrays(result: Any) -> Any:
    for name in ("images", "frames", "audios"):
        if (found := getattr(result, name, None)) is not None:
            return np.asarray(found)
    raise AssertionError(f"{type(result).__name__} holds nothing known")


def _align(pipeline: Any) -> None:
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            for tensor in [*part.parameters(), *part.buffers()]:
                tensor.data = tensor.data.clone()
