"""Request ids order themselves by time and name their day."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from router import ids

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_id_is_a_version_7_uuid_of_its_time() -> None:
    made = ids.request_id(NOON.timestamp(), entropy=lambda bits: 0)
    assert (UUID(made).version, UUID(made).variant) == (7, "specified in RFC 4122")
    assert ids.created_at(made) == NOON


def test_later_ids_sort_later() -> None:
    earlier = ids.request_id(NOON.timestamp(), entropy=lambda bits: (1 << bits) - 1)
    later = ids.request_id(NOON.timestamp() + 0.001, entropy=lambda bits: 0)
    assert earlier < later


@pytest.mark.parametrize("text", ["", "x", "../../etc", "6f1b1a0e-8a52-4a4f-9c57-0f7c3f1c2d3e"], ids=repr)
def test_other_text_is_no_id(text: str) -> None:
    assert ids.parse(text) is None
