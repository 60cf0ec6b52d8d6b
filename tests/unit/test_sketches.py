"""Previews by what earlier runs taught: laid out right, learned exactly, kept, and nobody's output is another for it."""

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loaders import protocol, sketches, sketching
from loaders.running import Finished
from loaders.sketches import Grid, Size, Sketches
from registry import folders
from registry.catalog import Digest
from tests import architectures
from tests.architectures.calls import CALLS
from tests.bench import Bench

pytestmark = [
    pytest.mark.filterwarnings("ignore:::diffusers"),
    pytest.mark.filterwarnings("ignore:::transformers"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # torch on diffusers' weight norm
]
STARTER = Path(__file__).parents[2] / "starter/models/shapes"
WHOSE = Digest("sha256:" + "a" * 64)


@pytest.mark.parametrize(
    ("word", "tokens", "size", "expected"),
    [
        ("a square", 4096, Size(1, 1024, 1024), (1, 64, 64)),
        ("a wide one", 48 * 64, Size(1, 768, 1024), (1, 48, 64)),
        ("a clip whose first frame is a latent of its own", 13 * 60 * 90, Size(49, 480, 720), (13, 60, 90)),
        ("a clip that is shrunk eightfold", 4 * 16 * 24, Size(25, 512, 768), (4, 16, 24)),
        ("sides that are rounded", 33 * 60, Size(1, 530, 960), (1, 33, 60)),
        ("no rectangle of that shape", 4095, Size(1, 1024, 1024), None),
        ("more than the picture's cells", 3 * 4096, Size(1, 1024, 1024), None),
    ],
)
def test_a_sequence_of_tokens_is_laid_out(word: str, tokens: int, size: Size, expected: Grid | None) -> None:
    assert sketches.grid(tokens, size) == expected, word


@pytest.mark.parametrize(
    ("word", "shape", "layout", "channels", "expected"),
    [
        ("a grid", (2, 4, 6, 8), None, 4, (6, 8, 4)),
        ("a clip", (1, 16, 3, 6, 8), None, 16, (6, 8, 16)),
        ("a clip with its frames first", (1, 3, 16, 6, 8), None, 16, (6, 8, 16)),
        ("a sequence", (1, 48, 64), (1, 6, 8), None, (6, 8, 64)),
        ("a clip's sequence", (1, 144, 64), (3, 6, 8), None, (6, 8, 64)),
        ("a sequence laid out otherwise", (1, 48, 64), (1, 5, 8), None, None),
        ("a sequence of unknown layout", (1, 48, 64), None, None, None),
        ("a sound", (1, 64), None, 64, None),
    ],
)
def test_cells_are_of_the_first_frame(
    word: str,
    shape: tuple[int, ...],
    layout: Grid | None,
    channels: int | None,
    expected: tuple[int, ...] | None,
) -> None:
    found = sketches.cells(np.zeros(shape, np.float32), layout, channels)
    assert (None if found is None else found.shape) == expected, word


def colours(webp: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(webp)).convert("RGB")) / 255


