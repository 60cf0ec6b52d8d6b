"""Which numbers a scenario may hold; whoever reads one refuses others with their place. Pure declarations."""

from typing import Annotated

import msgspec

MOST = 1e9  # of seconds, gigabytes, days: what is more is a mistake, infinity among it

Natural = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=MOST)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=MOST)]
Skew = Annotated[float, msgspec.Meta(gt=0, le=10)]  # an exponent of power laws
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
