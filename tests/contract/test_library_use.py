"""The loader in a program: several threads, interrupts, folders that are saved again, a Hub that is away, its own values."""

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from loaders import FailedRunError, Loader, showing
from loaders.carried import carried
from loaders.errors import HostError, InputError, SourceDownError, WeightsDamagedError, WeightsMissingError
from loaders.motion import Motion, Telling
from registry import folders
from registry.settings import Settings
from tests import architectures, tiny
from tests.hub import Hub, Repository

VALUES = {"prompt": "red", "seed": 3, "num_inference_steps": 2, "image_size": "32x32"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("base", 1), ("other", 2)):
        tiny.save_pipeline(folder / name, seed=seed)
    tiny.save_lora(folder / "lora", seed=3)
    return folder


@pytest.fixture
def hub(root: Path) -> Iterator[Hub]:
    files = {p.relative_to(root / "base").as_posix(): p.read_bytes() for p in (root / "base").rglob("*.*")}
    bent = {folders.ADAPTER_FILE: (root / "lora" / folders.ADAPTER_FILE).read_bytes()}
    server = Hub({"toys/bricks": Repository(files), "toys/bent": Repository(bent)}).start()
    yield server
    server.stop()


def opened(home: Path, **options: Any) -> Loader:
    return Loader(Settings(home=home, device="cpu"), **options)


def test_threads_take_turns_and_each_gets_its_own(root: Path, tmp_path: Path) -> None:
    """They read one queue, so that a thread could take another's result away, which then waited for ever."""
    results: dict[int, Any] = {}
    with opened(tmp_path) as loader:
        alone = {seed: loader.run(root / "base", **VALUES | {"seed": seed}).outputs for seed in range(4)}

        def run(seed: int) -> None:
            results[seed] = loader.run(root / "base", **VALUES | {"seed": seed}).outputs

        threads = [threading.Thread(target=run, args=(seed,), daemon=True) for seed in alone]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert results == alone


def test_an_interrupt_ends_the_run_and_the_next_does_not_wait_for_it(root: Path, tmp_path: Path) -> None:
    def interrupt(step: int, steps: int) -> None:
        if steps == 1000:
            raise KeyboardInterrupt

    with opened(tmp_path, on_step=interrupt) as loader:
        with pytest.raises(KeyboardInterrupt):
            loader.run(root / "base", **VALUES | {"num_inference_steps": 1000})
        loader.run(root / "base", **VALUES)
        assert loader.engine.running() == ()


