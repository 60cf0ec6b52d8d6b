"""What an amount of money may be: a decimal that every sum of the ledger can hold, in the one currency they are in. Pure."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from registry.catalog import Price
from registry.defaults import RESULT_CACHE_PRICE

CURRENCY = "USD"  # sums go over models and customers, and are shown in it
LARGEST = Decimal(1_000_000_000)
DECIMALS = 12


def amount_of(text: str) -> Decimal | None:
    """None for what is no amount: no number, negative, endless, or finer than anybody counts."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    if not value.is_finite() or not 0 <= value <= LARGEST:
        return None
    exponent = value.as_tuple().exponent
    return value if isinstance(exponent, int) and exponent >= -DECIMALS else None


def problem(price: Price | None, defaults: Mapping[str, Any]) -> str | None:
    """Why nobody can be charged so: the price itself, or what a variant's defaults say that a repeated result costs."""
    again = defaults.get(RESULT_CACHE_PRICE, "0")
    for amount in (price.amount if price else "0", again):
        if isinstance(amount, bool) or amount_of(str(amount)) is None:
            return (
                f"{str(amount)[:40]!r} is no amount: from 0 to {LARGEST:,}, with at most {DECIMALS} decimals"
            )
    if price is not None and price.currency != CURRENCY:
        return f"only {CURRENCY}: usage is summed over all models, and {price.currency[:10]!r} is another currency"
    return None
