"""What the commands of `marquee publish` share: times, percents, and which kind of thing is meant. Process edge."""

from datetime import datetime
from typing import Any

import click

from registry.manifest import SLUG


class _Moment(click.ParamType[datetime]):
    """A time with its zone; without one the question would be whose morning was meant."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time like 2026-12-01T09:00:00+01:00", param, ctx)
        if when.tzinfo is None:
            self.fail(f"{value!r} needs a zone, like Z or +01:00", param, ctx)
        return when


MOMENT = _Moment()


class _Name(click.ParamType[str]):
    """Asked here: what is no name would be another address of the API, or a long upload for nothing."""

    name = "owner/name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not SLUG.fullmatch(value):
            self.fail(f"{value!r} is not owner/name, of letters, digits, . _ - and /", param, ctx)
        return str(value)


NAME = _Name()


class Percent(click.ParamType[dict[str, int]]):
    """`3` is all of it, `3:10` is ten percent."""

    name = "version[:percent]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int]:
        number, _, percent = str(value).partition(":")
        if not number.isdigit() or not (percent or "100").isdigit():
            self.fail(f"{value!r} is no version like 3 or 3:10", param, ctx)
        return {"version": int(number), "percent": int(percent or 100)}


of_adapters = click.option(
    "--adapter",
    "goods",
    flag_value="adapters",
    default="variants",
    help="SLUG is an adapter's, not a variant's.",
)
