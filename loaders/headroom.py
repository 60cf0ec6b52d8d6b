"""How much memory a run needs beside its weights: learned per architecture and size of output, with a prior.

Pure. A prior that is too small costs an eviction and a second try, one that is too large a few idle weights; so it is
a share of the weights, and the first run replaces it.
"""

import math
from collections.abc import Mapping
from typing import Any

from registry.catalog import Digest

PRIOR_SHARE = 0.1  # of the weights' bytes
FADING = 0.9  # of an old, higher figure that a new run did not reach
FRAMES = ("num_frames", "video_length")


class Headroom:
    """What was learned on one device. Thread-safe by the interpreter's own locks: whole values are replaced."""

    def __init__(self) -> None:
        self._peaks: dict[Digest, dict[int, int]] = {}  # architecture -> pixels -> bytes

    def learn(self, architecture: Digest, pixels: int, peak_bytes: int) -> None:
        known = self._peaks.get(architecture, {})
        kept = max(peak_bytes, int(known.get(pixels, 0) * FADING))
        self._peaks[architecture] = {**known, pixels: kept}

    def expected(self, architecture: Digest, pixels: int, *, weight_bytes: int) -> int:
        """Bytes. What is larger than everything that ran needs in proportion more."""
        known = self._peaks.get(architecture, {})
        if pixels in known:
            return known[pixels]
        below = [size for size in known if 0 < size < pixels]
        if below:
            return math.ceil(known[max(below)] * pixels / max(below))
        return max([int(weight_bytes * PRIOR_SHARE), *known.values()])


def pixels(arguments: Mapping[str, Any], count: int) -> int:
    """Of everything that a call makes; 0 where the pipeline's own size counts."""
    frames = next((int(arguments[name]) for name in FRAMES if arguments.get(name)), 1)
    return int(arguments.get("width") or 0) * int(arguments.get("height") or 0) * frames * count
