"""Refusals of records say what there is, at whatever depth."""

import msgspec
import pytest

from registry import choices
from registry.desk import VariantPatch


@pytest.mark.parametrize(
    ("sent", "place", "reason"),
    [
        ('{"tgs": 1}', (), "Object contains unknown field `tgs`; there are task, input_schema, name, description, tags, licence, price, defaults"),
        ('{"price": {"unit": "picture", "amount": "1"}}', ("price", "unit"), "Invalid enum value 'picture'; there are gpu_second, image, megapixel, request, second, video"),
        ('{"price": {"unit": "image"}}', ("price",), "Object missing required field `amount`"),
        ('{"tags": ["fast", 1]}', ("tags", "1"), "Expected `str`, got `int`"),
    ],
)  # fmt: skip
def test_a_refusal_says_where_and_what_there_is(sent: str, place: tuple[str, ...], reason: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.json.decode(sent, type=VariantPatch)
    assert choices.told(refused.value, VariantPatch) == (place, reason)
