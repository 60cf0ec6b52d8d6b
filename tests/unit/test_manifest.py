"""What is wrong with a catalogue file is named with its YAML path and line; what is right becomes records."""

import pytest

from registry import manifest
from registry.catalog import AdapterEntry, Catalog, Model, Organization, Partner, Price, Slug, Source, Variant
from registry.errors import CatalogFileError

GOOD = """
organizations:
  acme: {title: Acme}
schemas:
  prompt: {type: object}
models:
  acme/toys:
    task: text-to-image
    licence: mit
    input: prompt
    pipeline: FluxPipeline
    defaults: {dtype: bfloat16}
    variants:
      acme/toys: {hub: acme/toys@abc123, price: {unit: image, amount: "0.02"}}
      far/toys/fast:
        licence: other
        partner: {provider: fal, endpoint: fal-ai/toys}
        input: {type: object, required: [x]}
adapters:
  acme/toys-bent: {base: acme/toys, hub: acme/bent, weights: bent.safetensors}
"""


def test_families_hand_their_defaults_down() -> None:
    source = Source(kind="hub", location="acme/toys", revision="abc123")
    first = Variant(
        slug=Slug("acme/toys"),
        model="acme/toys",
        task="text-to-image",
        input_schema={"type": "object"},
        licence="mit",
        price=Price(unit="image", amount="0.02"),
        source=source,
        pipeline_class="FluxPipeline",
        defaults={"dtype": "bfloat16"},
    )
    second = Variant(
        slug=Slug("far/toys/fast"),
        model="acme/toys",
        task="text-to-image",
        input_schema={"type": "object", "required": ["x"]},
        licence="other",
        partner=Partner(provider="fal", endpoint="fal-ai/toys"),
        defaults={"dtype": "bfloat16"},
    )
    bent = AdapterEntry(
        slug=Slug("acme/toys-bent"),
        base=Slug("acme/toys"),
        source=Source(kind="hub", location="acme/bent"),
        weight_name="bent.safetensors",
    )
    assert manifest.parse(GOOD) == Catalog(
        organizations=(Organization(name="acme", title="Acme"), Organization(name="far")),
        models=(Model(name="acme/toys", licence="mit"),),
        variants=(first, second),
        adapters=(bent,),
    )


def test_an_empty_catalogue_has_to_say_so() -> None:
    """An empty file is one that was cut or mistaken; applied, it would remove everything."""
    assert manifest.parse("models: {}") == Catalog()
    with pytest.raises(CatalogFileError, match="it is empty"):
        manifest.parse("# nothing\n")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("task: text", "tusk: text", "models → acme/toys → tusk (line 8): Object contains unknown field `tusk`; there are description, task, tags, licence, input, hub, partner, price, pipeline, defaults, provenance, title, variants"),
        ("licence: mit", "licence: 3", "models → acme/toys → licence (line 9): Expected `str | null`, got `int`"),
        ("    task: text-to-image\n", "", "models → acme/toys → variants → acme/toys (line 13): neither the variant nor its family names a task"),
        ("    input: prompt\n", "", "models → acme/toys → variants → acme/toys (line 13): neither the variant nor its family says what input it takes"),
        ("input: prompt", "input: other", "models → acme/toys → variants → acme/toys → input (line 14): no schema named 'other' under schemas"),
        ("hub: acme/toys@abc123", "hub: a/b, path: c", "models → acme/toys → variants → acme/toys (line 14): one of path, hub and partner, not path and hub"),
        ("far/toys/fast", "acme/toys", "catalogue file (line 15): 'acme/toys' stands twice"),
        ("licence: mit", f"licence: {'[' * 200_000}", "catalogue file (line 9): nested deeper than 100 levels"),
        ("licence: mit", f"licence:\n{' ' * 7}{'- ' * 200_000}x", "catalogue file (line 10): nested deeper than 100 levels"),
        ("far/toys/fast", "fast", "models → acme/toys → variants → fast (line 15): 'fast' is not owner/name (letters, digits, . _ - and /)"),
        ("far/toys/fast", "workflows/a/b", "models → acme/toys → variants → workflows/a/b (line 15): 'workflows/a/b' uses a reserved word"),
        ("far/toys/fast", "far/requests", "models → acme/toys → variants → far/requests (line 15): 'far/requests' uses a reserved word"),
        ("base: acme/toys", "base: acme/tays", "adapters → acme/toys-bent → base (line 20): no variant acme/tays"),
        ("hub: acme/bent, ", "", "adapters → acme/toys-bent (line 20): an adapter needs a path, a hub repository or a url"),
        ("unit: image", "unit: banana", "models → acme/toys → variants → acme/toys → price → unit (line 14): Invalid enum value 'banana'; there are gpu_second, image, megapixel, request, second, video"),
        ('amount: "0.02"', "amount: nought", "models → acme/toys → variants → acme/toys → price (line 14): 'nought' is no amount: from 0 to 1,000,000,000, with at most 12 decimals"),
        ("weights: bent.safetensors", "recommended_scale: .nan", "adapters → acme/toys-bent → recommended_scale (line 20): from -10 to 10"),
        ("{title: Acme}", "{title: !!int Acme}", "catalogue file: not YAML: invalid literal for int() with base 10: 'Acme'"),
        ("{title: Acme}", "{title: [", "catalogue file (line 5): not YAML: did not find expected ',' or ']'"),
        ("title: Acme", "? [a]: Acme", "catalogue file (line 3): a name has to be text"),
        ("acme: {", "a b: {", "organizations → a b (line 3): letters, digits, . _ and -, at most 64"),
        ("title: Acme", "title: \x01", "catalogue file: not YAML: unacceptable character #x0001: control characters are not allowed"),
        ("models:", "- models:", "catalogue file (line 6): not YAML: did not find expected key"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(before: str, after: str, message: str) -> None:
    assert GOOD.count(before) >= 1
    with pytest.raises(CatalogFileError) as caught:
        manifest.parse(GOOD.replace(before, after, 1))
    assert str(caught.value) == message


DOCUMENTED = """
models:
  acme/toys:
    task: text-to-image
    input: documented
    hub: acme/toys
    partner: null
    variants:
      acme/toys: {pipeline: FluxPipeline}
      acme/toys/far: {partner: fal}
"""


def test_documented_inputs_follow_from_what_a_variant_is() -> None:
    asked = []

    def documented(kind: str, name: str) -> dict[str, str]:
        asked.append((kind, name))
        return {"title": name}

    here, far = manifest.parse(DOCUMENTED, documented).variants
    assert asked == [("pipeline", "FluxPipeline"), ("endpoint", "acme/toys/far")]
    assert (here.source, here.partner) == (Source(kind="hub", location="acme/toys"), None)
    assert (far.source, far.partner) == (None, Partner(provider="fal", endpoint="acme/toys/far"))


def test_an_undocumented_input_is_named() -> None:
    with pytest.raises(
        CatalogFileError, match=r"acme/toys → input \(line 9\): no documented input is known for it"
    ):
        manifest.parse(DOCUMENTED)
