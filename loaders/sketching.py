"""One run's previews: looks at what the scheduler did, says what a picture of it would be, learns from the end.

Touches torch through the tensors it is shown, which it never changes: a run with previews gives the bytes of one
without. Called on the device thread. What goes wrong here is written down and costs the preview, not the run.
"""

import time
from typing import Any

import structlog

from loaders import sketches
from loaders.pipelines.arguments import Call
from loaders.pipelines.built import Step
from loaders.sketches import MOST_LESSONS, Grid, Size, Sketches
from registry.catalog import Digest, Manifest, digest_of

PREVIEW_SECONDS = 0.5  # between two: each waits for the device once

log = structlog.get_logger("marquee.previews")


def subject(manifest: Manifest) -> Digest:
    """Whose latents are alike: of one architecture with one autoencoder."""
    vae = [component.digest for component in manifest.components if component.name == "vae"]
    return digest_of({"architecture": manifest.architecture, "vae": vae})


class Sketching:
    """Of one run. `wanted`: its caller asked for previews."""

    def __init__(
        self, known: Sketches, manifest: Manifest, pipeline: Any, call: Call, *, wanted: bool
    ) -> None:
        self._known = known
        self._subject = subject(manifest)
        self._channels = _channels(pipeline)
        self._size = _size_asked_for(call)
        self._wanted = wanted
        self._last: Step | None = None
        self._drawn_at = float("-inf")

    def preview(self, step: Step) -> bytes:
        """WebP of what the run seems to become; empty when none was asked for, is due, or can be made."""
        self._last = step
        now = time.monotonic()
        is_due = self._wanted and step.number < step.steps and now - self._drawn_at >= PREVIEW_SECONDS
        fitted = self._known.fit(self._subject) if is_due else None
        if fitted is None:
            return b""
        self._drawn_at = now
        try:
            latents = _array(step.outcome())
            found = sketches.cells(latents, self._layout(latents), self._channels)
            return (None if found is None else sketches.draw(fitted, found)) or b""
        except Exception as error:  # noqa: BLE001  strange schedulers: the run goes on without
            log.warning("no preview", error=repr(error))
            return b""

    def learn(self, result: Any) -> None:
        """From a result and the latents it was made of: where little is known yet, or previews are wanted."""
        last, self._last = self._last, None
        known = self._known.get(self._subject)
        if last is None or not (self._wanted or known is None or known.lessons < MOST_LESSONS):
            return
        try:
            if (made := sketches.first_picture(result)) is not None:
                self._learn(_array(last.latents), *made)
        except Exception as error:  # noqa: BLE001  strange results: there will be no previews
            log.warning("nothing learned for previews", error=repr(error))

    def _learn(self, latents: Any, picture: Any, frames: int) -> None:
        size = Size(frames, picture.shape[0], picture.shape[1])
        layout = sketches.grid(latents.shape[1], size) if latents.ndim == 3 else None
        found = sketches.cells(latents, layout, self._channels)
        if found is None:
            return
        sketch = sketches.learn(found, picture, sketches.PATCH if latents.ndim == 3 else 1)
        if sketch is not None:
            self._known.put(self._subject, sketches.laid_out(sketch, latents.shape[1], layout))

    def _layout(self, latents: Any) -> Grid | None:
        """Of a sequence of tokens: by the size that was asked for, or as so many were laid out before."""
        if latents.ndim != 3:
            return None
        known = self._known.get(self._subject)
        said = None if self._size is None else sketches.grid(latents.shape[1], self._size)
        return said or (None if known is None else known.grids.get(latents.shape[1]))


def _array(latents: Any) -> Any:
    return latents.detach().float().cpu().numpy()


def _channels(pipeline: Any) -> int | None:
    """Of the autoencoder's latents."""
    config = getattr(pipeline.components.get("vae"), "config", None)
    return getattr(config, "latent_channels", None) or getattr(config, "z_dim", None)


def _size_asked_for(call: Call) -> Size | None:
    height, width = call.arguments.get("height"), call.arguments.get("width")
    if not (isinstance(height, int) and isinstance(width, int)):
        return None
    return Size(int(call.arguments.get("num_frames") or 1), height, width)
