"""Pipelines on disk, made once a run."""

from pathlib import Path

import pytest

from tests import tiny

CATALOG = """
schemas:
  prompt: {type: object, required: [prompt], properties: {prompt: {type: string}}, examples: [{prompt: a}]}
models:
  acme/toys:
    task: text-to-image
    input: prompt
    variants:
      acme/toys: {path: toys}
      acme/toys/late: {path: toys-late}
adapters:
  acme/toys-bent: {base: acme/toys, path: toys-bent, trigger_words: [bent]}
"""


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue file with two variants of one architecture and a LoRA. Read it, copy it, never change it."""
    folder = tmp_path_factory.mktemp("toys")
    tiny.save_pipeline(folder / "toys", seed=1)
    tiny.save_pipeline(folder / "toys-late", seed=2, base=folder / "toys")
    tiny.save_lora(folder / "toys-bent", seed=3)
    (folder / "catalog.yaml").write_text(CATALOG)
    return folder / "catalog.yaml"
