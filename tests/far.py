"""Tensors that say they are on another device, and refuse to meet those that are not. For tests alone.

Torch itself compares devices only where there is a second one. Here `far` is that: each tensor wraps one on the CPU, whose
kernels do the work, so the bits are the CPU's; but an operation that is given tensors of both kinds fails as it fails on
a GPU, and so does one that draws with a generator of the CPU's.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from loaders import adapters, ways
from loaders.running import Finished
from registry import folders
from tests import architectures, bench
from tests.architectures.calls import CALLS, picture_uri, sound_uri
from tests.pretend import Pretend, PretendDevice

NAME = "far"
CROSSING = ("aten::_to_copy", "aten::copy_", "aten::to.")  # what may see both
INDEXING = (
    "aten::index.",
    "aten::index_put",
    "aten::_index_put",
    "aten::_unsafe_index",
)  # by indices of the CPU's


class Far(torch.Tensor):
    """Wraps `near`."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls: Any, near: torch.Tensor) -> Any:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )
        made.near = near.detach()
        return made

    @property
    def data(self) -> Any:  # type: ignore[override]
        return Far(self.near)

    @data.setter
    def data(self, value: Any) -> None:
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.near = value.near

    def data_ptr(self) -> int:
        return self.near.data_ptr()

    def untyped_storage(self) -> Any:
        return self.near.untyped_storage()

    def tolist(self) -> Any:
        return self.near.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert far tensor to numpy")

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Far({self.near!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carried_out(func, args, kwargs or {})


def _carried_out(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = str(func.name()) if hasattr(func, "name") else str(func)
    flat = pytree.tree_leaves((args, kwargs))
    tensors = [one for one in flat if isinstance(one, torch.Tensor)]
    near = [one for one in tensors if not isinstance(one, Far) and one.dim()]
    goes_far = any(isinstance(one, Far) for one in tensors) or _is_far(kwargs.get("device"))
    if goes_far and near and not name.startswith(CROSSING + INDEXING):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, far:0 and cpu! ({name})"
        )
    if goes_far and any(isinstance(one, torch.Generator) for one in flat):
        raise RuntimeError("Expected a 'far' device type for generator but found 'cpu'")
    target = kwargs.get("device")
    if _is_far(target):
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner_args, inner_kwargs = pytree.tree_map(
        lambda one: one.near if isinstance(one, Far) else one, (args, kwargs)
    )
    result = func(*inner_args, **inner_kwargs)
    if name.startswith("aten::_to_copy"):
        stays = isinstance(args[0], Far) if target is None else _is_far(target)
        return Far(result) if stays else result
    own = {id(one.near): one for one in tensors if isinstance(one, Far)}
    own |= {id(one): one for one in near}
    return pytree.tree_map(lambda one: _wrapped(one, own, goes_far=goes_far), result)


def _wrapped(one: Any, own: dict[int, Any], *, goes_far: bool) -> Any:
    if not isinstance(one, torch.Tensor):
        return one
    return own.get(id(one)) if id(one) in own else (Far(one) if goes_far else one)


def _is_far(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


RANGES = ("arange", "arange.start", "arange.start_step", "linspace", "full", "eye", "eye.m", "scalar_tensor")
_library: list[Any] = []


def install() -> torch.device:
    """Once a process, which is no use for anything else afterwards."""
    if not _library:
        _setup_privateuseone_for_python_backend(NAME)
        library = torch.library.Library("_", "IMPL")
        library.fallback(lambda func, *args, **kwargs: _carried_out(func, args, kwargs), "PrivateUse1")
        ranges = torch.library.Library("aten", "IMPL")
        for name in (
            RANGES
        ):  # torch would make them of an empty one, resized: a wrapper has the size it was made with
            ranges.impl(name, _made_near(name), "PrivateUse1")
        ranges.impl("copy_", _copied, "PrivateUse1")
        _library.extend((library, ranges))
        torch.get_device_module(NAME).get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
        torch.tensor = _tensor(torch.tensor)
    return torch.device(NAME, 0)


def _made_near(name: str) -> Any:
    packet, _, overload = name.partition(".")
    func = getattr(getattr(torch.ops.aten, packet), overload or "default")
    return lambda *args, **kwargs: Far(func(*args, **{**kwargs, "device": torch.device("cpu")}))


def _copied(target: Any, source: torch.Tensor, non_blocking: bool = False) -> Any:  # noqa: FBT001, FBT002  torch's own
    """For torch's own making of tensors of lists, which passes by those that wrap."""
    target.near.copy_(source.near if isinstance(source, Far) else source)
    return target


def _tensor(real: Any) -> Any:
    """It asks no dispatcher where it is to be."""

    def tensor(data: Any, *, device: Any = None, **kwargs: Any) -> Any:
        data = pytree.tree_map(lambda one: one.near if isinstance(one, Far) else one, data)
        return real(data, **kwargs).to(device) if _is_far(device) else real(data, device=device, **kwargs)

    return tensor


class FarAccelerator(Pretend):
    """Where tensors are on the device, and copies are there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.torch_device = install()

    def landing(self, size_bytes: int) -> torch.Tensor:
        return Far(super().landing(size_bytes))

    room = landing

    def send(self, source: torch.Tensor, target: torch.Tensor) -> Any:
        target.copy_(source)
        return There()


class There:
    def wait(self) -> None: ...
    def synchronize(self) -> None: ...


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "image to image": ("flux", {"image_url": picture_uri(), "strength": 0.8}),
    "LoRAs, kept, previews": ("flux", {"way": "kept", "previews": True, "num_inference_steps": 4}),
    "LoRAs, streamed, into 8 bits": ("flux", {"way": "streamed", "storage": "float8_e4m3fn"}),
    "a text encoder with a cache": ("z_image", {}),
    "sound": ("stable_audio", {"audio_url": sound_uri()}),
}
VARIANTS_OWN = ("storage", "dtype")


def main(root: Path) -> None:
    """Plays each case; prints what failed, by case, and what is refused."""
    outcomes: dict[str, Any] = {"refused": refusals()}
    for name, (family, more) in CASES.items():
        folder = root / family
        if not folder.exists():
            architectures.write(folder, family, seed=1)
        outcome = _played(root / "home", folder, family, more)
        outcomes[name] = "finished" if isinstance(outcome, Finished) else outcome.message
    sys.stdout.write(f"\n{json.dumps(outcomes)}\n")


def refusals() -> list[Any]:
    """What comes of mixing devices: otherwise no case could fail."""
    device, said = install(), []
    for act in (
        lambda: torch.ones(2, 2, device=device) @ torch.ones(2, 2),
        lambda: torch.rand(2, device=device, generator=torch.Generator()),
        lambda: torch.ones(2, device=device).numpy(),
        lambda: torch.ones(2, 2).to(device)[torch.tensor([1])].cpu().tolist(),
    ):
        try:
            said.append(act())
        except (RuntimeError, TypeError) as error:
            said.append(str(error))
    return said


def _played(home: Path, folder: Path, family: str, more: dict[str, Any]) -> Any:
    manifest, example = folders.read_pipeline(folder), CALLS[family]
    uses = {}
    if way := more.get("way"):
        files = [
            architectures.write_lora(home / f"{rank}.safetensors", folder, rank=rank) for rank in (4, 16)
        ]
        uses = {adapters.describe(file, architecture=manifest.architecture): 0.5 for file in files}
        ways.choose = lambda *_: ways.Choice(way=way, reason="told", seconds={})
    one = bench.Bench(home, 1 << 30, device=PretendDevice(FarAccelerator()))
    one.defaults = {name: more[name] for name in VARIANTS_OWN if name in more}
    bench.INPUT.clear()
    said = {name: value for name, value in more.items() if name not in (*VARIANTS_OWN, "way")}
    one.submit(manifest, uses, **{**example.defaults, **example.values, **said})
    outcome = one.outcome()
    one.engine.close()
    return outcome


if __name__ == "__main__":
    main(Path(sys.argv[1]))
