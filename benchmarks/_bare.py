"""A Litestar application that answers a POST at once, served as the gateway is: what any handler costs here at least.

It is also the instant upstream of LiteLLM's image route.
"""

import sys
from typing import Any

import uvicorn
from litestar import Litestar, post

IMAGE = {"created": 0, "data": [{"url": "http://127.0.0.1/none.png"}]}


@post("/", status_code=200)
async def answer(data: dict[str, Any]) -> dict[str, Any]:
    return {"seed": data.get("seed")}


@post("/v1/images/generations", status_code=200)
async def image(data: dict[str, Any]) -> dict[str, Any]:
    return IMAGE


def main() -> None:
    app = Litestar([answer, image], openapi_config=None, logging_config=None)
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_config=None
    )  # fmt: skip


if __name__ == "__main__":
    main()
