"""A whole host process on the CPU, driven by a scripted router over a real WebSocket."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from loaders import adapters, protocol
from loaders.protocol import AdapterUse, AttemptKey
from registry import folders
from registry.catalog import AdapterManifest, Manifest
from tests import fake_router, tiny
from tests.fake_router import KEY, FakeRouter

INPUT = {"prompt": "red", "seed": 3, "num_inference_steps": 3, "image_size": {"width": 32, "height": 32}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    root = tmp_path_factory.mktemp("models")
    base = folders.read_pipeline(tiny.save_pipeline(root / "base", seed=1))
    other = folders.read_pipeline(tiny.save_pipeline(root / "other", seed=2, base=root / "base"))
    lora = tiny.save_lora(root / "lora", seed=3) / folders.ADAPTER_FILE
    return {"base": base, "other": other, "lora": adapters.describe(lora, architecture=base.architecture)}


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MARQUEE_")}


@contextlib.asynccontextmanager
async def host(
    router: FakeRouter, home: Path, device: str = "cpu"
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "router.cli", "host", "--url", router.url, "--home", str(home), "--device", device,
        env={**_clean_environment(), "MARQUEE_HOST_KEY": KEY},
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Driver:
    """Assigns with rising request ids."""

    def __init__(self, router: FakeRouter) -> None:
        self.router = router
        self._count = 0

    async def assign(self, manifest: Manifest, *adapters: AdapterManifest, **values: Any) -> AttemptKey:
        self._count += 1
        key = AttemptKey(f"r{self._count}", 1)
        await self.router.send(protocol.DescribeVersion(digest=manifest.digest, manifest=manifest))
        for adapter in adapters:
            await self.router.send(protocol.DescribeAdapter(digest=adapter.digest, manifest=adapter))
        uses = tuple(AdapterUse(adapter.digest) for adapter in adapters)
        await self.router.send(
            protocol.Assign(attempt=key, version=manifest.digest, adapters=uses, input={**INPUT, **values})
        )
        return key

    async def picture(self, manifest: Manifest, *adapters: AdapterManifest) -> bytes:
        key = await self.assign(manifest, *adapters)
        report = await self.router.hear(protocol.Done, protocol.Failed)
        assert isinstance(report, protocol.Done), report
        assert report.attempt == key
        return self.router.outputs[key, 0]


async def test_swaps_are_exact_and_survive_a_kill_a_lost_link_and_a_drain(
    tmp_path: Path, models: Mapping[str, Any]
) -> None:
    async with fake_router.running() as router:
        driver = Driver(router)
        async with host(router, tmp_path / "home") as process:
            hello = await router.hello()
            first = await driver.picture(models["base"])
            bent = await driver.picture(models["base"], models["lora"])
            other = await driver.picture(models["other"])
            assert await driver.picture(models["base"]) == first
            assert len({first, bent, other}) == 3

            key = await driver.assign(models["base"], num_inference_steps=2000)
            await router.hear(protocol.Progress)
            await router.send(protocol.Cancel(attempt=key))
            failed = await router.hear(protocol.Failed)
            assert (failed.attempt, failed.kind) == (key, "cancelled")

            await router.cut()
            again = await router.hello()
            assert again.host_id == hello.host_id
            assert models["base"].digest in again.known
            process.send_signal(signal.SIGKILL)
            await process.wait()
        async with host(router, tmp_path / "home") as process:
            restarted = await router.hello()
            assert restarted.host_id == hello.host_id
            assert {held.tier for held in restarted.held} == {"disk"}
            running = await driver.assign(models["base"])
            staged = [await driver.assign(models["other"], num_inference_steps=50) for _ in range(2)]
            await router.hear(protocol.Started)
            process.send_signal(signal.SIGTERM)
            draining = await router.hear(protocol.Draining)
            assert set(draining.returned) <= {running, *staged}
            if running not in draining.returned:
                await router.hear(protocol.Done)
                assert router.outputs[running, 0] == first
            assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_a_machine_of_several_devices_has_a_host_for_each_over_one_home(tmp_path: Path) -> None:
    async with fake_router.running() as router, host(router, tmp_path / "home", "cpu,cpu") as process:
        hellos = [await router.hello(), await router.hello()]
        assert len({hello.host_id for hello in hellos}) == 2
        assert {hello.name.rpartition(" ")[2] for hello in hellos} == {"cpu"}
        assert hellos[0].budgets["disk"] == pytest.approx(hellos[1].budgets["disk"], rel=0.01)
        children = psutil.Process(process.pid).children()
        children[0].kill()
        again = await router.hello()
        assert again.host_id in {hello.host_id for hello in hellos}
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
        assert not any(child.is_running() for child in children)
    taken = {json.loads(path.read_bytes())["host_id"] for path in (tmp_path / "home").rglob("host.json")}
    assert taken == {hello.host_id for hello in hellos}
