"""Who may see what: operators all, labs their own models, customers their own usage. Pure.

Every query takes its limits from a `View`, and every page asks it first; there is no other gate.
"""

from typing import Literal

from registry.catalog import Caller, Record
from registry.ledger_tables import BY_ORGANIZATION, BY_SLUG

Role = Literal["operator", "lab", "customer"]
PageName = Literal["overview", "models", "model", "customers", "launches", "fleet", "request"]

PAGES: dict[Role, frozenset[PageName]] = {
    "operator": frozenset({"overview", "models", "model", "customers", "launches", "fleet", "request"}),
    "lab": frozenset({"overview", "models", "model", "launches"}),
    "customer": frozenset({"overview", "models", "model", "customers", "request"}),
}


class View(Record, frozen=True, kw_only=True):
    """What one visitor may see. A lab's `slugs` are the variants that it owns."""

    role: Role
    organization: str
    slugs: tuple[str, ...] = ()

    def may_open(self, page: PageName) -> bool:
        return page in PAGES[self.role]

    @property
    def scopes(self) -> list[str]:
        """The rollup scopes whose sum is everything that this view holds."""
        match self.role:
            case "operator":
                return [""]
            case "lab":
                return [f"{BY_SLUG}{slug}" for slug in self.slugs]
            case "customer":
                return [f"{BY_ORGANIZATION}{self.organization}"]

    @property
    def limits(self) -> dict[str, object]:
        """Parameters of every query: None stands for no limit."""
        return {
            "scopes": self.scopes,
            "slugs": list(self.slugs) if self.role == "lab" else None,
            "organization": self.organization if self.role == "customer" else None,
        }


def role_of(caller: Caller) -> Role | None:
    """The widest role that a key's scopes give; None: it may run models but see no figures."""
    if "operate" in caller.scopes:
        return "operator"
    if "models:publish" in caller.scopes:
        return "lab"
    return "customer" if "usage:read" in caller.scopes else None
