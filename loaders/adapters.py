"""LoRAs: parsed once, checked against the base, merged into fresh copies of the weights they touch.

Touches torch and the pipeline classes' own conversions (diffusers/PEFT and kohya layouts); no cache. The
merge is computed from the originals every time and never undone by subtraction, which is not exact: letting go of
the merged copies and pointing back is.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from loaders import deltas
from loaders.errors import AdapterFormatError, AdapterMismatchError
from registry.catalog import AdapterManifest, Digest, FileRef, Slug, Source
from registry.folders import sha256_of

if TYPE_CHECKING:
    import torch

Place = tuple[str, str]  # role, weight
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
Use = tuple["Lora", float]  # an adapter and its scale
MAX_RANK = 1024  # all of a set's weights are padded to its largest: a narrow layer of a huge rank would fill the host
UNFORESEEN = (  # what conversions and numbers raise for files that nobody meant to be LoRAs
    ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, msgspec.MsgspecError,
)  # fmt: skip
UNSUPPORTED = {
    "lora_magnitude_vector": "a DoRA",
    "dora_scale": "a DoRA",
    "lokr_": "a LoKr",
    "hada_w": "a LoHa",
    "lora_B.bias": "a LoRA with biases",
}


class Pair(msgspec.Struct, frozen=True):
    """One layer's update: `factor` x `up` @ `down`. down: (rank, in, ...), up: (out, rank, ...), device of the base."""

    down: Any
    up: Any
    factor: float  # alpha / rank

    @property
    def size_bytes(self) -> int:
        return int(self.down.nbytes + self.up.nbytes)


class Lora(msgspec.Struct, frozen=True):
    """An adapter, parsed: per role in the pipeline and weight name (`transformer`, `…to_q.weight`), the update."""

    pairs: Mapping[str, Mapping[str, Pair]]
    arena: Any = None  # where all of them lie that were brought to a device together

    @property
    def size_bytes(self) -> int:
        return sum(pair.size_bytes for part in self.pairs.values() for pair in part.values())

    @property
    def rank(self) -> int:
        return max(int(pair.down.shape[0]) for part in self.pairs.values() for pair in part.values())


def describe(
    file: Path,
    *,
    architecture: Digest,
    base: str = "local/base",
    digest: Callable[[Path], str] = sha256_of,
) -> AdapterManifest:
    """A LoRA file on this machine, for a base that no catalogue has to list."""
    ref = FileRef(path=file.name, size_bytes=file.stat().st_size, sha256=digest(file))
    source = Source(kind="path", location=str(file.parent.absolute()))
    return AdapterManifest(source=source, weights=ref, base=Slug(base), architecture=architecture)


def parse(
    tensors: Mapping[str, "torch.Tensor"],
    metadata: Mapping[str, str],
    pipeline_class: Any,
    modules: Mapping[str, Any],
) -> Lora:
    """`modules` are the pipeline's parts by role. Raises `AdapterFormatError`, `AdapterMismatchError`."""
    try:
        return _parse(tensors, metadata, pipeline_class, modules)
    except UNFORESEEN as error:
        if "allocate memory" in str(error):
            raise
        raise AdapterFormatError(f"the LoRA's layout is not known: {_first_line(error)}") from error


def _parse(
    tensors: Mapping[str, "torch.Tensor"],
    metadata: Mapping[str, str],
    pipeline_class: Any,
    modules: Mapping[str, Any],
) -> Lora:
    _refuse_unsupported(tensors)
    converted, alphas = _convert(dict(tensors), pipeline_class, modules)
    settings = _settings(metadata)
    pairs: dict[str, dict[str, Pair]] = {}
    for role, module in modules.items():
        part = {k.removeprefix(f"{role}."): v for k, v in converted.items() if k.startswith(f"{role}.")}
        if part:
            role_alphas = {
                k.removeprefix(f"{role}."): v for k, v in alphas.items() if k.startswith(f"{role}.")
            }
            pairs[role] = _pair_up(part, role_alphas, settings.get(role, {}), module)
    stray = [key for key in converted if key.split(".", 1)[0] not in modules]
    if stray:
        raise AdapterMismatchError(f"the adapter changes {stray[0]!r}, which this model does not have")
    if not any(pairs.values()):
        raise AdapterFormatError("the file holds no LoRA weights")
    return Lora(pairs)


