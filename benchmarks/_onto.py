"""The ways of `reader` on to a GPU, each until all has arrived there. Benchmarks only."""

import importlib.util

from benchmarks import _device


def ours_onto(device):
    """As a host brings a component that is only on the disk: chunks leave while others are read."""
    from loaders import layout, reader

    def way(path):
        plan = layout.lay_out(reader.read_headers([path]))
        landing = device.landing(plan)
        arena = reader.read([path], plan, device, on_filled=landing.advance)
        return arena, landing.finish(arena)

    return way


def copied(size_bytes):
    """The physical limit of the last part of the way."""
    import torch

    source = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(size_bytes, dtype=torch.uint8, device=_device.name())
    return lambda path: target.copy_(source)


def library_onto(path):
    from safetensors.torch import load_file

    return load_file(path, device=_device.name())


def from_pretrained_onto(path):
    import torch
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel.from_pretrained(path.parent, torch_dtype=torch.bfloat16).to(_device.name())


def streamer_onto(path):
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as stream:
        stream.stream_file(str(path))
        return {name: tensor.to(_device.name()) for name, tensor in stream.get_tensors()}


def ways(path):
    """Name, the file it reads, how; none where there is no GPU."""
    device = _device.device()
    if device.is_cpu:
        return
    yield "one pinned copy, onto the GPU", path, copied(path.stat().st_size)
    yield "ours, onto the GPU", path, ours_onto(device)
    yield "safetensors load_file, onto the GPU", path, library_onto
    yield "diffusers from_pretrained, onto the GPU", path, from_pretrained_onto
    if importlib.util.find_spec("runai_model_streamer"):
        yield "runai_model_streamer, onto the GPU", path, streamer_onto
