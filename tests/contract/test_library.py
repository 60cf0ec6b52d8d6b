"""The loader without a server: as a library and as `marquee load`, from folders and from a catalogue file."""

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from loaders import FailedRunError, Loader
from loaders.cli import load
from loaders.errors import InputError, WeightsMissingError
from registry import folders
from registry.settings import Settings
from tests import tiny
from tests.hub import Hub, Repository

VALUES = {"prompt": "red", "seed": 3, "num_inference_steps": 2, "image_size": "32x32"}
ROOT = Path(__file__).parents[2]
CATALOG = """
organizations: {toys: {title: Toys}}
models:
  toys/bricks:
    title: Bricks
    task: text-to-image
    input: {type: object, properties: {prompt: {type: string}}}
    variants:
      toys/bricks: {name: Bricks, path: base, defaults: {num_inference_steps: 2, result_cache: private}}
adapters:
  toys/bent: {name: Bent, base: toys/bricks, path: lora}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny.save_pipeline(folder / "base", seed=1)
    tiny.save_lora(folder / "lora", seed=3)
    (folder / "catalog.yaml").write_text(CATALOG)
    return folder


def test_a_folder_and_a_slug_of_the_same_bytes_give_the_same_picture(root: Path, tmp_path: Path) -> None:
    with Loader(Settings(home=tmp_path, device="cpu"), catalog=root / "catalog.yaml") as loader:
        by_folder = loader.run(root / "base", **VALUES)
        assert loader.run("toys/bricks", **VALUES).outputs == by_folder.outputs
        by_default = {name: value for name, value in VALUES.items() if name != "num_inference_steps"}
        assert loader.run("toys/bricks", **by_default).outputs == by_folder.outputs
        bent = loader.run("toys/bricks", loras=[("toys/bent", 1.0)], **VALUES)
        assert bent.outputs != by_folder.outputs
        by_file = loader.run(root / "base", loras=[(root / "lora" / folders.ADAPTER_FILE, 1.0)], **VALUES)
        assert by_file.outputs == bent.outputs
        with pytest.raises(InputError, match="no LoRA nowhere"):
            loader.run("toys/bricks", loras=[("nowhere", 1.0)], **VALUES)
        with pytest.raises(InputError, match=r"did you mean toys/bent\?"):
            loader.run("toys/bricks", loras=[("toys/bend", 1.0)], **VALUES)
        with pytest.raises(FailedRunError) as caught:
            loader.run("toys/bricks", **VALUES | {"image_size": "huge"})
        assert caught.value.failure.location == ("image_size",)
        with pytest.raises(WeightsMissingError, match=r"holds|missing"):
            loader.run(root / "lora", **VALUES)


def test_the_catalogue_of_this_project_is_understood(tmp_path: Path) -> None:
    """As the documentation says it: by slug, with a LoRA's slug."""
    with Loader(Settings(home=tmp_path, device="cpu"), catalog=ROOT / "catalog.yaml") as loader:
        plain = loader.run("marquee/shapes", **VALUES)
        bent = loader.run("marquee/shapes", loras=[("marquee/shapes-outline", 0.8)], **VALUES)
    assert plain.outputs != bent.outputs


def test_a_repository_and_an_address_of_the_same_bytes_give_it_too(root: Path, tmp_path: Path) -> None:
    """Weights come through the store: ranged, resumed, verified; no second copy in the Hub client's own cache."""
    files = {p.relative_to(root / "base").as_posix(): p.read_bytes() for p in (root / "base").rglob("*.*")}
    bent = {folders.ADAPTER_FILE: (root / "lora" / folders.ADAPTER_FILE).read_bytes()}
    server = Hub({"toys/bricks": Repository(files), "toys/bent": Repository(bent)}).start()
    address = f"{server.endpoint}/cdn/toys/bent/resolve/main/{folders.ADAPTER_FILE}"
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(
        CATALOG.replace("path: base", "hub: toys/bricks").replace("path: lora", f"url: {address}")
    )
    settings = Settings(home=tmp_path / "home", device="cpu", hub_endpoint=server.endpoint)
    try:
        with Loader(settings) as loader:
            by_folder = loader.run(root / "base", loras=[(root / "lora", 0.5)], **VALUES)
        with Loader(settings, catalog=catalog) as loader:
            by_slug = loader.run("toys/bricks", loras=[("toys/bent", 0.5)], **VALUES)
        with Loader(msgspec.structs.replace(settings, home=tmp_path / "other")) as loader:
            by_repository = loader.run("toys/bricks", loras=[(root / "lora", 0.5)], **VALUES)
            with pytest.raises(WeightsMissingError, match="no repository that the Hub gives us"):
                loader.run("toys/none", **VALUES)
        with (
            Loader(settings, catalog=catalog) as loader,
            pytest.raises(WeightsMissingError, match=r"did you mean toys/bricks\?"),
        ):
            loader.run("toys/brick", **VALUES)
    finally:
        server.stop()
    assert by_folder.outputs == by_slug.outputs == by_repository.outputs
    assert not (tmp_path / "home/hub").exists()


def test_the_command_writes_the_picture_and_says_what_fails(root: Path, tmp_path: Path) -> None:
    arguments = [
        "--prompt",
        "red",
        "--steps",
        "2",
        "--size",
        "32x32",
        "--home",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    runner = CliRunner(env={"MARQUEE_TEST_CLUSTER": None})  # the tests' own, not a setting
    done = runner.invoke(load, [str(root / "base"), "--out", str(tmp_path / "out"), *arguments])
    assert done.exit_code == 0, done.output
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".png"]
    bent = runner.invoke(
        load,
        [str(root / "base"), "--lora", f"{root / 'lora'}:0.5", "--out", str(tmp_path / "out"), *arguments],
    )
    assert bent.exit_code == 0, bent.output
    assert "\nlora: kept: " in bent.output
    failed = runner.invoke(load, [str(root / "lora"), *arguments])
    assert failed.exit_code == 1
    assert "model_index.json" in failed.output
