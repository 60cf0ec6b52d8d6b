"""Who a company's own sign-in says somebody is: claims of an identity provider → organization and role → caller. Pure.

It refuses to guess: a person without a mapped role or with a claim that names no organization is told so by name.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from registry.catalog import Caller, OrganizationName, Record, Scope
from registry.web.errors import OrganizationClaimError, RoleClaimError

Role = Literal["operator", "lab", "customer"]
ROLES: tuple[Role, ...] = get_args(Role)  # widest first
SCOPES: Mapping[Role, frozenset[Scope]] = {
    "operator": frozenset({"operate", "models:publish", "models:read", "run", "usage:read"}),
    "lab": frozenset({"models:publish", "models:read", "run", "usage:read"}),
    "customer": frozenset({"models:read", "run", "usage:read"}),
}


class Rules(Record, frozen=True, kw_only=True):
    """Which claims to read, and what their values stand for. An empty mapping: the values are the names themselves."""

    organization_claim: str = "organization"
    organizations: Mapping[str, str] = {}  # claim value → organization
    role_claim: str = "role"
    roles: Mapping[str, str] = {}  # claim value → role; `*` for everybody


class Identity(Record, frozen=True, kw_only=True):
    """A person whom the provider vouched for."""

    key_id: str  # stands where a key's public id would: in the ledger, at limits
    organization: OrganizationName
    role: Role


def identify(claims: Mapping[str, Any], rules: Rules) -> Identity:
    """Raises `OrganizationClaimError` and `RoleClaimError`. The widest of several roles holds."""
    named = _values(claims, rules.organization_claim)
    mapped = [rules.organizations.get(value) if rules.organizations else value for value in named]
    organizations = list(dict.fromkeys(name for name in mapped if name))
    if len(organizations) != 1:
        raise OrganizationClaimError(rules.organization_claim, named)
    roles = _roles(_values(claims, rules.role_claim), rules.roles)
    if not roles:
        raise RoleClaimError(rules.role_claim, _values(claims, rules.role_claim))
    return Identity(
        key_id=key_id(str(claims["iss"]), str(claims["sub"])),
        organization=OrganizationName(organizations[0]),
        role=min(roles, key=ROLES.index),
    )


def _roles(values: Sequence[str], mapping: Mapping[str, str]) -> list[Role]:
    found = {mapping.get(value) if mapping else value for value in values} | {mapping.get("*")}
    return [role for role in ROLES if role in found]


def _values(claims: Mapping[str, Any], name: str) -> list[str]:
    """A claim's text or list of texts. A dotted name walks into objects, unless the claim itself has the dots."""
    found: Any = claims.get(name)
    if found is None and "." in name:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    items = found if isinstance(found, list) else [found]
    return [item for item in items if isinstance(item, str) and item]


def key_id(issuer: str, subject: str) -> str:
    """The same for the same person at every sign-in, and no name or address in the ledger."""
    return f"oidc:{hashlib.sha256(f'{issuer} {subject}'.encode()).hexdigest()[:16]}"


def role(name: str) -> Role:
    """A role's name back from a cookie of ours."""
    return next(one for one in ROLES if one == name)


def caller(identity: Identity) -> Caller:
    return Caller(organization=identity.organization, key_id=identity.key_id, scopes=SCOPES[identity.role])
