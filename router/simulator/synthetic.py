"""A synthetic marketplace: 600 variants that launch and fade, customers with their few models, LoRAs, bursts. Pure.

A variant's attractiveness is Pareto, its weight fades as exp(-age / tau), so that of the top five half are gone
after `half_life_days`. Customers are Zipf; each keeps to one model for a while and draws the next by weight from
its own small set. Versions of a family share text encoder and VAE. Figures follow a published workload definition;
what is an assumption there is one here.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np

from registry.catalog import Digest
from router.residency import Bundle, Part
from router.simulator.ranges import Natural, Positive, Share, Skew
from router.simulator.workload import GB, Job, Workload

DAY_SECONDS = 86_400.0
FADED = 1e-300  # so that of variants that are all forgotten one can be drawn
VIDEO_NOISE = 0.1  # of a video's log seconds, that its input does not say


@dataclass(frozen=True)
class Family:
    """An architecture with its parts' sizes and run times on an H100-class device."""

    name: str
    share: float  # of requests
    own_gb: float  # denoiser, each variant's own
    shared_gb: float  # text encoders and VAE, one for the family
    run_seconds: float
    sigma: float  # of log seconds


FAMILIES = (
    Family("small-image", 0.45, 5.1, 1.8, 3.0, 0.25),
    Family("large-image", 0.40, 11.9, 5.2, 4.0, 0.25),
    Family("edit", 0.12, 20.4, 8.7, 20.0, 0.25),
    Family("short-video", 0.025, 28.6, 9.8, 30.0, 0.5),
    Family("long-video", 0.005, 28.6, 11.4, 900.0, 0.5),
)


