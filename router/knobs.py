"""What placement may be tuned by. Pure."""

import msgspec


class Knobs(msgspec.Struct, frozen=True, kw_only=True):
    """Weights of the price's terms; the simulator tunes them."""

    regret: float = 2.0  # of a second of expected reloading, where others wait
    order: float = 0.1  # seconds that a second of virtual time (fair order) is worth
    steal_margin_seconds: float = 0.5  # that a host must gain before it takes what is planned elsewhere
    spread_seconds: float = 0.5  # price of a second copy in the same failure domain
    mover: float = 0.6  # of a second of loading, hidden or not, where others wait for movers and devices
    scarce: float = 1.0  # planned requests per host, from which on these two have their whole price
    least_scarcity: float = 0.1  # of it that regret has on an idle fleet
    stall: float = 1.0
    prefetch_regret_seconds: float = 2.0  # that fetching ahead for a plan may cost
    shortlist: int = 4  # hosts whose eviction regret is worked out
