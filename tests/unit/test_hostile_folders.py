"""A pipeline's JSON that means mischief is refused by name, before anything is made of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from registry import folders
from registry.errors import FolderError

INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"


def _pipeline(folder: Path, shards: Any, class_name: str = "UNet2DConditionModel") -> Path:
    (folder / "unet").mkdir()
    model = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", class_name]}
    (folder / "model_index.json").write_text(json.dumps(model))
    (folder / "unet" / "config.json").write_text("{}")
    (folder / INDEX).write_text(json.dumps(shards))
    return folder


@pytest.mark.parametrize(
    "shards",
    [
        {},
        {"weight_map": {}},
        {"weight_map": []},
        {"weight_map": ["a.safetensors"]},
        {"weight_map": {"a": ["b.safetensors"]}},
        {"weight_map": {"a": 7}},
        {"weight_map": None},
    ],
)
def test_an_index_that_names_no_shards_is_refused(tmp_path: Path, shards: Any) -> None:
    with pytest.raises(FolderError, match="names no shards"):
        folders.read_pipeline(_pipeline(tmp_path, shards))


def test_a_config_of_nothing_but_brackets_is_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_bytes(b'{"a":[' + b"[]," * 3_000_000 + b"[]]}")
    with pytest.raises(FolderError, match="too large to be a config"):
        folders.read_pipeline(tmp_path)


def test_text_that_nobody_can_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"model_index.json is not JSON"):
        folders.read_pipeline(_pipeline(tmp_path, {}, "\ud800"))


def test_names_that_nobody_can_print_are_refused(tmp_path: Path) -> None:
    """Postgres stores no NUL: the validation ended in an unexpected error."""
    with pytest.raises(FolderError, match="names that nobody can print"):
        folders.read_pipeline(_pipeline(tmp_path, {}, "UNet2D\0ConditionModel"))
