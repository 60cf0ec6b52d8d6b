"""Forty days of a small market, and what a dispatcher would say of it: what the dashboard's tests look at."""

import datetime as dt
from decimal import Decimal

from registry import partitions
from registry.catalog import Digest, OrganizationName, Slug
from registry.dashboard.live import FleetState, HostState, Life, Part, Step
from registry.usage import Charge, Quantities, UsageRecord

TODAY = dt.datetime.now(dt.UTC).replace(hour=12, minute=0, second=0, microsecond=0)
SLUGS = ("acme/alpha", "acme/beta", "other/gamma")


def ledger() -> list[UsageRecord]:
    """Forty days; customer green never calls acme/beta, and blue never calls other/gamma."""
    rows = []
    for day in range(40):
        for number, (slug, customer) in enumerate(
            [("acme/alpha", "blue"), ("acme/alpha", "green"), ("acme/beta", "blue"), ("other/gamma", "green")]
        ):
            for again in range(1 + (day * 7 + number * 3) % 5):
                at = TODAY - dt.timedelta(days=day, minutes=again)
                failed = (day + again) % 9 == 0
                rows.append(
                    UsageRecord(
                        request_id=str(
                            partitions.uuid7(int(at.timestamp() * 1000), day << 20 | number << 10 | again)
                        ),
                        organization=OrganizationName(customer),
                        key_id="k",
                        slug=Slug(slug),
                        version=Digest("sha256:v1"),
                        adapters=(Digest("sha256:lora"),) if again else (),
                        pool="local",
                        door="fal",
                        state="failed" if failed else "succeeded",
                        attempt=1,
                        host_id="h1",
                        created_at=at,
                        finished_at=at,
                        wait_seconds=0.5 + again,
                        run_seconds=2.0 + day / 10,
                        quantities=Quantities(images=1),
                        charge=Charge(unit="image", units=Decimal(1), amount=Decimal("0.02"), currency="USD"),
                    )
                )
    return rows


class OneRequest:
    """An observatory that knows one host and one request, of customer blue."""

    def fleet(self) -> FleetState:
        part = Part(digest="sha256:p", name="acme/alpha unet", tier="device", size_bytes=1 << 30)
        host = HostState(id="h1", name="rack-7", device="cpu", parts=(part,), running=1, slots=2)
        return FleetState(at=TODAY, pool="local", hosts=(host,), running=1, warm={"acme/alpha": 1})

    async def life(self, request_id: str, organization: str | None) -> Life | None:
        if request_id != "theirs" or organization not in {None, "blue"}:
            return None
        return Life(
            id="theirs",
            slug="acme/alpha",
            organization="blue",
            state="succeeded",
            created_at=TODAY,
            steps=(
                Step(name="queued", began_seconds=0, seconds=0.5),
                Step(name="running", began_seconds=0.5, seconds=2),
            ),
            reasons=((1, "h1", "cheapest"),),
            candidates=((1, "h1", 2.5, "run 2.50"),),
        )
