"""A year of made-up usage for looking at dashboards: launches, fading demand, loyal customers, cold tails. IO; `plan` is pure.

Rows go to the pool `demo` and so can be told apart and removed. Shapes follow published figures of such markets:
Pareto attractiveness with exponential ageing, Zipf customers, a weekly rhythm, one request in six with a LoRA.
"""

import contextlib
import datetime as dt
from collections.abc import Iterator, Sequence
from decimal import Decimal

import numpy as np
import psycopg
from numpy.typing import NDArray

from registry import partitions, rollups, usage
from registry.catalog import Record
from registry.database import Database

POOL = "demo"
DAYS = 365
CUSTOMERS = 180
WEEK = np.array([1.14, 1.19, 1.2, 1.12, 1.02, 0.68, 0.65])  # Monday first
HOURS = 1.0 + 0.75 * np.sin((np.arange(24) - 9) / 24 * 2 * np.pi)
STRONGEST = 4000.0  # times the weakest hit; with the skew, five models draw about half of a week
FOCUS = 4.0  # of customers on few models
FOUNDERS = 0.35  # the share of customers that was there on the first day
STAY_DAYS = 240.0  # mean
REVISED_AFTER_DAYS = 60  # a second version follows the first
LORA_SHARE = 0.167
FAILURE_SHARE = 0.015
SKEW = 2.0  # of attractiveness
COLUMNS = (
    "request_id", "organization", "key_id", "slug", "version", "adapters", "pool", "door", "state", "error",
    "attempt", "host_id", "created_at", "finished_at", "wait_seconds", "load_seconds", "run_seconds", "images",
    "megapixels", "video_seconds", "unit", "units", "amount", "currency",
)  # fmt: skip


class Offer(Record, frozen=True, kw_only=True):
    """A variant of the made-up market: when it was launched, how strong, how fast it fades."""

    slug: str
    launch_day: int  # before the first day where negative
    strength: float
    half_life_days: float
    run_seconds: float
    price: str
    is_video: bool


class Plan(Record, frozen=True, kw_only=True):
    """Requests per day and offer: shape (days, offers), int64; and whose they are: shape (offers, customers), float64."""

    first_day: dt.date
    offers: tuple[Offer, ...]
    counts: NDArray[np.int64]
    loyalty: NDArray[np.float64]
    present: NDArray[np.float64]  # shape (days, customers)


def plan(slugs: Sequence[tuple[str, str]], *, requests: int, last_day: dt.date, days: int, seed: int) -> Plan:
    """`slugs` with their tasks. About `requests` in all."""
    rng = np.random.default_rng(seed)
    first_day = last_day - dt.timedelta(days=days - 1)
    offers = tuple(_offer(rng, slug, task, days) for slug, task in slugs)
    day = np.arange(days)[:, None]
    age = day - np.array([offer.launch_day for offer in offers])
    fade = np.exp(-np.maximum(age, 0) * np.log(2) / np.array([offer.half_life_days for offer in offers]))
    ramp = np.clip((age + 1) / 4, 0, 1)
    weight = np.array([offer.strength for offer in offers]) * fade * ramp * (age >= 0)
    rhythm = WEEK[(np.arange(days) + first_day.weekday()) % 7] * np.linspace(0.7, 1.3, days)
    expected = weight * (requests / weight.sum()) * rhythm[:, None]
    counts = rng.negative_binomial(12, 12 / (12 + expected))
    size = 1.0 / np.arange(1, CUSTOMERS + 1) ** 0.81
    loyalty = size * rng.lognormal(0, FOCUS, (len(offers), CUSTOMERS))
    return Plan(
        first_day=first_day,
        offers=offers,
        counts=counts,
        loyalty=loyalty / loyalty.sum(1, keepdims=True),
        present=_present(rng, days),
    )


def _present(rng: np.random.Generator, days: int) -> NDArray[np.float64]:
    """Customers come over the year and some leave: 1 while they call, next to nothing otherwise."""
    joined = np.where(rng.random(CUSTOMERS) < FOUNDERS, 0, rng.uniform(0, days, CUSTOMERS))
    left = joined + rng.exponential(STAY_DAYS, CUSTOMERS) + 20
    joined[0], left[0] = 0, np.inf  # somebody is always there
    day = np.arange(days)[:, None]
    return np.where((day >= joined) & (day < left), 1.0, 1e-9)


