"""What training says while it runs, and its learning-rate schedule. Prints; keeps no files."""

import math


def cosine(step: int, steps: int, *, warmup: int = 60, floor: float = 0.02) -> float:
    """Share of the full learning rate: linear warm-up, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


class Ledger:
    """Prints a line every `every` steps: step, mean loss since the last line, seconds a step."""

    def __init__(self, stage: str, steps: int, every: int = 50) -> None:
        self._stage = stage
        self._steps = steps
        self._every = every
        self._losses: list[float] = []
        self._since: float | None = None

    def note(self, step: int, loss: float, now: float) -> None:
        self._since = now if self._since is None else self._since
        self._losses.append(loss)
        if (step + 1) % self._every:
            return
        mean = sum(self._losses) / len(self._losses)
        pace = (now - self._since) / len(self._losses)
        line = f"{self._stage} {step + 1}/{self._steps} loss {mean:.4f} {pace:.3f} s/step"
        print(line, flush=True)
        self._losses.clear()
        self._since = now
