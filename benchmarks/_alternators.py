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

    from benchmarks import _device

    pipeline = _device.placed(diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True))
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


class Engine:
    """Ours, over the variants and LoRAs under `root`."""

    def __init__(self, root, home, budget_bytes):
        from benchmarks import _device
        from loaders import adapters
        from registry import folders
        from tests.bench import Bench

        self.bench = Bench(Path(home), budget_bytes, memory_bytes=budget_bytes, device=_device.device())
        self.tiny = folders.read_pipeline(root / "tiny")
        self.variants = [folders.read_pipeline(root / f"variant{number}") for number in range(VARIANTS)]
        base = self.variants[0].architecture
        self.loras = [
            adapters.describe(root / f"lora{number}.safetensors", architecture=base)
            for number in range(LORAS)
        ]

    def warm_up(self):
        self.bench.picture(self.tiny, seed=0, **self.call)

    @property
    def call(self):
        return {"image_size": {"width": SIZE, "height": SIZE}, **CALL}

    def submit(self, variant, lora, seed):
        uses = {} if lora is None else {self.loras[lora]: 1.0}
        self.bench.submit(self.variants[variant], uses, seed=seed, **self.call)

    def finish(self):
        from loaders.running import Finished

        outcome = self.bench.outcome()
        assert isinstance(outcome, Finished), outcome

    def close(self):
        self.bench.engine.close()
        self.bench.engine.check_integrity()


def ours(root, budget_bytes):
    """The engine, fed as a router feeds it: one runs, the next is staged."""
    import tempfile

    with tempfile.TemporaryDirectory() as home:
        engine = Engine(root, home, budget_bytes)
        engine.warm_up()
        ask(pid=os.getpid())
        requests, first = asked()
        for request in first:
            engine.submit(*request)
            engine.finish()
        ask(seconds=alternate(requests, engine.submit, lambda _: engine.finish()))
        engine.close()


def alternate(requests, submit, finish):
    """Seconds for all of them, `AT_ONCE` under way. `finish` gets what `submit` gave, oldest first."""
    began = time.perf_counter()
    waiting = iter(requests)
    under_way = [submit(*request) for request in itertools.islice(waiting, AT_ONCE)]
    for request in waiting:
        finish(under_way.pop(0))
        under_way.append(submit(*request))
    for one in under_way:
        finish(one)
    return time.perf_counter() - began


def ray(root, budget_bytes):
    """Ray Serve's own way to many models: three to a replica, the least recently used leaves."""
    import ray as core
    from ray import serve

    core.init(
        _node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=2, num_gpus=gpus(), object_store_memory=200 << 20,
        logging_level="error", log_to_driver=False,
    )  # fmt: skip
    handle = serve.run(multiplexed().bind(str(root)), name="alternation", route_prefix=None)
    ask(pid=handle.pid.remote().result())
    requests, first = asked()

    def send(variant, lora, seed):
        return handle.options(multiplexed_model_id=f"variant{variant}").remote(lora, seed)

    for request in first:
        send(*request).result()
    ask(seconds=alternate(requests, send, lambda answer: answer.result()))
    serve.shutdown()


def gpus():
    """That a replica has to itself."""
    from benchmarks import _device

    return int(_device.name() != "cpu")


def multiplexed():
    """The deployment; a class can only be one where Ray is there."""
    from ray import serve

    @serve.deployment(max_ongoing_requests=AT_ONCE, ray_actor_options={"num_cpus": 2, "num_gpus": gpus()})
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

    return Pipelines


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    {"ours": ours, "diffusers": diffusers, "ray": ray}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
