"""Makes the gallery's example pictures anew with a running gateway: a contact sheet of twelve prompts per variant. IO.

Those in the repository are cut from the model card's contact sheets, every so-many-th picture, unchosen.

python tools/example_pictures.py http://127.0.0.1:8080 "$MARQUEE_KEY" marquee/shapes marquee/shapes/dusk
"""

import io
import sys
from pathlib import Path

import httpx
from PIL import Image

from registry.catalog import Slug
from router.storefront import art

FOLDER = Path(__file__).parents[1] / "router" / "storefront" / "static" / "examples"
COLUMNS, ROWS, SIDE = 4, 3, 120  # pixels a picture: the sheet is the card's 480 by 360
PROMPTS = (
    "a red circle on white",
    "a yellow star on navy",
    "a green square on beige",
    "a pink heart on black",
    "an orange triangle on gray",
    "a blue cross on white",
    "a cyan circle on navy",
    "a purple square on beige",
    "a red heart on gray",
    "a yellow triangle on black",
    "a green star on white",
    "a blue circle on beige",
)


def sheet(client: httpx.Client, slug: str) -> Image.Image:
    made = Image.new("RGB", (COLUMNS * SIDE, ROWS * SIDE))
    for at, prompt in enumerate(PROMPTS):
        answer = client.post(f"/fal/run/{slug}", json={"prompt": prompt, "seed": 7}).raise_for_status().json()
        picture = Image.open(io.BytesIO(client.get(answer["images"][0]["url"]).raise_for_status().content))
        small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        made.paste(small, (at % COLUMNS * SIDE, at // COLUMNS * SIDE))
    return made


def main(address: str, key: str, *slugs: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    with httpx.Client(base_url=address, headers={"Authorization": f"Key {key}"}, timeout=600) as client:
        for slug in slugs:
            path = FOLDER / f"{art.example_name(Slug(slug))}.png"
            sheet(client, slug).save(path, optimize=True)
            sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
