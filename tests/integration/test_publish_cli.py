"""The commands `marquee publish …` against a real gateway: what a person is told, and what holds once they end."""

import asyncio
import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import pytest
import pytest_asyncio

from registry import examination, keys, publish_client
from registry.database import Database
from router import cli
from tests.admin import LAB
from tests.live import Live

pytestmark = pytest.mark.asyncio(loop_scope="module")
SCHEMA = {"type": "object", "required": ["prompt"], "properties": {"prompt": {"type": "string"}}}
BARE = "model_index.json is missing: no pipeline as `save_pretrained` writes it; a LoRA is published as an adapter"
LOG = re.compile(r"\d{4}-\d\d-\d\d \d\d:")  # the gateway's own lines


class Told(NamedTuple):
    code: int
    out: str
    err: str


class Desk:
    """A lab's terminal."""

    def __init__(self, url: str, key: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._account = ("--url", url, "--key", key)
        self.key = key
        self.capsys = capsys

    async def __call__(self, *words: str) -> Told:
        code = await asyncio.to_thread(cli.main, ["publish", *self._account, *words])
        out, err = self.capsys.readouterr()
        plain = "".join(line for line in out.splitlines(keepends=True) if not LOG.match(line))
        return Told(code, plain, err)


@pytest_asyncio.fixture(loop_scope="module")
async def desk(live: Live, module_dsn: str, capsys: pytest.CaptureFixture[str]) -> Desk:
    place = live.gateway.office.place
    live.gateway.office.place = msgspec.structs.replace(place, examine=examination.nobody)
    async with Database.open(module_dsn, connections=1) as db:
        token = (await keys.create(db, "zeta", LAB)).token
    async with asyncio.timeout(10):
        while (await live.visit(token).get("/v1/models")).status_code == 401:
            await asyncio.sleep(0.02)
    return Desk(live.url, token, capsys)


@pytest_asyncio.fixture(loop_scope="module")
async def variant(desk: Desk, tmp_path: Path) -> str:
    """A variant of this test's own."""
    name = f"zeta/{tmp_path.name}"
    (tmp_path / "input.json").write_text(json.dumps(SCHEMA))
    assert (await desk("model", name)).code == 0
    made = await desk(
        "variant", name, "--model", name, "--task", "text-to-image", "--schema", str(tmp_path / "input.json")
    )
    assert made.code == 0, made.err
    return name


async def test_what_is_opened_or_ended_holds_when_the_command_ends(
    desk: Desk, live: Live, variant: str, toys: Path
) -> None:
    async def status() -> int:
        return (await live.client.post(f"/fal/queue/{variant}", json={"prompt": "a"})).status_code

    made = await desk("version", variant, "--folder", str(toys.parent / "toys"))
    assert (made.code, made.out.split(":")[0]) == (0, "version 1 is validated"), made.err
    assert await status() == 404
    assert (await desk("release", variant, "1")).code == 0
    assert await status() == 200
    assert (await desk("live", variant)).out == "public  version 1 100 %\n"
    assert (await desk("retire", variant)).code == 0
    assert await status() == 410


async def test_a_later_release_that_would_undo_this_one_is_told(desk: Desk, variant: str, toys: Path) -> None:
    await desk("version", variant, "--folder", str(toys.parent / "toys"))
    assert (await desk("release", variant, "1", "--public-from", "2999-01-01T00:00:00Z")).err == ""
    now = await desk("release", variant, "1")
    (launch,) = re.findall(r"release (\d+) takes over later", now.err)
    note = f"note: release {launch} takes over later (version 1 100 %; public from 2999-01-01T00:00:00Z)"
    assert now.err == f"{note}, unless `marquee publish withdraw` takes it back\n"
    assert (await desk("retire", variant)).err == now.err
    assert (await desk("withdraw", variant, launch)).code == 0
    assert (await desk("rollback", variant)).err == ""


async def test_an_adapter_among_the_variants_is_told_apart(desk: Desk, variant: str) -> None:
    assert (await desk("adapter", f"{variant}-bent", "--base", variant)).code == 0
    assert await desk("status", f"{variant}-bent") == Told(
        1, "", f"Error: {variant}-bent is an adapter: say --adapter\n"
    )


async def test_history_says_what_each_change_was_about(desk: Desk, variant: str, toys: Path) -> None:
    await desk("edit", "variant", variant, 'tags=["new"]', "name=Late")
    await desk("version", variant, "--folder", str(toys.parent / "toys-late"))
    release = (await desk("release", variant, "1")).out.removeprefix("release ").strip()
    told = [line[20:].split(None, 1)[1] for line in (await desk("history", variant)).out.splitlines()]
    assert told == [
        f"added    release {variant}  {release}",
        f"changed  version {variant}@1  validated",
        f"changed  version {variant}@1  validating",
        f"added    version {variant}@1  draft",
        f"changed  variant {variant}  name, tags",
        f"added    variant {variant}",
        f"added    model {variant}",
    ]
    assert (await desk("history", "zeta/nothing")).err == "Error: of zeta/nothing no change is known\n"


async def test_a_typo_costs_no_upload_and_a_readme_stays_here(
    desk: Desk, variant: str, toys: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "toys"
    shutil.copytree(toys.parent / "toys", folder)
    for name in ("README.md", "sample.png", ".cache/state.json", "vae/old.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    mistyped = await desk("version", variant + "x", "--folder", str(folder))
    assert mistyped == Told(1, "", f"Error: Not found: no variant {variant}x\n")
    sent = await desk("upload", str(folder))
    assert sent.code == 0
    assert sent.err.splitlines()[0] == "not sent: README.md, sample.png, vae/old.bin"
    other = toys.parent / "toys-late"
    again = await desk("upload", str(other), "--resume", sent.out.strip())
    assert again.err == f"Error: upload {sent.out.strip()} was begun with other files than {other} has now\n"


@contextlib.asynccontextmanager
async def _cutting(url: str, after_bytes: int) -> AsyncIterator[str]:
    """An address of the gateway whose first connection is cut in the middle of what it sends."""
    whole = urlsplit(url)
    cuts = 1

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int) -> None:
        with contextlib.suppress(ConnectionError):
            while limit > 0 and (said := await reader.read(1 << 16)):
                limit -= len(said)
                writer.write(said)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal cuts
        limit, cuts = after_bytes if cuts else 1 << 40, 0
        there_reader, there_writer = await asyncio.open_connection(whole.hostname, whole.port)
        answers = asyncio.create_task(pass_on(there_reader, writer, 1 << 40))
        await pass_on(reader, there_writer, limit)
        writer.transport.abort()
        await answers

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_upload_goes_on_over_a_connection_that_is_cut_in_the_middle(
    desk: Desk, live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_client, "CHUNK_BYTES", 1 << 20)
    content = b"[" + b"1," * 1_600_000 + b"1]"
    (tmp_path / "big.json").write_bytes(content)
    async with _cutting(live.url, after_bytes=1_500_000) as url:
        sent = await Desk(url, desk.key, desk.capsys)("upload", str(tmp_path / "big.json"))
    assert sent.code == 0, sent.err
    stored = live.gateway.office.place.home / "uploads" / sent.out.strip() / "big.json"
    assert stored.read_bytes() == content


async def test_a_refused_file_is_named_and_status_says_why(
    desk: Desk, variant: str, toys: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "toys"
    shutil.copytree(toys.parent / "toys", folder)
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:40])
    cut = await desk("version", variant, "--folder", str(folder))
    assert cut.err.splitlines()[-1] == f"Error: {weights}: Weights refused: the file ends inside its header"
    weights.write_bytes(whole)
    (folder / "model_index.json").unlink()
    bare = await desk("version", variant, "--folder", str(folder))
    assert bare.err.splitlines()[-1] == f"Error: version 1 is rejected: FolderError: {BARE}"
    assert (await desk("status", variant)).out == f"version 1  rejected   {BARE}\n"
    (tmp_path / "bare").mkdir()
    nothing = await desk("upload", str(tmp_path / "bare"))
    assert nothing.err == f"Error: {tmp_path}/bare holds nothing that is published: no weights, no configs\n"


async def test_a_schema_is_changed_by_a_file(desk: Desk, variant: str, tmp_path: Path, live: Live) -> None:
    (tmp_path / "new.json").write_text(json.dumps(SCHEMA | {"examples": [{"prompt": "b"}]}))
    done = await desk("edit", "variant", variant, f"input_schema=@{tmp_path}/new.json")
    assert done == Told(0, f"variant {variant} changed\n", "")
    missing = await desk("edit", "variant", variant, "input_schema=@nowhere.json")
    assert missing.code == 2
    assert "nowhere.json cannot be read" in missing.err


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("127.0.0.1:9", "mq_1", "'127.0.0.1:9' is no gateway's address, like https://models.example.com"),
        ("http://[::1", "mq_1", "'http://[::1' is no gateway's address, like https://models.example.com"),
        (
            "http://a:99999",
            "mq_1",
            "'http://a:99999' is no gateway's address, like https://models.example.com",
        ),
        ("{}", "schlüssel", "the key is none: it is one word that begins with mq_"),
        ("{}", "mq 1", "the key is none: it is one word that begins with mq_"),
        ("{}", "mq_1", "Key needed: a valid key is needed: Authorization: Key …"),
        (
            "{}/dashboard",
            "mq_1",
            "{}/dashboard/v1/admin/ answered 404: is it a gateway's address (MARQUEE_URL or --url)?",
        ),
        (
            "{}/v1/admin",
            "mq_1",
            "{}/v1/admin/v1/admin/ answered 404: is it a gateway's address (MARQUEE_URL or --url)?",
        ),
    ],
)
async def test_wrong_addresses_and_keys_are_one_line(
    live: Live, capsys: pytest.CaptureFixture[str], url: str, key: str, said: str
) -> None:
    told = await Desk(url.replace("{}", live.url), key, capsys)("me")
    assert told == Told(1, "", f"Error: {said.replace('{}', live.url)}\n")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": ""}, "name: Expected `str` of length >= 1"),
        ({"description": "x" * 20_001}, "description: Expected `str` of length <= 20000"),
        ({"tags": ["x"] * 51}, "tags: Expected `array` of length <= 50"),
    ],
)
async def test_texts_have_a_length(desk: Desk, variant: str, fields: dict[str, Any], said: str) -> None:
    words = [f"{name}={json.dumps(value)}" for name, value in fields.items()]
    told = await desk("edit", "variant", variant, *words)
    assert told == Told(1, "", f"Error: Not acceptable: {said}\n")