def _offer(rng: np.random.Generator, slug: str, task: str, days: int) -> Offer:
    is_video = "video" in task
    return Offer(
        slug=slug,
        launch_day=int(rng.integers(-200, days - 5)),
        strength=float(min(rng.pareto(1 / SKEW) + 0.02, STRONGEST)),
        half_life_days=float(np.clip(rng.lognormal(np.log(32), 0.5), 9, 160)),
        run_seconds=float(rng.lognormal(np.log(75 if is_video else 3.6), 0.6)),
        price=str(round(float(rng.lognormal(np.log(0.4 if is_video else 0.03), 0.5)), 3)),
        is_video=is_video,
    )


def rows(market: Plan, day: int, seed: int) -> Iterator[tuple[object, ...]]:
    """One day's ledger rows, as `COLUMNS` names them."""
    rng = np.random.default_rng((seed, day))
    midnight = dt.datetime.combine(market.first_day, dt.time(), tzinfo=dt.UTC) + dt.timedelta(days=day)
    for offer, count, loyalty in zip(market.offers, market.counts[day], market.loyalty, strict=True):
        if not count:
            continue
        chances = loyalty * market.present[day]
        customers = rng.choice(CUSTOMERS, count, p=chances / chances.sum())
        seconds = rng.choice(24, count, p=HOURS / HOURS.sum()) * 3600 + rng.uniform(0, 3600, count)
        cold = rng.random(count) < 1 / (1 + count**0.7)
        load = np.where(cold, rng.lognormal(np.log(14), 0.6, count), 0.0)
        wait = rng.exponential(0.4, count)
        run = offer.run_seconds * rng.lognormal(0, 0.3, count)
        for at, customer, *timing in zip(seconds, customers, wait, load, run, strict=True):
            version = "second" if day - offer.launch_day >= REVISED_AFTER_DAYS else "first"
            yield _row(rng, offer, version, midnight + dt.timedelta(seconds=float(at)), int(customer), timing)


def _row(
    rng: np.random.Generator,
    offer: Offer,
    version: str,
    at: dt.datetime,
    customer: int,
    timing: Sequence[float],
) -> tuple[object, ...]:
    wait, load, run = (round(float(value), 3) for value in timing)
    failed = rng.random() < FAILURE_SHARE
    made = 0 if failed else 1
    number = int(rng.integers(1 << 62))
    adapters = [f"demo-lora-{int(rng.zipf(1.9)) % 40:02}"] if rng.random() < LORA_SHARE else []
    return (
        partitions.uuid7(int(at.timestamp() * 1000), number),
        f"demo-customer-{customer + 1:03}", "demo", offer.slug, f"demo {version}", adapters,
        POOL, "fal", "failed" if failed else "succeeded", "out_of_memory" if failed else None, 1,
        f"demo-host-{number % 24:02}", at, at + dt.timedelta(seconds=wait + load + run), wait, load, run,
        0 if offer.is_video else made, 0.0 if offer.is_video else made * 1.048576, 5.0 * made * offer.is_video,
        "video" if offer.is_video else "image", made, Decimal(offer.price) * made, "USD",
    )  # fmt: skip


async def fill(db: Database, *, requests: int, last_day: dt.date, seed: int, days: int = DAYS) -> int:
    """Writes the year and folds it; returns how many rows. Repeating it adds another year on top: remove first."""
    async with db.pool.connection() as connection:
        found = await connection.execute("SELECT slug, task FROM variants ORDER BY md5(slug)")
        slugs = [(row["slug"], row["task"]) for row in await found.fetchall()]
        market = plan(slugs, requests=requests, last_day=last_day, days=days, seed=seed)
        for day in range(
            days
        ):  # rows that lie in the default partition already stay there, and so does their day
            with contextlib.suppress(psycopg.errors.CheckViolation):
                await partitions.prepare(
                    connection, [usage.TABLE], market.first_day + dt.timedelta(days=day), 0
                )
    written = 0
    for day in range(days):
        async with db.transaction() as connection, connection.cursor() as cursor:
            statement = f"COPY {usage.TABLE} ({', '.join(COLUMNS)}) FROM STDIN"
            async with cursor.copy(statement.encode()) as copy:
                for row in rows(market, day, seed):
                    await copy.write_row(row)
                    written += 1
    await rollups.fold(db)
    return written


async def remove(db: Database) -> int:
    """Takes the made-up rows away and starts the sums over; returns how many rows went."""
    async with db.transaction() as connection:
        gone = await connection.execute("DELETE FROM usage_records WHERE pool = %s", [POOL])
        count = gone.rowcount
    await rollups.rebuild(db)
    return count
