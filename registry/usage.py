"""The usage ledger: one record per request, written in the transaction that stores its outcome. IO; `charge` is pure."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

import msgspec

from registry import prices
from registry.catalog import Digest, OrganizationName, Price, Record, Slug
from registry.database import Connection, load_queries

QUERIES = load_queries(Path(__file__).with_suffix(".sql"))
TABLE = "usage_records"


class Quantities(Record, frozen=True, kw_only=True):
    """What a request made; every price is a multiple of one of these."""

    images: int = 0
    megapixels: float = 0.0
    video_seconds: float = 0.0
    gpu_seconds: float = 0.0
    requests: int = 0  # 1 for whatever was made: text and meshes of partners as well


class Charge(Record, frozen=True, kw_only=True):
    """What a request costs: units of what, and the amount."""

    unit: str | None = None
    units: Decimal = Decimal(0)
    amount: Decimal = Decimal(0)
    currency: str | None = None


class UsageRecord(Record, frozen=True, kw_only=True):
    """One line of the ledger. Times are the database's."""

    request_id: str  # UUIDv7
    organization: OrganizationName
    key_id: str
    slug: Slug
    version: Digest
    adapters: tuple[Digest, ...] = ()
    pool: str
    door: str
    state: Literal["succeeded", "failed", "cancelled"]
    error: str | None = None
    attempt: int
    host_id: str | None = None
    created_at: datetime
    finished_at: datetime
    wait_seconds: float = 0.0
    load_seconds: float = 0.0
    run_seconds: float = 0.0
    quantities: Quantities = Quantities()
    charge: Charge = Charge()
    reused: bool = False  # answered with an earlier result


def charge(price: Price | None, quantities: Quantities) -> Charge:
    """The price of what was made. What failed made nothing, so pass empty quantities for it.

    A price that is none (written before prices were checked) costs nothing: the request has to end nevertheless.
    """
    amount = None if price is None else prices.amount_of(price.amount)
    if price is None or amount is None:
        return Charge()
    units = _units(price, quantities)
    return Charge(unit=price.unit, units=units, amount=units * amount, currency=price.currency)


def _units(price: Price, made: Quantities) -> Decimal:
    match price.unit:
        case "image":
            return Decimal(made.images)
        case "megapixel":
            return Decimal(str(made.megapixels))
        case "second":
            return Decimal(str(made.video_seconds))
        case "video":
            return Decimal(int(made.video_seconds > 0))
        case "gpu_second":
            return Decimal(str(made.gpu_seconds))
        case "request":
            return Decimal(made.requests)


async def record(connection: Connection, records: Sequence[UsageRecord]) -> None:
    """Within the caller's transaction. A request that is already in the ledger stays as it was."""
    rows = msgspec.json.encode([_row(record) for record in records])
    await connection.execute(QUERIES["record"], {"rows": rows.decode()})


def _row(record: UsageRecord) -> dict[str, object]:
    flat = {
        name: getattr(record, name)
        for name in record.__struct_fields__
        if name not in {"quantities", "charge"}
    }
    made, cost = record.quantities, record.charge
    return flat | {
        "images": made.images,
        "megapixels": made.megapixels,
        "video_seconds": made.video_seconds,
        "unit": cost.unit,
        "units": cost.units,
        "amount": cost.amount,
        "currency": cost.currency,
    }
