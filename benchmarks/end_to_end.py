"""What the whole path costs beside the pipeline itself: a warm 20-step picture through `marquee up` ÷ a bare call."""

import statistics
import tempfile
import time
from pathlib import Path

from tests.product import ROOT, Marquee

ROUNDS = 15
ARGUMENTS = {"prompt": "a red circle on white", "num_inference_steps": 20, "guidance_scale": 4.0}


def bare_pipeline():
    import diffusers
    import torch

    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        ROOT / "starter/models/shapes", local_files_only=True, text_encoder_3=None, tokenizer_3=None
    )
    pipeline.set_progress_bar_config(disable=True)

    def call(seed):
        began = time.perf_counter()
        pipeline(
            **ARGUMENTS,
            height=64,
            width=64,
            max_sequence_length=16,
            generator=torch.Generator("cpu").manual_seed(seed),
        )
        return time.perf_counter() - began

    return call


def whole_path(product):
    client = product.client()

    def call(seed):
        began = time.perf_counter()
        answer = (
            client.post("/fal/run/marquee/shapes", json=ARGUMENTS | {"seed": seed}).raise_for_status().json()
        )
        client.get(answer["images"][0]["url"]).raise_for_status()
        return time.perf_counter() - began

    return call


def main():
    bare = bare_pipeline()
    with tempfile.TemporaryDirectory() as folder:
        product = Marquee(Path(folder) / "home").start()
        try:
            through = whole_path(product)
            for seed in range(3):
                bare(seed), through(seed)
            pairs = [(bare(seed), through(seed)) for seed in range(ROUNDS)]
        finally:
            product.stop()
    bare_seconds = statistics.median(pair[0] for pair in pairs)
    through_seconds = statistics.median(pair[1] for pair in pairs)
    ratio = statistics.median(through / alone for alone, through in pairs)
    print(f"   bare diffusers call     {bare_seconds * 1000:7.0f} ms  (median of {ROUNDS})")
    print(f"   slug to picture         {through_seconds * 1000:7.0f} ms")
    print(f"   ratio (median of pairs) {ratio:7.3f}     bar: 1.15")
