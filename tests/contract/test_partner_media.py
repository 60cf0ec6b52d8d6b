"""What a partner made, on its way into our store: bounded, measured, never from a private address, all or nothing."""

import contextlib
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import av
import numpy as np
import pytest

from registry.settings import PartnerAccount
from router.files import FileStore
from router.partners import media as bringing
from router.partners import patience, places
from router.partners.errors import OutputLostError
from router.partners.media import Media
from router.requests import Place
from tests.fake_partner import CUT, Answer, Asked, Server, png

NOW = 1_790_000_000.0  # unix seconds


class Shelf(Server):
    """Files by path."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, Answer] = {}

    def handle(self, asked: Asked) -> Answer:
        return self.files.get(asked.path, Answer(404, {}))


@contextlib.asynccontextmanager
async def shelf(
    home: Path, *, is_partners_own: bool = True, max_bytes: int = 1 << 20
) -> AsyncIterator[tuple[Media, Shelf]]:
    async with Shelf().running() as server:
        account = PartnerAccount(
            provider="fal",
            key="k",
            url=f"{server.url}/queue" if is_partners_own else "https://queue.example",
            at_once=1,
            longest_seconds=1.0,
            allow_private=False,
        )
        media = Media(account, FileStore(home), max_bytes)
        try:
            yield media, server
        finally:
            await media.close()


def kept(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


def film() -> bytes:
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 32
        for _ in range(20):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return content.getvalue()


async def test_files_are_measured_and_named_twice_is_fetched_once(tmp_path: Path) -> None:
    async with shelf(tmp_path) as (media, server):
        server.files = {
            "/a": Answer(200, png(9, 7)),
            "/b": Answer(200, film(), {"content-type": "video/mp4; codecs=x"}),
            "/c.glb": Answer(200, b"glTF", {"content-type": "application/octet-stream"}),
        }
        a, b, c = (f"{server.url}{path}" for path in server.files)
        answer = {
            "images": [{"url": a}, {"url": a}],
            "video": {"url": b},
            "mesh": {"url": c, "content_type": "model/x"},
        }
        brought = await media.bring(answer, NOW)
        shapes = [(f.content_type, f.width, f.height, f.seconds) for f in brought.files]
        assert shapes == [
            ("image/png", 9, 7, None),
            ("video/mp4", 64, 32, 2.0),
            ("model/x", None, None, None),
        ]
        assert brought.places == (
            Place(path=("images", 0, "url"), file=0),
            Place(path=("images", 1, "url"), file=0),
            Place(path=("video", "url"), file=1),
            Place(path=("mesh", "url"), file=2),
        )
        assert brought.result["images"] == [{"url": ""}, {"url": ""}]
        assert len(server.asked) == 3


async def test_a_file_that_stumbles_is_fetched_again_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.01)
    async with shelf(tmp_path) as (media, server):
        server.files = {"/a": Answer(200, png(9, 7))}
        server.trouble = [CUT, Answer(503, b""), Answer(200, b"half", {"content-length": "9", CUT: "after"})]
        brought = await media.bring({"image": {"url": f"{server.url}/a"}}, NOW)
        assert [f.size_bytes for f in brought.files] == [len(png(9, 7))]


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (lambda url: {"/bad": Answer(404, {})}, "answers 404"),
        (lambda url: {"/bad": Answer(200, b"x" * 2000)}, "larger than"),
        (lambda url: {"/bad": Answer(302, b"", {"location": "http://127.0.0.1:9/"})}, "private address"),
        (lambda url: {"/bad": Answer(302, b"", {"location": "http://[::1]:9/"})}, "private address"),
        (lambda url: {"/bad": Answer(302, b"", {"location": "file:///etc/passwd"})}, "not called"),
        (lambda url: {"/bad": Answer(302, b"", {"location": f"{url}/bad"})}, "redirections"),
    ],
    ids=["gone", "large", "private", "private6", "scheme", "round"],
)
async def test_what_cannot_be_had_names_why_and_leaves_nothing(
    answers: Callable[[str], dict[str, Answer]], says: str, tmp_path: Path
) -> None:
    async with shelf(tmp_path, max_bytes=1000) as (media, server):
        server.files = answers(server.url) | {"/good": Answer(200, png(9, 7))}
        answer = {"images": [{"url": f"{server.url}/good"}, {"url": f"{server.url}/bad"}]}
        with pytest.raises(OutputLostError, match=says):
            await media.bring(answer, NOW)
        assert kept(tmp_path) == []


async def test_an_address_inside_our_network_is_the_partners_only_if_the_operator_said_so(
    tmp_path: Path,
) -> None:
    async with shelf(tmp_path, is_partners_own=False) as (media, server):
        with pytest.raises(OutputLostError, match="private address"):
            await media.bring({"image": {"url": f"{server.url}/a"}}, NOW)
        assert server.asked == []


@pytest.mark.parametrize(
    ("uri", "says"),
    [("data:image/png;base64,%%%", "not base64"), ("data:image/png;base64," + "A" * 4000, "larger than")],
)
async def test_damaged_and_endless_data_uris_are_refused(uri: str, says: str, tmp_path: Path) -> None:
    async with shelf(tmp_path, max_bytes=1000) as (media, _):
        with pytest.raises(OutputLostError, match=says):
            await media.bring({"image": {"url": uri}}, NOW)
        assert kept(tmp_path) == []


@pytest.mark.parametrize("address", ["http://a..b/x", "http://h:99999/x", "https://h\x7f.example/x"])
async def test_an_address_that_is_none_is_a_lost_output(address: str, tmp_path: Path) -> None:
    async with shelf(tmp_path, is_partners_own=False) as (media, _):
        with pytest.raises(OutputLostError, match="address"):
            await media.bring({"image": {"url": address}}, NOW)
        assert kept(tmp_path) == []


async def test_many_files_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bringing, "MAX_RESULT_BYTES", 2500)
    async with shelf(tmp_path, max_bytes=1000) as (media, server):
        server.files = {f"/{n}": Answer(200, bytes([n]) * 900) for n in range(3)}
        with pytest.raises(OutputLostError, match="together"):
            await media.bring({"urls": [f"{server.url}{path}" for path in server.files]}, NOW)
        assert kept(tmp_path) == []


@pytest.mark.parametrize("text", ["data:a/" + "a" * 250_000, "https://" + "a" * 250_000 + " x"])
def test_a_long_text_that_looks_like_an_address_is_read_once(text: str) -> None:
    """Squared, this takes a quarter of an hour, in which the gateway does nothing else."""
    assert places.is_address(text) is False
