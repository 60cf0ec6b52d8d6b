"""A host for benchmarks only: takes many assignments at once and is done with each at once, without a picture.

With `SLOTS SECONDS` behind its name it takes as many and needs as long for each, one after the other.
"""

import asyncio
import sys

import uvloop
import websockets

from loaders import protocol
from loaders.protocol import Assign, Done, Hello, Speeds, Timings

SLOTS = 64
TIMINGS = Timings(run=0.001)


async def serve(url: str, key: str, name: str, slots: str = str(SLOTS), seconds: str = "0") -> None:
    hello = Hello(
        protocol=protocol.PROTOCOL_VERSION,
        host_id=name,
        name=name,
        device="none",
        pool="local",
        zone=None,
        speed=1.0,
        budgets={"device": 1 << 40, "memory": 1 << 40, "disk": 1 << 40},
        speeds=Speeds(disk_to_memory=1e12, memory_to_device=1e12, network_to_disk=1e12),
        held=(),
        running=(),
        finished=(),
        slots=int(slots),
    )
    timings = Timings(run=float(seconds) or TIMINGS.run)
    headers = {"Authorization": f"Bearer {key}"}
    address = url.replace("http", "ws", 1) + "/hosts/link"
    async for socket in websockets.connect(address, additional_headers=headers, compression=None):
        try:
            await socket.send(protocol.encode(hello))
            async for frame in socket:
                message = protocol.decode_to_host(frame)
                if isinstance(message, Assign):
                    if float(seconds):
                        await asyncio.sleep(float(seconds))
                    result = {"seed": message.input.get("seed")}
                    done = Done(attempt=message.attempt, outputs=(), result=result, timings=timings)
                    await socket.send(protocol.encode(done))
        except websockets.ConnectionClosed:
            continue


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:6]))
