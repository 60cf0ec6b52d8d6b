"""What `marquee up` needs in the database before anything serves: the catalogue, and on first start the keys. IO."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from registry import apply, keys
from registry.catalog import OrganizationName, Scope
from registry.database import Database
from registry.settings import Settings
from router.errors import StartUpError

LAB = OrganizationName("marquee")
OPERATOR = OrganizationName("operator")
CUSTOMER = OrganizationName("customer")


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of the first start. The database holds only their hashes, so the home keeps them for the banner."""

    customer_key: str
    lab_key: str
    operator_key: str
    host_key: str


HOLDERS: dict[str, tuple[OrganizationName, frozenset[Scope]]] = {
    "customer_key": (CUSTOMER, frozenset({"run", "models:read", "usage:read"})),
    "lab_key": (LAB, frozenset({"models:publish", "models:read", "usage:read", "run"})),
    "operator_key": (OPERATOR, frozenset({"operate", "models:publish", "models:read", "usage:read", "run"})),
    "host_key": (OPERATOR, frozenset({"host"})),
}


async def prepare(settings: Settings, dsn: str, catalog_path: Path) -> Tokens:
    """Applies the catalogue and returns the home's keys. Raises the registry's errors for a bad catalogue."""
    async with Database.open(dsn) as db:
        await apply.apply(db, apply.read_file(catalog_path))
        return await tokens(db, settings.home / "keys.json")


async def tokens(db: Database, path: Path) -> Tokens:
    """Keys that were revoked, or belong to another database, are replaced."""
    kept = read_private(path)
    current = {}
    for name, (organization, scopes) in HOLDERS.items():
        token = kept.get(name)
        if not isinstance(token, str) or await keys.verify(db, token) is None:
            made = await keys.create(db, organization, scopes, title=name, actor="marquee up")
            token = made.token
        current[name] = token
    if current != kept:
        write_private(path, current)
    return msgspec.convert(current, Tokens)


def read_private(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StartUpError(f"{path} cannot be read ({error}); move it away to get new keys") from error
    if not isinstance(kept, dict):
        raise StartUpError(f"{path} is not a JSON object; move it away to get new keys")
    return kept


def write_private(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all, and readable by its owner only."""
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(value, file, indent=2)
    draft.replace(path)
