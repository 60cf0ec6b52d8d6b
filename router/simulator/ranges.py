"""Which numbers a scenario may hold; whoever reads one refuses others with their place. Pure declarations."""

from typing import Annotated

import msgspec

Natural = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
