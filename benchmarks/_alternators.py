"""The contenders of `alternation`, each in its own process: says `{"pid": …}` when ready, reads the requests from one
line of standard input, answers them all, says `{"seconds": …}`. Benchmarks only.
"""

import asyncio
import itertools
import json
import os
import sys
import time
from pathlib import Path

AT_ONCE = 2
HELD = 3
VARIANTS, LORAS = 8, 20
CALL = {"num_inference_steps": 1, "max_sequence_length": 16}  # short beside a load, as calls on a GPU are
SIZE = 32


def ask(**values):
    print(json.dumps(values), flush=True)


def asked():
    """The requests, and those that warm up: each variant and each LoRA once, so that all files are known."""
    requests = json.loads(sys.stdin.readline())
    return requests, [(number % VARIANTS, number, number) for number in range(LORAS)]


def call(pipeline, seed):
    import torch

    return pipeline(
        "a cat", **CALL, height=SIZE, width=SIZE, output_type="np",
        generator=torch.Generator("cpu").manual_seed(seed),
    ).images  # fmt: skip


def loaded(folder):
    import diffusers

    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipeline, root, lora, seed):
    if lora is None:
        return call(pipeline, seed)
    pipeline.load_lora_weights(root, weight_name=f"lora{lora}.safetensors")
    images = call(pipeline, seed)
    pipeline.unload_lora_weights()
    return images


def diffusers(root, budget_bytes):
    """A pipeline loaded for each request."""
    call(loaded(root / "tiny"), 0)
    ask(pid=os.getpid())
    requests, first = asked()
    for variant, lora, seed in first:
        run(loaded(root / f"variant{variant}"), root, lora, seed)
    began = time.perf_counter()
    for variant, lora, seed in requests:
        run(loaded(root / f"variant{variant}"), root, lora, seed)
    ask(seconds=time.perf_counter() - began)


def ours(root, budget_bytes):
    """The engine, fed as a router feeds it: one runs, the next is staged."""
    import tempfile

    from loaders import adapters
    from loaders.running import Finished
    from registry import folders
    from tests.bench import Bench

    size = {"width": SIZE, "height": SIZE}
    with tempfile.TemporaryDirectory() as home:
        bench = Bench(Path(home), budget_bytes)
        variants = [folders.read_pipeline(root / f"variant{number}") for number in range(VARIANTS)]
        base = variants[0].architecture
        loras = [
            adapters.describe(file, architecture=base)
            for file in (root / f"lora{number}.safetensors" for number in range(LORAS))
        ]

        def submit(variant, lora, seed):
            uses = {} if lora is None else {loras[lora]: 1.0}
            bench.submit(variants[variant], uses, seed=seed, image_size=size, **CALL)

        def finish():
            outcome = bench.outcome()
            assert isinstance(outcome, Finished), outcome

        bench.picture(folders.read_pipeline(root / "tiny"), seed=0, image_size=size, **CALL)
        ask(pid=os.getpid())
        requests, first = asked()
        for request in first:
            submit(*request)
            finish()
        began = time.perf_counter()
        waiting = iter(requests)
        for request in itertools.islice(waiting, AT_ONCE):
            submit(*request)
        for request in waiting:
            finish()
            submit(*request)
        for _ in range(AT_ONCE):
            finish()
        ask(seconds=time.perf_counter() - began)
        bench.engine.close()
        bench.engine.check_integrity()


def ray(root, budget_bytes):
    """Ray Serve's own way to many models: three to a replica, the least recently used leaves."""
    import ray as core
    from ray import serve

    @serve.deployment(max_ongoing_requests=AT_ONCE, ray_actor_options={"num_cpus": 2})
    class Pipelines:
        def __init__(self, root):
            import torch

            torch.set_num_threads(os.cpu_count())
            self.root = Path(root)
            self.turn = asyncio.Lock()
            call(loaded(self.root / "tiny"), 0)

        def pid(self):
            return os.getpid()

        @serve.multiplexed(max_num_models_per_replica=HELD)
        async def model(self, model_id: str):
            async with self.turn:  # libraries patch torch while they load: not beside a run (a TypeError)
                return await asyncio.to_thread(loaded, self.root / model_id)

        async def __call__(self, lora, seed):
            pipeline = await self.model(serve.get_multiplexed_model_id())
            async with self.turn:
                return (await asyncio.to_thread(run, pipeline, self.root, lora, seed)).shape

    core.init(
        _node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=2, object_store_memory=200 << 20,
        logging_level="error", log_to_driver=False,
    )  # fmt: skip
    handle = serve.run(Pipelines.bind(str(root)), name="alternation", route_prefix=None)
    ask(pid=handle.pid.remote().result())
    requests, first = asked()

    def send(variant, lora, seed):
        return handle.options(multiplexed_model_id=f"variant{variant}").remote(lora, seed)

    for request in first:
        send(*request).result()
    began = time.perf_counter()
    under_way = []
    for request in requests:
        if len(under_way) == AT_ONCE:
            under_way.pop(0).result()
        under_way.append(send(*request))
    for answer in under_way:
        answer.result()
    ask(seconds=time.perf_counter() - began)
    serve.shutdown()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    {"ours": ours, "diffusers": diffusers, "ray": ray}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
