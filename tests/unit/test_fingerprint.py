"""Same work, same key; anything that changes the output, or who may see it, changes the key."""

import pytest

from loaders.protocol import AdapterUse
from registry.catalog import Digest, OrganizationName
from router.fingerprint import fingerprint
from router.repeats import repeat

VERSION, LORA = Digest("sha256:version"), Digest("sha256:lora")
INPUT = {
    "prompt": "a red circle",
    "seed": 7,
    "guidance_scale": 4.0,
    "image_size": {"width": 64, "height": 64},
}
ACME = OrganizationName("acme")
BASE = fingerprint(VERSION, [AdapterUse(LORA, 1.0)], INPUT, ACME)


@pytest.mark.parametrize(
    "values",
    [
        dict(reversed(INPUT.items())),  # order of keys
        INPUT | {"guidance_scale": 4},  # the same number
        INPUT | {"sync_mode": True},  # how the answer travels
        INPUT | {"previews": True},  # and what is shown on the way
        INPUT | {"negative_prompt": None},  # nothing said
    ],
)
def test_the_same_work_has_one_key(values):
    assert fingerprint(VERSION, [AdapterUse(LORA, 1.0)], values, ACME) == BASE


@pytest.mark.parametrize(
    ("version", "adapters", "values", "owner"),
    [
        (Digest("sha256:other"), [AdapterUse(LORA, 1.0)], INPUT, ACME),
        (VERSION, [], INPUT, ACME),
        (VERSION, [AdapterUse(LORA, 0.5)], INPUT, ACME),
        (VERSION, [AdapterUse(LORA, 1.0)], INPUT | {"seed": 8}, ACME),
        (VERSION, [AdapterUse(LORA, 1.0)], INPUT, OrganizationName("rival")),
        (VERSION, [AdapterUse(LORA, 1.0)], INPUT, None),
    ],
)
def test_other_work_or_another_owner_has_another_key(version, adapters, values, owner):
    assert fingerprint(version, adapters, values, owner) != BASE


def test_without_a_seed_every_request_is_new():
    assert fingerprint(VERSION, [], {"prompt": "a red circle"}, ACME) is None


def test_a_repeat_is_told_by_what_it_asks():
    asked = [
        repeat(ACME, "k", slug, values).asked
        for slug, values in [
            ("acme/toys", INPUT),
            ("acme/toys", dict(reversed(INPUT.items()))),
            ("acme/toys", INPUT | {"seed": 8}),
            ("acme/toys/late", INPUT),
        ]
    ]
    assert asked[0] == asked[1]
    assert len(set(asked)) == 3
