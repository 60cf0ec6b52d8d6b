"""The device that benchmarks run on: `BENCH_DEVICE`, by default the machine's first GPU, or its CPU where it has none."""

import os


def name():
    import torch

    chosen = os.environ.get("BENCH_DEVICE", "auto")
    return ("cuda:0" if torch.cuda.is_available() else "cpu") if chosen == "auto" else chosen


def device():
    from loaders.device import Device

    return Device(name())


def budgets(made, device_bytes, *, memory_bytes=8 << 30):
    """Of a shelf: a device with memory of its own has host memory before it."""
    room = {"disk": 1 << 40, "device": device_bytes}
    return room if made.is_cpu else {**room, "memory": memory_bytes}


def placed(pipeline):
    """A peer's pipeline, where ours runs."""
    return pipeline.to(name())


def wait():
    """Until all of this process's work is done; what a CPU was told is done."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
