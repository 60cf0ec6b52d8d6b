import json

import pytest

from router.storefront import forms

SIZES = {
    "anyOf": [
        {"$ref": "#/$defs/Size"},
        {"enum": ["square_hd", "landscape_4_3"]},
    ],
    "default": "landscape_4_3",
}
SIZE = {"type": "object", "properties": {"width": {"type": "integer"}, "height": {"type": "integer"}}}


def one(shape: dict[str, object], name: str = "thing", **root: object) -> forms.Field:
    return forms.fields({"properties": {name: shape}, **root})[0]


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("prompt", {"type": "string"}, "prompt"),
        ("edit_prompt", {"type": "string"}, "prompt"),
        ("voice", {"type": "string"}, "text"),
        ("image_url", {"type": "string"}, "address"),
        ("picture", {"type": "string", "format": "uri"}, "address"),
        ("steps", {"type": "integer"}, "integer"),
        ("seed", {"type": "integer"}, "seed"),
        ("seed", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "seed"),
        ("seed", {"type": ["integer", "null"]}, "seed"),
        ("scale", {"type": "number"}, "number"),
        ("safe", {"type": "boolean"}, "toggle"),
        ("format", {"enum": ["png", "jpeg"]}, "choice"),
        ("format", {"const": "png"}, "choice"),
        ("format", {"allOf": [{"$ref": "#/$defs/Format"}]}, "choice"),
        ("image_size", SIZES, "size"),
        ("image_size", {"oneOf": [SIZE, {"enum": ["square"]}]}, "size"),
        ("loras", {"type": "array", "items": {"type": "object"}}, "loras"),
        ("image_urls", {"type": "array", "items": {"type": "string"}}, "lines"),
        ("points", {"type": "array", "items": {"type": "object"}}, "json"),
        ("camera", {"type": "object"}, "json"),
        ("anything", {}, "json"),
        ("loop", {"$ref": "#/$defs/Loop"}, "json"),
    ],
)
def test_each_shape_gets_its_control(name: str, shape: dict[str, object], kind: str) -> None:
    definitions = {"Format": {"enum": ["png"]}, "Size": SIZE, "Loop": {"$ref": "#/$defs/Loop"}}
    assert one(shape, name, **{"$defs": definitions}).kind == kind


def test_bounds_are_kept_and_exclusive_ones_move_by_one_unit() -> None:
    field = one({"type": "integer", "exclusiveMinimum": 0, "maximum": 50})
    assert (field.minimum, field.maximum, field.step, field.has_range) == (1, 50, "1", True)


def test_a_seed_has_no_slider() -> None:
    assert not one({"type": "integer", "minimum": 0, "maximum": 2**31}, "seed").has_range


def test_choices_keep_their_json_types() -> None:
    field = one({"enum": [5, 10, "auto"], "default": 10})
    assert [json.loads(choice.value) for choice in field.choices] == [5, 10, "auto"]
    assert field.value == "10"


def test_a_preset_size_is_chosen_by_name() -> None:
    field = one(SIZES, "image_size", **{"$defs": {"Size": SIZE}})
    assert [choice.label for choice in field.choices] == ["square hd", "landscape 4 3"]
    assert (field.value, field.width) == ('"landscape_4_3"', None)


def test_a_size_in_pixels_opens_the_custom_pair() -> None:
    field = one({**SIZES, "default": {"width": 64, "height": 32}}, "image_size", **{"$defs": {"Size": SIZE}})
    assert (field.value, field.width, field.height) == ("custom", 64, 32)


def test_prompt_comes_first_and_the_rare_ones_fold_away() -> None:
    schema = {
        "required": ["prompt", "voice"],
        "properties": {
            "acceleration": {"type": "string"},
            "seed": {"type": "integer"},
            "voice": {"type": "string"},
            "prompt": {"type": "string"},
        },
    }
    assert [(field.name, field.advanced) for field in forms.fields(schema)] == [
        ("prompt", False),
        ("seed", False),
        ("voice", False),
        ("acceleration", True),
    ]


def test_the_order_a_schema_asks_for_wins() -> None:
    schema = {"properties": {"a": {}, "b": {}, "c": {}}, "x-fal-order-properties": ["c", "a", "gone"]}
    assert [field.name for field in forms.fields(schema)] == ["c", "a", "b"]


def test_an_example_of_the_whole_input_helps_each_field() -> None:
    schema = {"properties": {"prompt": {"type": "string"}}, "examples": [{"prompt": "a red circle"}]}
    assert forms.fields(schema)[0].example == "a red circle"


def test_nothing_to_fill_in_is_an_empty_form() -> None:
    assert forms.fields({}) == ()


@pytest.mark.parametrize(
    "shape",
    [
        True,
        {"anyOf": [True, {"type": "string"}]},
        {"allOf": [True, {"type": "string"}]},
        {"anyOf": [{"$ref": "#/properties/x"}, {"type": "null"}]},
        {"type": "array", "items": {"type": "string"}, "default": 5},
    ],
    ids=["true", "any", "all", "itself", "default"],
)
def test_a_valid_schema_like_none_that_a_model_has_is_a_json_field(shape: object) -> None:
    """Its page answered with an unexpected error."""
    (field,) = forms.fields({"properties": {"x": shape}, "x-fal-order-properties": [["x"], "x", "x"]})
    assert (field.name, field.kind) == ("x", "json")
