"""The name that was meant."""

import pytest

from router import spelling

NAMES = ("fal-ai/flux/dev", "fal-ai/flux/schnell", "black-forest-labs/FLUX.1-dev", "marquee/shapes")


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("marquee/shpes", ["marquee/shapes"]),
        ("black-forest-labs/flux-1-dev", ["black-forest-labs/FLUX.1-dev"]),
        ("fal-ai/flux-dev", ["fal-ai/flux/dev"]),
        ("somebody/else", []),
        ("", []),
    ],
    ids=["letter", "case and dots", "punctuation", "nothing", "no name"],
)
def test_near(wrong, meant):
    assert list(spelling.Names(NAMES).near(wrong)) == meant


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("dragn", "dragon"), ("flxu", "flux"), ("dragonn", "dragon"), ("unicorn", None), ("fluz", "flux"), ("", None)],
    ids=["letter missing", "swapped", "letter too many", "nothing", "as likely, first of the alphabet", "no word"],
)  # fmt: skip
def test_nearest(wrong, meant):
    assert spelling.nearest(wrong, spelling.by_length({"dragon", "flux", "fluy", "shapes"})) == meant