@pytest.mark.parametrize("patch", [1, 2])
def test_what_is_a_linear_map_is_found(patch: int) -> None:
    rng = np.random.default_rng(0)
    smooth = np.asarray(Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8)).resize((32, 32))) / 255
    per_cell = sketches._patches(smooth, patch)
    mixing = rng.standard_normal((per_cell.shape[1], 16))
    found = (per_cell @ mixing).reshape(32 // patch, 32 // patch, 16)
    sketch = sketches.learn(found, smooth, patch)
    assert sketch is not None
    fitted = sketches.fit(sketch)
    drawn = sketches.draw(fitted, found)
    assert drawn is not None
    assert np.abs(colours(drawn) - smooth).mean() < 0.03
    assert sketches.draw(fitted, found[..., :8]) is None, "latents of another kind"


@pytest.mark.parametrize("found", [np.zeros((1, 1, 4)), np.full((4, 4, 4), np.nan)])
def test_too_little_teaches_nothing(found: Any) -> None:
    assert sketches.learn(found, np.zeros((8, 8, 3)), 1) is None


def test_lessons_add_up_and_the_newest_always_counts() -> None:
    """Two pictures of one colour each: none of them alone says what is between."""
    cells = {shade: np.full((2, 2, 1), shade) for shade in (0.0, 1.0)}
    lessons = [sketches.learn(found, np.full((2, 2, 3), shade), 1) for shade, found in cells.items()]
    dark, light = (lesson for lesson in lessons if lesson is not None)
    both = sketches.joined(sketches.joined(None, dark), light)
    drawn = sketches.draw(sketches.fit(both), np.full((2, 2, 1), 0.5))
    assert drawn is not None
    assert np.abs(colours(drawn) - 0.5).max() < 0.02
    many = both
    for _ in range(200):
        many = sketches.joined(many, light)
    assert many.colours[0] > 0.99


@pytest.mark.parametrize(
    ("word", "result", "expected"),
    [
        ("pictures", {"images": np.ones((2, 4, 6, 3))}, ((4, 6, 3), 1)),
        ("grey ones", {"images": np.ones((2, 4, 6))}, ((4, 6, 3), 1)),
        ("bytes with their opacity", {"images": [Image.new("RGBA", (6, 4))]}, ((4, 6, 3), 1)),
        ("clips", {"frames": np.ones((1, 5, 4, 6, 3))}, ((4, 6, 3), 5)),
        ("sounds", {"audios": np.ones((1, 2, 100))}, None),
        ("nothing", {"images": []}, None),
    ],
)
def test_the_first_picture_is_the_one_learned_from(
    word: str, result: dict[str, Any], expected: tuple[tuple[int, ...], int] | None
) -> None:
    found = sketches.first_picture(SimpleNamespace(**result))
    assert (None if found is None else (found[0].shape, found[1])) == expected, word


def test_what_was_learned_outlives_the_process(tmp_path: Path) -> None:
    sketch = sketches.learn(np.ones((2, 2, 1)), np.full((2, 2, 3), 0.5), 1)
    assert sketch is not None
    Sketches(tmp_path).put(WHOSE, sketches.laid_out(sketch, 12, (1, 3, 4)))
    Sketches(tmp_path).put(WHOSE, sketches.laid_out(sketch, 16, (1, 4, 4)))
    kept = Sketches(tmp_path).get(WHOSE)
    assert kept is not None
    assert (kept.lessons, kept.grids) == (2, {12: (1, 3, 4), 16: (1, 4, 4)})
    next(tmp_path.glob("*.json")).write_bytes(b"{")
    assert Sketches(tmp_path).get(WHOSE) is None


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(sketching, "PREVIEW_SECONDS", 0.0)
    one = Bench(tmp_path / "home", 1 << 30)
    yield one
    one.engine.close()


def shown(bench: Bench, manifest: Any, **values: Any) -> tuple[tuple[bytes, ...], list[bytes]]:
    """Outputs of a run, and the previews on the way."""
    bench.submit(manifest, **values)
    previews: list[bytes] = []
    while not isinstance(event := bench.events.get(timeout=600), Finished):
        assert not isinstance(event, protocol.Failed), event
        if isinstance(event, protocol.Progress) and event.preview:
            previews.append(event.preview)
    return event.outputs, previews


@pytest.mark.parametrize(
    ("family", "size"),
    [("sd15", (16, 16)), ("flux", (16, 16)), ("wan", (4, 4)), ("ltx", (16, 16)), ("cogvideox", (2, 2))],
)  # fmt: skip
def test_every_family_shows_what_it_makes_and_makes_the_same(
    bench: Bench, tmp_path: Path, family: str, size: tuple[int, int]
) -> None:
    manifest = folders.read_pipeline(architectures.write(tmp_path / family, family, seed=1))
    values = {**CALLS[family].defaults, **CALLS[family].values, "num_inference_steps": 3}
    made, untold = shown(bench, manifest, **values)
    same, told = shown(bench, manifest, **values, previews=True)
    assert (same, untold) == (made, [])
    sizes = [Image.open(io.BytesIO(preview)).size for preview in told]
    assert sizes == [size, size]


def test_a_trained_models_preview_looks_like_its_picture(bench: Bench) -> None:
    manifest = folders.read_pipeline(STARTER)
    call = {"prompt": "a red circle on white", "num_inference_steps": 20, "image_size": "64x64"}
    for prompt in ("a red circle on white", "a green triangle on black", "a yellow square on blue"):
        shown(bench, manifest, **{**call, "prompt": prompt})
    outputs, previews = shown(bench, manifest, **{**call, "prompt": "a blue square on black"}, previews=True)
    whole = Image.open(io.BytesIO(outputs[0])).convert("RGB")

    def apart(preview: bytes) -> float:
        drawn = colours(preview)
        small = whole.resize((drawn.shape[1], drawn.shape[0]), Image.Resampling.BOX)
        return float(np.abs(drawn - np.asarray(small) / 255).mean())

    assert apart(previews[-1]) < min(0.05, apart(previews[0]))
