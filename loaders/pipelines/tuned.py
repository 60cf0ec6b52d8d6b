"""Carries out a `tuning.Tuning` for the length of a run, on a bound pipeline's parts. Touches diffusers.

Each part is afterwards what it was: hooks are removed, switches turned back.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from loaders.errors import InputError
from loaders.layout import ITEM_BYTES
from loaders.pipelines.tuning import Decoder, Tuning

FULL_SIZE_LAYERS = 2  # the last two stages of a decoder work at the output's size


def decoder(parts: Mapping[str, Any], dtype: str | None) -> Decoder | None:
    """What the pipeline's autoencoder is; None where there is none that works in pieces.

    `dtype` is the variant's; the module itself may be bound to another variant at the moment.
    """
    vae = parts.get("vae")
    widths = getattr(getattr(vae, "config", None), "block_out_channels", None)
    if vae is None or not widths:
        return None
    return Decoder(
        channels=max(widths[:FULL_SIZE_LAYERS]),
        item_bytes=ITEM_BYTES.get(dtype or "", 4),
        can_slice=hasattr(vae, "use_slicing"),
        can_tile=hasattr(vae, "use_tiling"),
    )


@contextlib.contextmanager
def applied(parts: Mapping[str, Any], tuning: Tuning) -> Iterator[None]:
    """`parts`: the pipeline's components. Raises `InputError` where they cannot do what was asked for."""
    with contextlib.ExitStack() as stack:
        if tuning.decoding != "whole":
            stack.callback(_in_pieces(parts["vae"], tuning))
        if tuning.step_cache is not None:
            for undo in _step_caches(parts, tuning.step_cache):
                stack.callback(undo)
        if tuning.attention is not None:
            stack.enter_context(_attention(tuning.attention))
        yield


def _in_pieces(vae: Any, tuning: Tuning) -> Callable[[], None]:
    if tuning.decoding == "slices":
        vae.enable_slicing()
        return vae.disable_slicing  # type: ignore[no-any-return]
    vae.enable_tiling()
    return vae.disable_tiling  # type: ignore[no-any-return]


def _step_caches(parts: Mapping[str, Any], threshold: float) -> Iterator[Callable[[], None]]:
    from diffusers import FirstBlockCacheConfig

    denoisers = [part for part in parts.values() if hasattr(part, "enable_cache")]
    if not denoisers:
        raise InputError("this model has no step cache", "step_cache")
    for denoiser in denoisers:
        config = FirstBlockCacheConfig(threshold=threshold)
        yield denoiser.disable_cache
        try:
            denoiser.enable_cache(config)
        except (ValueError, KeyError, AttributeError, IndexError) as error:  # the last: it has one block
            denoiser._cache_config = config  # noqa: SLF001  so that what was hooked already is found and undone
            raise InputError(f"this model has no step cache: {error}", "step_cache") from error


@contextlib.contextmanager
def _attention(name: str) -> Iterator[None]:
    from diffusers.models.attention_dispatch import attention_backend

    try:
        active = attention_backend(name)
        active.__enter__()
    except (ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"this host has no attention called {name}: {error}", "attention") from error
    try:
        yield
    finally:
        active.__exit__(None, None, None)
