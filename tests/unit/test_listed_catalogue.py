"""The catalogue of this repository: how many real entries of each kind, and that each rests on a documented fact."""

from collections import Counter
from pathlib import Path

import jsonschema_rs
import pytest

from registry import facts, manifest
from registry.catalog import Catalog, Variant

FILE = Path(__file__).parents[2] / "catalog.yaml"


@pytest.fixture(scope="module")
def listed() -> Catalog:
    return manifest.parse(FILE.read_text(), facts.schema)


def _kind(variant: Variant) -> str:
    if variant.partner is not None:
        return "partner"
    assert variant.source is not None
    return variant.source.kind


def test_counts_by_kind(listed: Catalog) -> None:
    kinds = Counter(map(_kind, listed.variants))
    classes = {variant.pipeline_class for variant in listed.variants if _kind(variant) == "hub"}
    assert len(listed.variants) >= 600
    assert kinds["hub"] >= 250
    assert len(classes) >= 40
    assert kinds["path"] == 2
    assert len(listed.adapters) >= 30


def test_every_entry_rests_on_a_documented_fact(listed: Catalog) -> None:
    weights = {(row["repo"], row["class"], row["precision"]) for row in facts.table("open_weights.tsv")}
    for variant in listed.variants:
        match variant.provenance:
            case "endpoints.jsonl":
                assert variant.partner is not None
                assert facts.endpoints()[variant.partner.endpoint].task == variant.task
                assert (variant.licence, variant.price, variant.source) == (None, None, None)
            case "open_weights.tsv":
                assert variant.source is not None
                claim = (variant.source.location, variant.pipeline_class, variant.defaults.get("dtype", ""))
                assert claim in weights
                assert (variant.licence, variant.price, variant.source.revision) == (None, None, None)
            case other:
                assert (other, variant.owner) == (None, "marquee"), "what cites nothing is our own"


def test_every_adapter_rests_on_a_documented_fact(listed: Catalog) -> None:
    loras = {row["repo"]: row["weight_names"].split(";") for row in facts.table("open_loras.tsv")}
    for adapter in listed.adapters:
        if adapter.owner == "marquee":
            continue
        assert adapter.provenance == "open_loras.tsv"
        assert (adapter.weight_name or "") in loras[adapter.source.location]


def test_every_schema_validates_its_own_example(listed: Catalog) -> None:
    for variant in listed.variants:
        validator = jsonschema_rs.Draft202012Validator(variant.input_schema)
        for example in variant.input_schema["examples"]:
            assert [error.message for error in validator.iter_errors(example)] == [], variant.slug


@pytest.mark.parametrize("size", ["square", {"width": 64, "height": 128}])
def test_the_starter_schema_takes_presets_and_sizes(listed: Catalog, size: object) -> None:
    (starter,) = [variant for variant in listed.variants if variant.slug == "marquee/shapes"]
    validator = jsonschema_rs.Draft202012Validator(starter.input_schema)
    assert validator.is_valid(
        {"prompt": "a red circle", "image_size": size, "loras": [{"path": "x", "scale": 0.5}]}
    )
    assert not validator.is_valid({"prompt": "a red circle", "image_size": {"width": 63, "height": 64}})
    assert not validator.is_valid({"prompt": "a red circle", "num_images": 5})
    assert not validator.is_valid({})
