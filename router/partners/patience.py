"""How often and how long a partner is asked again. Pure."""

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

SUBMIT_TRIES = 4
FIRST_PAUSE_SECONDS = 0.5  # doubles
LONGEST_RETRY_AFTER_SECONDS = 120.0  # a partner that asks for more is not waited for
POLL_FIRST_SECONDS, POLL_GROWTH, POLL_LONGEST_SECONDS = 0.1, 1.4, 2.0
SILENCE_SECONDS = 120.0  # of a partner that has our request, until we give it up
OUTPUT_TRIES = 4


def pause(tries: int, retry_after_seconds: float | None, *, most: int = SUBMIT_TRIES) -> float | None:
    """Seconds until the next try after `tries` of them; None when that was the last."""
    if tries >= most:
        return None
    seconds = FIRST_PAUSE_SECONDS * 2.0 ** (tries - 1)
    if retry_after_seconds is None:
        return seconds
    return None if retry_after_seconds > LONGEST_RETRY_AFTER_SECONDS else max(seconds, retry_after_seconds)


def polls() -> Iterator[float]:
    """Pauses between looks: often at first, then as seldom as a long run deserves."""
    seconds = POLL_FIRST_SECONDS
    while True:
        yield seconds
        seconds = min(POLL_LONGEST_SECONDS, seconds * POLL_GROWTH)


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date. None for what is neither."""
    text = (header or "").strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # a zone of twenty digits
        return None
    aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (aware - now).total_seconds())
