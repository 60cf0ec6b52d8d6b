"""The gateway's process: one uvicorn server around `create_app`. Process edge.

SIGTERM or SIGINT: no new connections, streams and waiting calls end, what hosts run goes on; gone within 8 s.
"""

import asyncio
import gc
import os
import sys
from types import FrameType

import uvicorn
from litestar import Litestar

from loaders import keepalive
from registry import logs
from registry.errors import RegistryError
from registry.settings import Settings
from router.app import create_app
from router.corking import CorkedProtocol

GRACE_SECONDS = 4
FRAME_LIMIT_BYTES = 32 << 20


class Server(uvicorn.Server):
    """Tells the application first, so that nothing waits for streams to end by themselves."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.started and isinstance(self.config.app, Litestar):
            asyncio.get_running_loop().call_soon_threadsafe(self.config.app.state.stop)
        super().handle_exit(sig, frame)


def configure(settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=CorkedProtocol,
        ws="websockets-sansio",
        ws_max_size=FRAME_LIMIT_BYTES,
        ws_ping_interval=keepalive.PING_SECONDS,
        ws_ping_timeout=keepalive.PONG_SECONDS,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        access_log=False,
        log_config=None,
        log_level="warning",  # of uvicorn's own lines: one for every link would drown ours
        server_header=False,
        date_header=False,
    )


def spare_collections() -> None:
    """Modules and handlers live for ever, and a run leaves hardly any cycles: looking for some cost a tenth of its time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def serve(settings: Settings) -> int:
    """Until a signal comes; the process's exit code."""
    logs.configure(settings.log_level)
    server = Server(configure(settings))
    spare_collections()
    server.run()
    return 0 if server.started else 1


def main() -> int:
    try:
        return serve(Settings.from_environment(os.environ))
    except RegistryError as error:
        print(f"marquee: {error}", file=sys.stderr)  # noqa: T201  the one line a person reads
        return 1


if __name__ == "__main__":
    sys.exit(main())
