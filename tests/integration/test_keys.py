"""Keys are shown once, verified by hash, and dead once revoked."""

import pytest

from registry import keys
from registry.catalog import Caller
from registry.database import Database
from registry.errors import UnknownKeyError


async def test_a_key_is_verified_until_it_is_revoked(db: Database) -> None:
    key = await keys.create(db, "acme", ["run", "models:read"], title="laptop")
    caller = Caller(organization=key.organization, key_id=key.id, scopes=frozenset({"run", "models:read"}))
    assert keys.TOKEN.fullmatch(key.token)
    assert await keys.verify(db, key.token) == caller
    assert await keys.active(db) == {keys.hash_of(key.token): caller}
    assert await keys.verify(db, key.token[:-1] + ("a" if key.token[-1] != "a" else "b")) is None
    assert await keys.verify(db, "nonsense") is None

    await keys.revoke(db, key.id)
    await keys.revoke(db, key.id)
    assert await keys.verify(db, key.token) is None
    assert await keys.active(db) == {}
    (row,) = await keys.listing(db, "acme")
    assert (row.id, row.title, row.revoked_at is not None) == (key.id, "laptop", True)


async def test_another_organizations_key_is_unknown(db: Database) -> None:
    key = await keys.create(db, "acme", ["run"])
    with pytest.raises(UnknownKeyError):
        await keys.revoke(db, key.id, organization="blue")
    assert await keys.verify(db, key.token) is not None
