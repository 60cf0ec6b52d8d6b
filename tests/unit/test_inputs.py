"""What a refused input says: the field that is meant, what is wrong with it, and what there is instead."""

import pytest

from router.errors import InvalidInputError
from router.inputs import Checker

SIZE = {
    "anyOf": [
        {"type": "object", "properties": {"width": {"type": "integer", "maximum": 64}}},
        {"enum": ["square", "portrait"]},
    ]
}
SCHEMA = {
    "type": "object",
    "properties": {"prompt": {"type": "string"}, "image_size": SIZE},
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image_size": {"width": 65}}, "body.image_size.width: 65 is greater than the maximum of 64"),
        (
            {"image_size": "squar"},
            'body.image_size: "squar" is not of type "object"; "squar" is not one of "square" or "portrait"',
        ),
        (
            {"promt": "a"},
            "body: Additional properties are not allowed ('promt' was unexpected); there are prompt, image_size",
        ),
    ],
    ids=["the nearest of several shapes speaks", "no shape is near: all speak", "unknown field"],
)
def test_a_refusal_says_what_would_be_right(values, said):
    with pytest.raises(InvalidInputError) as refused:
        Checker(SCHEMA).complete(values, None)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({"prompt": "a", "seeed": 1}, {"prompt": "a"}),
        ({"prompt": "a", "loras": []}, {"prompt": "a"}),
        ({"prompt": "a", "loras": None}, {"prompt": "a"}),
    ],
    ids=["what outlived a model", "no LoRA", "none"],
)
def test_an_open_schema_drops_what_it_does_not_know(values, kept):
    assert Checker({"type": "object", "properties": {"prompt": {}}}).complete(values, None) == kept


def test_loras_are_refused_where_none_can_be_taken_and_never_dropped():
    with pytest.raises(InvalidInputError) as refused:
        Checker({"type": "object", "properties": {"prompt": {}}}).complete(
            {"prompt": "a", "loras": [{"path": "acme/outline"}]}, None
        )
    assert str(refused.value) == "body.loras: this model takes no LoRAs; there are prompt"
