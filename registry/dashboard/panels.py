"""What a page is made of: figures, and panels that are a table and perhaps a chart of it. Pure.

A chart has no data of its own: it draws its panel's rows, so the table, the CSV and the picture cannot disagree.
"""

import csv
import datetime as dt
import io
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from registry.catalog import Record

Kind = Literal[
    "text",
    "day",
    "count",
    "number",
    "share",
    "percent",
    "seconds",
    "days",
    "money",
    "model",
    "request",
    "time",
]
ChartKind = Literal["lines", "stack", "bars", "ranks", "band", "survival"]


class Column(Record, frozen=True, kw_only=True):
    """A table's column; `kind` says how its values read."""

    name: str
    kind: Kind = "count"


class Chart(Record, frozen=True, kw_only=True):
    """How to draw the rows: the first column is x, the others are series. `band` names lower and upper columns."""

    kind: ChartKind
    band: tuple[str, str] | None = None
    dashed: tuple[str, ...] = ()


class Panel(Record, frozen=True, kw_only=True):
    """A titled table with an address of its own."""

    id: str
    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    chart: Chart | None = None
    limit: int | None = None  # rows that the page shows; the CSV has all
    heat: bool = False  # colour the cells by their share of the largest
    wide: bool = False
    empty: str = "Nothing happened in these days."

    def csv(self) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\r\n")
        writer.writerow(_plain(column.name) for column in self.columns)  # hosts and models have chosen names
        writer.writerows([_plain(value) for value in row] for row in self.rows)
        return out.getvalue()

    def data(self) -> str:
        """JSON for the chart; `<` is escaped, as it stands inside a page."""
        content = {
            "chart": self.chart,
            "columns": self.columns,
            "rows": [[_number(value) for value in row] for row in self.rows],
        }
        return msgspec.json.encode(content).decode().replace("<", "\\u003c")

    @property
    def is_empty(self) -> bool:
        """No rows, or a chart of nothing: a share of 0 % says something, no requests say that there were none."""
        if self.chart is None or self.chart.kind == "bars" or not self.rows:
            return not self.rows
        series = zip(*(row[1:] for row in self.rows), strict=True)
        return not any(
            _says(value, column.kind)
            for column, values in zip(self.columns[1:], series, strict=True)
            for value in values
        )

    @property
    def visible(self) -> Sequence[Sequence[Any]]:
        return self.rows if self.limit is None else self.rows[: self.limit]

    @property
    def largest(self) -> float:
        values = [value for row in self.rows for value in row[1:] if isinstance(value, int | float)]
        return max(values, default=0.0) or 1.0


def _says(value: Any, kind: Kind) -> bool:
    """Whether a chart has something to draw of it."""
    found = _number(value)
    return found is not None and (kind == "share" or bool(found))


INCOMPARABLE = 20.0  # times more or less: the period before is not one to compare with


class Tile(Record, frozen=True, kw_only=True):
    """One figure with its change against the period before (a ratio; None: nothing to compare with)."""

    name: str
    value: Any
    kind: Kind = "count"
    before: Any = None
    good: Literal["up", "down", "neither"] = "neither"

    @property
    def change(self) -> float | None:
        if not self.before or self.value is None:
            return None
        ratio = float(self.value) / float(self.before)
        return ratio - 1.0 if 1 / INCOMPARABLE < ratio < INCOMPARABLE else None


class Page(Record, frozen=True, kw_only=True):
    """One page of the dashboard."""

    title: str
    panels: tuple[Panel, ...]
    tiles: tuple[Tile, ...] = ()
    lead: str = ""

    def panel(self, panel_id: str) -> Panel | None:
        return next((panel for panel in self.panels if panel.id == panel_id), None)


def _plain(value: Any) -> Any:
    """A CSV cell. Text that a spreadsheet would run as a formula is quoted."""
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return f"'{value}"
    if isinstance(value, float):
        return "" if math.isnan(value) else round(value, 6)
    return "" if value is None else value


def _number(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    return None if isinstance(value, float) and math.isnan(value) else value


NOTHING = "\N{EN DASH}"


def shown(value: Any, kind: Kind) -> str:
    """A value as people read it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if kind in {"text", "model", "request", "day"}:
        return str(value)
    if kind == "time":
        return f"{value:%Y-%m-%d %H:%M}"
    return _FORMATS[kind](float(value))


def _seconds(value: float) -> str:
    if value >= 3600:
        return f"{value / 3600:,.1f} h"
    if value >= 120:
        return f"{value / 60:.1f} min"
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


_FORMATS: Mapping[str, Callable[[float], str]] = {
    "count": lambda value: f"{round(value):,}",
    "number": lambda value: f"{value:,.1f}" if abs(value) >= 1 or not value else f"{value:.3g}",
    "percent": lambda value: f"{100 * value:.0f} %",
    "share": lambda value: f"{100 * value:.1f} %",
    "days": lambda value: f"{value:.0f} d" if value >= 10 else f"{value:.1f} d",
    "money": lambda value: f"{value:,.2f}",
    "seconds": _seconds,
}


def address(path: str, parameters: Mapping[str, str]) -> str:
    """A link that keeps the filters."""
    query = "&".join(f"{quote(name)}={quote(value)}" for name, value in parameters.items() if value)
    return f"{path}?{query}" if query else path
