"""One architecture, built once: its modules, the pipelines over them, and a run of a bound version.

Touches torch and diffusers. Modules are shared by all versions of the architecture; the thin pipeline object with
tokenizers and scheduler is made per set of assets. Every run works on its own copy of that object with a fresh
scheduler, so that nothing of one run is seen by the next.
"""

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from cachetools import LRUCache

from loaders.errors import ArchitectureError, InputError
from loaders.pipelines import arguments, modules
from registry.catalog import Manifest

if TYPE_CHECKING:
    import torch

KEPT_PIPELINES = 16  # tokenizers are tens of megabytes, and nearly each variant has assets of its own
WRONG_GENERATOR = "device type for generator but found 'cpu'"  # torch's words
OnStep = Callable[["Step"], None]  # raises to stop the run

_drawing_on_device: set[type] = set()  # what was found out about classes


class Step(msgspec.Struct, frozen=True):
    """A step that was finished: what the scheduler was given and what it made of it."""

    number: int  # 1 for the first
    steps: int
    scheduler: Any
    given: Mapping[str, Any]  # its `step`'s arguments by name
    result: Any

    @property
    def latents(self) -> Any:
        """What the next step begins with."""
        return self.result[0] if isinstance(self.result, tuple) else self.result.prev_sample

    def outcome(self) -> Any:
        """The scheduler's own idea of what the latents will be without noise, else the latents."""
        if isinstance(self.result, tuple):
            expected = self.result[1] if len(self.result) > 1 else None
        else:
            expected = getattr(self.result, "pred_original_sample", None)
        if getattr(expected, "shape", None) == self.latents.shape:
            return expected
        return self._along_the_flow() if _is_flow(self.scheduler) else self.latents

    def _along_the_flow(self) -> Any:
        """A flow's velocity leads straight to its end."""
        sigma = self.scheduler.sigmas[self.scheduler.step_index - 1].item()
        return self.given["sample"] - sigma * self.given["model_output"]


class Built:
    """The modules of one architecture. Used by one thread at a time."""

    def __init__(
        self, manifest: Manifest, configs: Mapping[str, Mapping[str, Any]], device: "torch.device"
    ) -> None:
        self.pipeline_class = modules.class_of("diffusers", manifest.pipeline_class)
        self.slots = {
            component.name: modules.build(component, configs[component.name], device)
            for component in manifest.components
        }
        self.device = device
        self._pipelines: LRUCache[tuple[Path, str], Any] = LRUCache(KEPT_PIPELINES)

    def pipeline(self, folder: Path, kind: Any = None) -> Any:
        """The pipeline over these modules whose tokenizers and scheduler lie in `folder`.

        `kind` is a class that takes other inputs than the version's own: image to image, inpainting.
        """
        kind = kind or self.pipeline_class
        key = (folder, kind.__name__)
        found = self._pipelines.get(key)
        if found is None:
            found = self._pipelines[key] = self._assemble(kind, folder)
        return found

    def _assemble(self, kind: Any, folder: Path) -> Any:
        from diffusers.utils import logging

        logging.disable_progress_bar()
        given = {**_absent(folder), **{role: slots.module for role, slots in self.slots.items()}}
        try:
            made = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, **given)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
            raise ArchitectureError(
                f"{kind.__name__} cannot be put together from its assets: {error}"
            ) from error
        made.set_progress_bar_config(disable=True)
        return made


def _absent(folder: Path) -> dict[str, None]:
    """Parts that the index says are left out: some classes insist on being told so."""
    index = msgspec.json.decode((folder / "model_index.json").read_bytes(), type=dict[str, Any])
    return {role: None for role, value in index.items() if value == [None, None]}


def run(pipeline: Any, call: arguments.Call, *, on_step: OnStep) -> Any:
    """The pipeline's output. What `on_step` raises ends the run. Raises `InputError` for arguments it refuses.

    Noise is drawn on the CPU, so that a seed is the same picture on any device; by the device where a class insists,
    as some on a GPU do. What is known of a class changes no bits: the run that counts is always of one kind.
    """
    kind = type(pipeline)
    if kind not in _drawing_on_device:
        try:
            return _run(pipeline, call, on_step, "cpu")
        except RuntimeError as error:
            if WRONG_GENERATOR not in str(error):
                raise
        _drawing_on_device.add(kind)
    return _run(pipeline, call, on_step, pipeline.device)


def _run(pipeline: Any, call: arguments.Call, on_step: OnStep, drawing: Any) -> Any:
    import torch

    own = fresh(pipeline, on_step)
    generator = torch.Generator(drawing).manual_seed(call.seed)
    try:
        with torch.inference_mode(False), torch.no_grad(), _seeded(call.seed):
            return own(**_near(pipeline, call.arguments), generator=generator)
    except (ValueError, TypeError) as error:
        if _is_argument_check(error):
            raise InputError(str(error)) from error
        raise


def _near(pipeline: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Sounds on the pipeline's device: some classes give them to their weights as they come."""
    import torch

    return {
        name: value.to(pipeline.device) if isinstance(value, torch.Tensor) else value
        for name, value in given.items()
    }


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """For what draws without the run's generator: some schedulers and autoencoders. Afterwards all is as it was."""
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        yield


def fresh(pipeline: Any, on_step: OnStep) -> Any:
    """A copy for one run: modules and tokenizers shared, schedulers its own and watched."""
    own = copy.copy(pipeline)
    for name, part in pipeline.components.items():
        if hasattr(part, "set_timesteps") and hasattr(part, "step"):
            setattr(own, name, _watched(copy.deepcopy(part), on_step))
    return own


def _watched(scheduler: Any, on_step: OnStep) -> Any:
    """Tells of each step. The scheduler is the one thing that every denoising loop calls once a step."""
    step, done = scheduler.step, 0
    signature = inspect.signature(step)

    @functools.wraps(step)
    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        result = step(*args, **kwargs)
        done += 1
        given = signature.bind(*args, **kwargs).arguments
        on_step(Step(done, max(done, len(scheduler.timesteps)), scheduler, given, result))
        return result

    scheduler.step = watched
    return scheduler


def _is_flow(scheduler: Any) -> bool:
    config = scheduler.config
    return bool(
        "FlowMatch" in type(scheduler).__name__
        or config.get("use_flow_sigmas")
        or config.get("prediction_type") == "flow_prediction"
    )


def _is_argument_check(error: Exception) -> bool:
    """True when the pipeline's own `check_inputs` or signature refused the call, before any step."""
    trace = error.__traceback__
    depth = 0
    while trace is not None:
        if trace.tb_frame.f_code.co_name in {"check_inputs", "check_image_input"}:
            return True
        depth += 1
        trace = trace.tb_next
    return isinstance(error, TypeError) and depth <= 2