def check(lora: Lora, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> None:
    """Every update has a weight of its shape. `shapes`: role → weight → shape. Raises `AdapterMismatchError`."""
    for role, part in lora.pairs.items():
        for name, pair in part.items():
            have = shapes.get(role, {}).get(name)
            want = (pair.up.shape[0], *pair.down.shape[1:])
            if have is None:
                raise AdapterMismatchError(
                    f"the adapter changes {role}.{name}, which this model does not have"
                )
            if flat(have) != flat(want):
                raise AdapterMismatchError(
                    f"the adapter's {role}.{name} is made for shape {want}, this model's is {tuple(have)}"
                )


def touched(loras: Sequence[Lora]) -> Mapping[str, tuple[str, ...]]:
    """Role → weights that any of them changes, sorted."""
    names: dict[str, set[str]] = {}
    for lora in loras:
        for role, part in lora.pairs.items():
            names.setdefault(role, set()).update(part)
    return {role: tuple(sorted(found)) for role, found in sorted(names.items())}


def moved(lora: Lora, gathered: Callable[[Mapping[str, "torch.Tensor"]], Any]) -> Lora:
    """A copy in one arena elsewhere, which `gathered` makes of tensors by name."""
    pairs = {f"{role}/{name}": pair for role, part in lora.pairs.items() for name, pair in part.items()}
    downs = {f"{name}/down": pair.down for name, pair in pairs.items()}
    arena = gathered({**downs, **{f"{name}/up": pair.up for name, pair in pairs.items()}})

    def there(name: str, pair: Pair) -> Pair:
        return Pair(arena.views[f"{name}/down"], arena.views[f"{name}/up"], pair.factor)

    parts = lora.pairs.items()
    return Lora({r: {n: there(f"{r}/{n}", pair) for n, pair in part.items()} for r, part in parts}, arena)


def merge(
    originals: Mapping[Place, "torch.Tensor"],
    uses: Sequence[Use],
    rank: int,
    targets: Mapping[Place, "torch.Tensor"],
) -> None:
    """Writes original + Σ scale x update into each target. `rank` is the set's bucket (`deltas.bucket`)."""
    import torch

    with torch.no_grad():
        for (role, name), original in originals.items():
            rows, columns = flat(original.shape)
            down = torch.empty(rank, columns, device=original.device)
            up = torch.empty(rows, rank, device=original.device)
            deltas.fill(down, up, factors(uses, (role, name)))
            deltas.add(original, down, up, targets[role, name])


def factors(uses: Sequence[Use], place: Place) -> list[deltas.Factors]:
    """What each adapter of a set, in its order, does to one weight."""
    role, name = place
    found = [(lora.rank, lora.pairs.get(role, {}).get(name), scale) for lora, scale in uses]
    return [
        deltas.Factors(rank)
        if pair is None
        else deltas.Factors(rank, pair.down, pair.up, pair.factor * scale)
        for rank, pair, scale in found
    ]


def _refuse_unsupported(tensors: Mapping[str, Any]) -> None:
    for key in tensors:
        for mark, title in UNSUPPORTED.items():
            if mark in key:
                raise AdapterFormatError(f"the file holds {title} ({key}), which is not supported")


def _convert(
    tensors: dict[str, Any], pipeline_class: Any, modules: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Into diffusers' own names, by the pipeline class's own conversion."""
    if not hasattr(pipeline_class, "lora_state_dict"):
        raise AdapterMismatchError(f"{pipeline_class.__name__} takes no LoRA")
    options: dict[str, Any] = {}
    if "unet" in modules:
        options["unet_config"] = modules["unet"].config
    if "return_alphas" in inspect.signature(pipeline_class.lora_state_dict).parameters:
        options["return_alphas"] = True
    found = pipeline_class.lora_state_dict(tensors, **options)
    converted, alphas = found if isinstance(found, tuple) else (found, None)
    return dict(converted), {key: float(value) for key, value in (alphas or {}).items()}


def _settings(metadata: Mapping[str, str]) -> Mapping[str, Mapping[str, Any]]:
    """PEFT's own settings, which newer files carry, by role."""
    text = metadata.get("lora_adapter_metadata")
    if text is None:
        return {}
    by_role: dict[str, dict[str, Any]] = {}
    for key, value in msgspec.json.decode(text, type=dict[str, Any]).items():
        role, _, name = key.partition(".")
        by_role.setdefault(role, {})[name] = value
    return by_role


def _pair_up(
    part: Mapping[str, Any], alphas: Mapping[str, float], settings: Mapping[str, Any], module: Any
) -> dict[str, Pair]:
    """One role's tensors → weight name → update."""
    is_text = not hasattr(module, "load_lora_adapter")
    renamed = _peft_names(part, module, is_text=is_text)
    alpha_of = {
        key.removesuffix(DOWN): value
        for key, value in _peft_names(
            {key.removesuffix(".alpha"): value for key, value in alphas.items()}, module, is_text=is_text
        ).items()
    }
    pairs: dict[str, Pair] = {}
    for key, down in renamed.items():
        if not key.endswith(DOWN):
            continue
        layer = key.removesuffix(DOWN)
        up = renamed.get(layer + UP)
        if up is None or not _are_pair(down, up):
            raise AdapterFormatError(f"{layer} has no pair of weights of one rank")
        if down.shape[0] > MAX_RANK:
            raise AdapterFormatError(f"{layer} has the rank {down.shape[0]}; {MAX_RANK} are allowed")
        pairs[f"{layer}.weight"] = Pair(down, up, _factor(layer, down.shape[0], alpha_of, settings))
    left = [key for key in renamed if not key.endswith((DOWN, UP))]
    if left:
        raise AdapterFormatError(f"{left[0]} is no LoRA weight")
    return pairs


def _are_pair(down: Any, up: Any) -> bool:
    rank = int(down.shape[0]) if down.ndim > 1 else 0
    return rank > 0 and up.ndim > 1 and flat(up.shape)[1] == rank


def _peft_names(part: Mapping[str, Any], module: Any, *, is_text: bool) -> dict[str, Any]:
    from diffusers.utils import state_dict_utils as known

    if not is_text:
        first = next(iter(part), "")
        return dict(part) if "lora_A" in first else known.convert_unet_state_dict_to_peft(dict(part))
    mapping = {**known.DIFFUSERS_OLD_TO_PEFT, **known.DIFFUSERS_TO_PEFT}
    renamed = known.convert_state_dict(dict(part), mapping)
    if hasattr(module, "text_model"):
        return dict(renamed)
    return {key.removeprefix("text_model."): value for key, value in renamed.items()}


def _factor(layer: str, rank: int, alphas: Mapping[str, float], settings: Mapping[str, Any]) -> float:
    factor = _resolved(layer, rank, alphas, settings)
    if not math.isfinite(factor):
        raise AdapterFormatError(f"{layer} has no finite alpha")
    return factor


def _resolved(layer: str, rank: int, alphas: Mapping[str, float], settings: Mapping[str, Any]) -> float:
    """As PEFT resolves alpha / rank; without any alpha the update counts as it is."""
    if layer in alphas:
        return alphas[layer] / rank
    if "lora_alpha" not in settings:
        return 1.0
    patterns = settings.get("alpha_pattern") or {}
    # PEFT reads these keys as regular expressions; a stranger's file does not get to bring any.
    found = next((p for p in patterns if f".{layer}".endswith(f".{p.removeprefix('^')}")), None)
    alpha = float(patterns[found] if found is not None else settings["lora_alpha"])
    return alpha / rank**0.5 if settings.get("use_rslora") else alpha / rank


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def flat(shape: Sequence[int]) -> tuple[int, int]:
    """(out, everything else): a 1x1 convolution takes a linear layer's update."""
    return shape[0], math.prod(shape[1:])
