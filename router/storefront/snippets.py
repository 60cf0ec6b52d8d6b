"""The same call as curl and as Python, for the page to fill with the form's input. Pure.

`«json»` and `«python»` stand where the page puts the input, as JSON (quoted for a shell) or as a Python literal.
"""

from typing import Literal
from urllib.parse import urlsplit

import msgspec

from registry.catalog import Slug

KEY_VARIABLE = "MARQUEE_KEY"


class Snippet(msgspec.Struct, frozen=True, kw_only=True):
    """One way to make the call. `hole` says how the input is written into `text`."""

    name: str
    label: str
    hole: Literal["json", "python"]
    text: str


def snippets(origin: str, slug: Slug, *, has_pictures: bool = True) -> tuple[Snippet, ...]:
    """`origin` is where callers reach the gateway: `http://127.0.0.1:8080`. Without pictures the answer is shown whole."""
    shown = '["images"][0]["url"]' if has_pictures else ""
    return (
        Snippet(name="curl", label="curl", hole="json", text=_curl(origin, slug)),
        Snippet(name="httpx", label="Python · httpx", hole="python", text=_httpx(origin, slug, shown)),
        Snippet(name="fal", label="Python · fal_client", hole="python", text=_fal(origin, slug, shown)),
    )


def _curl(origin: str, slug: Slug) -> str:
    return (
        f"curl -sS {origin}/fal/run/{slug} \\\n"
        f'  -H "Authorization: Key ${KEY_VARIABLE}" \\\n'
        "  -H 'Content-Type: application/json' \\\n"
        "  -d '«json»'\n"
    )


def _httpx(origin: str, slug: Slug, shown: str) -> str:
    return (
        "import os\n\nimport httpx\n\n"
        "answer = httpx.post(\n"
        f'    "{origin}/fal/run/{slug}",\n'
        f'    headers={{"Authorization": "Key " + os.environ["{KEY_VARIABLE}"]}},\n'
        "    json=«python»,\n"
        "    timeout=600,\n"
        ")\n"
        "answer.raise_for_status()\n"
        f"print(answer.json(){shown})\n"
    )


def _fal(origin: str, slug: Slug, shown: str) -> str:
    where = urlsplit(origin)
    if where.scheme == "https":
        head = (
            "import os\n\n"
            f'os.environ["FAL_RUN_HOST"] = "{where.netloc}/fal/run"\n'
            f'os.environ["FAL_QUEUE_RUN_HOST"] = "{where.netloc}/fal/queue"\n\n'
            "import fal_client\n\n"
        )
    else:
        head = (
            "import os\n\nimport fal_client\n\n"
            "# fal_client speaks https by itself; this gateway answers on plain http\n"
            f'fal_client.client.RUN_URL_FORMAT = "{origin}/fal/run/"\n'
            f'fal_client.client.QUEUE_URL_FORMAT = "{origin}/fal/queue/"\n\n'
        )
    return (
        f'{head}client = fal_client.SyncClient(key=os.environ["{KEY_VARIABLE}"])\n'
        "result = client.subscribe(\n"
        f'    "{slug}",\n'
        "    arguments=«python»,\n"
        ")\n"
        f"print(result{shown})\n"
    )