class Market(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Knobs of the marketplace, defaults as in the workload definition."""

    variants: Natural = 600
    half_life_days: Positive = 30.0
    skew: Skew = 1.2
    launches_per_day: Positive = 2.0
    customers: Natural = 2000
    customer_skew: Skew = 0.81
    models_per_customer: Natural = 14
    stickiness: Share = 0.72
    lora_share: Share = 0.22
    loras: Natural = 900
    lora_skew: Skew = 0.92
    burst_share: Share = 0.1  # of requests that come in batches of one customer
    burst_size: Natural = 40
    families: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = (
        "small-image",
        "large-image",
        "edit",
        "short-video",
        "long-video",
    )
    compress: Positive = 60.0  # days pass this much faster than seconds, so that a short run sees turnover


def marketplace(market: Market, *, seed: int, requests: int, rate: float) -> Workload:
    """`rate` is requests per second; hours of the day swing it between .1 and 1.7 of that."""
    rng = np.random.default_rng(seed)
    families = [family for family in FAMILIES if family.name in market.families]
    times = _arrivals(rng, requests, rate, market.compress)
    owner = _family_of_variants(rng, families, market.variants)
    born, appeal = _births(rng, market, float(times[-1]) * market.compress / DAY_SECONDS)
    picks = _Picker(rng, market, families, owner, born, appeal)
    jobs: list[Job] = []
    while len(jobs) < requests:
        for job in picks.next(len(jobs), float(times[len(jobs)])):
            if len(jobs) < requests:
                job.arrives_at = max(job.arrives_at, float(times[len(jobs)]))
                jobs.append(job)
    prior = {Digest(f"v{i}"): families[owner[i]].run_seconds for i in range(market.variants)}
    return Workload("synthetic marketplace", _bundles(families, owner, market.loras), jobs, prior)


def mean_run_seconds(market: Market) -> float:
    """Of the mix, so that a rate can be chosen for a load."""
    families = [family for family in FAMILIES if family.name in market.families]
    share = sum(family.share for family in families)
    return sum(f.share / share * f.run_seconds * math.exp(f.sigma**2 / 2) for f in families)


def _arrivals(rng: np.random.Generator, requests: int, rate: float, compress: float) -> np.ndarray:
    """Poisson, thinned by the hour of the (compressed) day."""
    gaps = rng.exponential(1 / rate, requests)
    hours = np.cumsum(gaps) * compress / 3600.0
    swing = 0.9 + 0.8 * np.sin(hours / 24.0 * 2 * np.pi)
    times: np.ndarray = np.cumsum(gaps / np.maximum(0.1, swing))
    scaled: np.ndarray = times * (requests / rate / times[-1])
    return scaled


def _family_of_variants(rng: np.random.Generator, families: list[Family], variants: int) -> list[int]:
    shares = np.array([family.share for family in families])
    # Every family has some variants, however rare its requests.
    weights = 0.7 * shares / shares.sum() + 0.3 / len(families)
    owner = [int(i) for i in rng.choice(len(families), variants, p=weights)]
    for kind in sorted(set(range(len(families))) - set(owner)):
        owner[max(range(variants), key=lambda index: owner.count(owner[index]))] = kind
    return owner


def _births(rng: np.random.Generator, market: Market, days: float) -> tuple[np.ndarray, np.ndarray]:
    """Day of launch (negative: before the run) and attractiveness of each variant."""
    expected = min(market.launches_per_day * days, float(market.variants))
    coming = min(market.variants // 4, rng.poisson(expected))
    old = -rng.uniform(0, market.variants / market.launches_per_day, market.variants - coming)
    new = np.sort(rng.uniform(0, max(days, 1e-9), coming))
    appeal = 1.0 + rng.pareto(1 / market.skew, market.variants)
    return np.concatenate([old, new]), appeal


def _bundles(families: list[Family], owner: list[int], loras: int) -> list[Bundle]:
    versions = []
    for index, kind in enumerate(owner):
        family = families[kind]
        parts = (
            Part(Digest(f"v{index}/denoiser"), int(family.own_gb * GB)),
            Part(Digest(f"{family.name}/shared"), int(family.shared_gb * GB)),
        )
        versions.append(Bundle(digest=Digest(f"v{index}"), parts=parts, fixed_seconds=2.0))
    adapters = [
        Bundle(
            digest=Digest(f"lora{i}"),
            parts=(Part(Digest(f"lora{i}"), int(0.3 * GB)),),
            kind="adapter",
            fixed_seconds=2.9,
        )
        for i in range(loras)
    ]
    return [*versions, *adapters]


class _Picker:
    """Draws who asks for what."""

    def __init__(
        self,
        rng: np.random.Generator,
        market: Market,
        families: list[Family],
        owner: list[int],
        born: np.ndarray,
        appeal: np.ndarray,
    ) -> None:
        self.rng, self.market, self.families, self.owner = rng, market, families, owner
        self.born, self.appeal = born, appeal
        self.tau_days = market.half_life_days / (market.skew * math.log(2))
        ranks = np.arange(1, market.customers + 1) ** -market.customer_skew
        self.customers = np.cumsum(ranks / ranks.sum())
        lora_ranks = np.arange(1, market.loras + 1) ** -market.lora_skew
        self.loras = np.cumsum(lora_ranks / lora_ranks.sum())
        share, size = market.burst_share, market.burst_size
        self.burst_chance = share / (
            size * (1 - share) + share
        )  # of a draw; so many make the share of requests
        self.sets: dict[int, list[int]] = {}
        self.last: dict[int, int] = {}
        self._weights_at, self._weights = -1.0, np.zeros(0)
        members = [np.array([i for i, kind in enumerate(owner) if kind == k]) for k in range(len(families))]
        self.members = members
        self.family_sets = [frozenset(each.tolist()) for each in members]
        shares = np.array([family.share for family in families])
        self.shares = np.cumsum(shares / shares.sum())

    def next(self, number: int, at: float) -> list[Job]:
        """One request, or a burst of the same customer and model."""
        market, rng = self.market, self.rng
        customer = int(np.searchsorted(self.customers, rng.random()))
        variant = self._variant(customer, at * market.compress / DAY_SECONDS)
        bursts = rng.random() < self.burst_chance
        count = market.burst_size if bursts else 1
        family = self.families[self.owner[variant]]
        count = 1 if family.run_seconds > 100 else count
        return [self._job(number + i, at, customer, variant, family) for i in range(count)]

    def _job(self, number: int, at: float, customer: int, variant: int, family: Family) -> Job:
        rng = self.rng
        adapters: tuple[Digest, ...] = ()
        if family.run_seconds < 100 and rng.random() < self.market.lora_share:
            adapters = (Digest(f"lora{int(np.searchsorted(self.loras, rng.random()))}"),)
        units, noise = float(rng.choice([1.0, 2.0, 4.0], p=[0.7, 0.2, 0.1])), family.sigma
        if family.sigma > VIDEO_NOISE and family.name.endswith("video"):
            # Frames, steps and size make most of the spread, and the input says them.
            units = math.exp(rng.normal(0.0, math.sqrt(family.sigma**2 - VIDEO_NOISE**2)))
            noise = VIDEO_NOISE
        elif family.run_seconds >= 10:
            units = 1.0
        scale = units / 1.5 if family.run_seconds < 10 else units  # 1.5 is the mean of the three
        seconds = family.run_seconds * scale * math.exp(rng.normal(0.0, noise))
        return Job(
            number, at, f"c{customer}", Digest(f"v{variant}"), adapters, seconds, units, kind=family.name
        )

    def _variant(self, customer: int, day: float) -> int:
        rng, market = self.rng, self.market
        if (last := self.last.get(customer)) is not None and rng.random() < market.stickiness:
            return last
        weights = self._weights_on(day)
        kind = int(np.searchsorted(self.shares, rng.random()))
        members, family = self.members[kind], self.family_sets[kind]
        known = [v for v in self.sets.setdefault(customer, []) if v in family]
        if known and len(self.sets[customer]) >= market.models_per_customer:
            chances = weights[known]
            variant = int(rng.choice(known, p=chances / chances.sum()))
        else:
            chances = weights[members]
            variant = int(rng.choice(members, p=chances / chances.sum()))
            self.sets[customer] = [*self.sets[customer], variant][-market.models_per_customer :]
        self.last[customer] = variant
        return variant

    def _weights_on(self, day: float) -> np.ndarray:
        if abs(day - self._weights_at) > 0.05:
            age = day - self.born
            live = np.where(age >= 0, self.appeal * np.exp(-np.maximum(age, 0.0) / self.tau_days), 1e-12)
            self._weights_at, self._weights = day, np.maximum(live, FADED)
        return self._weights
