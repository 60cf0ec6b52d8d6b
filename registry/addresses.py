"""Whether a text is the address of a server: asked before a library refuses it in its own words. Pure."""

from urllib.parse import urlsplit

LIKE = "like https://models.example.com"


def is_http(text: str) -> bool:
    """With a host, and a port that there can be."""
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port beyond 65535, a bracket without its other
        return False


def is_token(text: str) -> bool:
    """Whether it can be a key at all: what is none could not even be sent."""
    return text.isascii() and text.isprintable() and " " not in text and bool(text)
