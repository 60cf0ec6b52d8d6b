"""What a lab might send to reach further than its own models: addresses in schemas, prices that are none."""

import http.server
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from registry import publishing, usage
from registry.catalog import Price
from registry.errors import InvalidRequestError
from registry.usage import Charge, Quantities
from router.inputs import Checker


class _Inside(http.server.BaseHTTPRequestHandler):
    """A server that only this machine should reach."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"const": "secret"}')

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def inside() -> Iterator[Any]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Inside) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def _schema(address: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"prompt": {"$ref": address}}}


def test_no_schema_makes_us_fetch_an_address(inside: Any) -> None:
    schema = _schema(f"http://127.0.0.1:{inside.server_port}/latest/meta-data")
    with pytest.raises(InvalidRequestError, match="input_schema"):
        publishing.check_schema(schema)
    with pytest.raises(ValueError, match="meta-data"):
        Checker(schema)
    assert inside.asked == []


def test_no_schema_makes_us_read_a_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"const": "secret"}))
    schema = _schema(file.as_uri())
    with pytest.raises(InvalidRequestError, match="input_schema"):
        publishing.check_schema(schema)
    with pytest.raises(ValueError, match="settings"):
        Checker(schema)


def test_a_schema_may_refer_to_itself() -> None:
    schema = _schema("#/$defs/text") | {
        "$id": "http://acme.example/toys",
        "$defs": {"text": {"type": "string"}},
    }
    assert publishing.check_schema(schema) is schema
    assert Checker(schema).complete({"prompt": "a red circle"}, None) == {"prompt": "a red circle"}


NO_AMOUNTS = (
    "nought",
    "NaN",
    "-NaN",
    "sNaN",
    "Infinity",
    "-1",
    "-0.01",
    "1e10",
    "1e9999999",
    "1e-13",
    "0e-99999",
    "",
)


@pytest.mark.parametrize("amount", NO_AMOUNTS)
def test_a_price_that_is_none_is_refused_and_never_reaches_the_ledger(amount: str) -> None:
    price = Price(unit="image", amount=amount)
    with pytest.raises(InvalidRequestError, match="is no amount"):
        publishing.check_price(price, {})
    with pytest.raises(InvalidRequestError, match="is no amount"):
        publishing.check_price(None, {"result_cache_price": amount})
    assert usage.charge(price, Quantities(images=3)) == Charge()


@pytest.mark.parametrize("amount", ["0", "0.02", "1e-05", "0.000000000001", "1000000000"])
def test_every_amount_that_somebody_may_ask_is_charged_exactly(amount: str) -> None:
    price = Price(unit="image", amount=amount)
    publishing.check_price(price, {"result_cache_price": float(amount)})
    assert usage.charge(price, Quantities(images=3)).amount == 3 * Decimal(amount)


def test_only_the_currency_that_sums_are_in() -> None:
    with pytest.raises(InvalidRequestError, match="only USD"):
        publishing.check_price(Price(unit="image", amount="1", currency="JPY"), {})
