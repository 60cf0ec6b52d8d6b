"""A Ray Serve deployment with multiplexed models that answers at once; runs in the peer's environment, not in ours.

Prints `ready` when it serves `POST /` on 127.0.0.1:PORT; the header `serve_multiplexed_model_id` names the model.
"""

import sys
import threading

import ray
from ray import serve

MODELS = 8


@serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.1})
class Instant:
    """Ray's own advice for many models behind one deployment, with a model that costs nothing."""

    @serve.multiplexed(max_num_models_per_replica=MODELS)
    async def model(self, model_id: str) -> str:
        return model_id

    async def __call__(self, request) -> dict:
        body = await request.json()
        model = await self.model(serve.get_multiplexed_model_id())
        return {"model": model, "seed": body.get("seed")}


def main(port: int) -> None:
    ray.init(
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        num_cpus=2,
        object_store_memory=200 << 20,
        logging_level="warning",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Instant.bind())
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]))