def test_a_loader_that_is_closed_says_so_also_to_who_waits(root: Path, tmp_path: Path) -> None:
    loader, begun, raised = opened(tmp_path), threading.Event(), []
    loader._on_step = lambda step, steps: begun.set()

    def run() -> None:
        try:
            loader.run(root / "base", **VALUES | {"num_inference_steps": 1000})
        except HostError as error:
            raised.append(str(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert begun.wait(30)
    loader.close()
    thread.join(10)
    assert raised == ["this loader was closed"]
    with pytest.raises(HostError, match="closed"):
        loader.run(root / "base", **VALUES)
    loader.close()


def test_a_folder_that_is_saved_again_is_the_new_one_and_read_for_its_digest_once(
    root: Path, tmp_path: Path
) -> None:
    """The old weights stayed, silently; and each start read all of a folder twice."""
    told: list[Motion] = []
    folder = tmp_path / "mödel"
    tiny.save_pipeline(folder, seed=1)
    with opened(tmp_path / "home", on_motion=told.append) as loader:
        base, other = (loader.run(root / name, **VALUES).outputs for name in ("base", "other"))
        assert loader.run(folder, **VALUES).outputs == base
        tiny.save_pipeline(folder, seed=2)
        assert loader.run(folder, **VALUES).outputs == other


def test_what_comes_is_told_and_what_is_known_is_not_read_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.digests.KEPT_FROM_BYTES", 0)
    told: list[Motion] = []
    for kinds in ({"check", "read"}, {"read"}):
        told.clear()
        with opened(tmp_path, on_motion=told.append) as loader:
            made = loader.manifest(root / "base")
            loader.run(root / "base", **VALUES)
        assert {motion.kind for motion in told} == kinds
        checked = [motion.name for motion in told if motion.kind == "check" and motion.is_whole]
        assert len(checked) == len(set(checked))
        read = {motion.name: motion for motion in told if motion.kind == "read"}
        assert set(read) == {component.name for component in made.components}
        assert all(motion.is_whole and motion.done_tensors == motion.tensors for motion in read.values())


def test_what_is_fetched_is_told(root: Path, hub: Hub, tmp_path: Path) -> None:
    told: list[Motion] = []
    settings = Settings(home=tmp_path, device="cpu", hub_endpoint=hub.endpoint)
    with Loader(settings, on_motion=told.append) as loader:
        loader.run("toys/bricks", **VALUES)
        made = loader.manifest("toys/bricks")
    come = {motion.name: motion.size_bytes for motion in told if motion.kind == "fetch" and motion.is_whole}
    assert come.items() >= {file.path: file.size_bytes for c in made.components for file in c.weights}.items()


def test_what_is_here_runs_while_the_hub_is_away(root: Path, hub: Hub, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", device="cpu", hub_endpoint=hub.endpoint)
    with Loader(settings) as loader:
        there = loader.run("toys/bricks", **VALUES).outputs
        commit = loader.manifest("toys/bricks").source.revision
        assert loader.manifest(f"toys/bricks@{commit}") == loader.manifest("toys/bricks")
        with pytest.raises(WeightsMissingError, match="no revision v9"):
            loader.manifest("toys/bricks@v9")
        bent = loader.run(root / "base", loras=[("toys/bent", 0.5)], **VALUES).outputs
        assert loader.run("toys/bricks", loras=[(root / "lora", 0.5)], **VALUES).outputs == bent != there
        with pytest.raises(InputError, match="nor a repository"):
            loader.run("toys/bricks", loras=[("toys/none", 1.0)], **VALUES)
    with Loader(msgspec.structs.replace(settings, hub_endpoint="http://127.0.0.1:9")) as loader:
        assert loader.run("toys/bricks", **VALUES).outputs == there
        with pytest.raises(SourceDownError, match="the Hub does not answer"):
            loader.run("toys/never", **VALUES)


def test_what_is_wrong_with_a_file_has_this_packages_names(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    tiny.save_pipeline(folder, seed=1)
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / "empty").mkdir()
    with opened(tmp_path / "home") as loader:
        with pytest.raises(WeightsDamagedError, match=r"diffusion_pytorch_model\.safetensors"):
            loader.run(folder, **VALUES)
        with pytest.raises(FailedRunError) as caught:
            loader.run(root / "base", loras=[(root / "base/model_index.json", 1.0)], **VALUES)
        assert (caught.value.name, caught.value.kind) == ("weights_damaged", "model")
        with pytest.raises(FailedRunError) as refused:
            loader.run(root / "base", **VALUES, wings=2)
        assert (refused.value.name, refused.value.kind) == ("invalid_input", "input")
        with pytest.raises(InputError, match="no LoRA"):
            loader.run(root / "base", loras=[(tmp_path / "empty", 1.0)], **VALUES)
        with pytest.raises(InputError, match="scale has to be a number"):
            loader.run(root / "base", loras=[(root / "lora", "much")], **VALUES)  # type: ignore[list-item]
        with pytest.raises(WeightsMissingError, match="is a file; a model is a folder"):
            loader.run(weights, **VALUES)
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="Not a directory"):
        opened(tmp_path / "file")


def test_a_lora_that_one_architecture_takes_is_not_taken_for_anothers(root: Path, tmp_path: Path) -> None:
    """A file's name is its digest: what had been parsed for one base was merged into the other, or was a `KeyError`."""
    architectures.write(tmp_path / "flux", "flux", seed=1)
    loras = [(root / "lora", 0.5)]
    with opened(tmp_path / "home") as loader:
        bent = loader.run(root / "base", loras=loras, **VALUES).outputs
        with pytest.raises(FailedRunError) as caught:
            loader.run(tmp_path / "flux", loras=loras, **VALUES)
        assert (caught.value.name, caught.value.kind) == ("adapter_incompatible", "input")
        assert loader.run(root / "base", loras=loras, **VALUES).outputs == bent
    with opened(tmp_path / "home") as loader:
        with pytest.raises(FailedRunError, match="which this model does not have"):
            loader.run(tmp_path / "flux", loras=loras, **VALUES)
        assert loader.run(root / "base", loras=loras, **VALUES).outputs == bent


def test_values_of_a_program_are_as_good_as_a_routers(tmp_path: Path) -> None:
    picture = Image.new("RGB", (2, 1), (255, 0, 0))
    picture.save(tmp_path / "réd.png")
    data = (tmp_path / "réd.png").read_bytes()
    uri = f"data:;base64,{base64.b64encode(data).decode()}"
    given = carried(
        {
            "seed": np.int64(7),
            "strength": np.float32(0.5),
            "image_size": (np.int64(64), 32),
            "prompt": None,
            "image_url": tmp_path / "réd.png",
            "mask_url": data,
            "control_image_url": "https://example.com/a.png",
            "image_urls": [str(tmp_path / "réd.png"), picture],
        }
    )
    drawn = given.pop("image_urls")
    assert given == {
        "seed": 7,
        "strength": 0.5,
        "image_size": {"width": 64, "height": 32},
        "image_url": uri,
        "mask_url": uri,
        "control_image_url": "https://example.com/a.png",
    }
    assert drawn[0] == uri
    made = Image.open(io.BytesIO(base64.b64decode(drawn[1].partition(",")[2])))
    assert (made.size, made.getpixel((0, 0))) == ((2, 1), (255, 0, 0))
    with pytest.raises(InputError, match=r"nothing\.png cannot be read: No such file") as caught:
        carried({"image_url": "nothing.png"})
    assert caught.value.location == ("image_url",)


def test_of_many_words_on_one_thing_few_are_passed_on() -> None:
    told: list[Motion] = []
    tell, start = (
        Telling(told.append, seconds=100),
        Motion(kind="fetch", name="a", done_bytes=0, size_bytes=9),
    )
    for done in (0, 1, 2, 9, 9, 5):
        tell(msgspec.structs.replace(start, done_bytes=done))
    tell(msgspec.structs.replace(start, name="b"))
    assert [(motion.name, motion.done_bytes) for motion in told] == [("a", 0), ("a", 9), ("b", 0)]


@pytest.mark.parametrize(
    ("is_terminal", "written"),
    [
        (
            True,
            (
                "\rfetching u/w: 0 bytes of 8.0 GB\x1b[K"
                "\rfetching u/w: 2.0 GB of 8.0 GB, 200 MB/s, 0:30 left\x1b[K"
                "\rfetched u/w: 8.0 GB in 0:40\x1b[K\n"
                "\rreading t: 4.0 GB of 8.0 GB, 3 of 9 tensors\x1b[K"
                "\rstep 1 of 2\x1b[K\rstep 2 of 2\x1b[K\n"
            ),
        ),
        (
            False,
            "fetching u/w: 2.0 GB of 8.0 GB, 200 MB/s, 0:30 left\nfetched u/w: 8.0 GB in 0:40\nstep 2 of 2\n",
        ),
    ],
)
def test_who_waits_sees_what_comes_and_how_long_it_takes(*, is_terminal: bool, written: str) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    now, stream = [0.0], Stream()
    display = showing.Display(stream, clock=lambda: now[0])
    fetched = Motion(kind="fetch", name="u/w", done_bytes=0, size_bytes=8_000_000_000)
    for at, done in ((0, 0), (10, 2_000_000_000), (40, 8_000_000_000)):
        now[0] = at
        display.moved(msgspec.structs.replace(fetched, done_bytes=done))
    display.moved(Motion(kind="fetch", name="small", done_bytes=1, size_bytes=2))
    read = Motion(kind="read", name="t", done_bytes=4_000_000_000, size_bytes=8_000_000_000, tensors=9)
    display.moved(msgspec.structs.replace(read, done_tensors=3))
    display.moved(msgspec.structs.replace(read, done_bytes=8_000_000_000))
    display.stepped(1, 2)
    display.stepped(2, 2)
    assert stream.getvalue() == written


def test_sizes_and_times_are_short() -> None:
    assert [showing.size(n) for n in (0, 999, 1000, 999_600, 1_240_000, 123_400_000, 9_960_000_000)] == [
        "0 bytes", "999 bytes", "1 kB", "1.0 MB", "1.2 MB", "123 MB", "10.0 GB",
    ]  # fmt: skip
    assert [showing.clock(seconds) for seconds in (0, 65, 3725)] == ["0:00", "1:05", "1:02:05"]
