"""What a person reads: a table per scenario, and PNG plots where matplotlib is installed. ● writes the plots."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from router.simulator.errors import PlotsMissingError
from router.simulator.experiment import Result, best_peer
from router.simulator.measure import Summary, latencies, summarise
from router.simulator.scenario import Scenario

COLUMNS = (
    ("mean", "mean s", 1.0),
    ("p50", "p50 s", 1.0),
    ("p95", "p95 s", 1.0),
    ("p99", "p99 s", 1.0),
    ("base_loads", "base loads /1k", 1.0),
    ("lora_loads", "LoRA loads /1k", 1.0),
    ("stalled", "GPU time waiting for weights %", 100.0),
    ("worst", "worst customer's slowdown", 1.0),
    ("fairness", "over the mean one", 1.0),
)


def table(plan: Scenario, results: Sequence[Result]) -> str:
    """Markdown, so that it can be put into a document as it is."""
    hosts = sum(group.count for group in plan.hosts)
    lines = [
        (
            f"**{plan.name}**: {hosts} hosts, load {plan.load}, {plan.requests} requests, seeds 1 to {plan.seeds}"
            " (± is half the 95 % interval)"
        ),
        "",
        "| router | " + " | ".join(title for _, title, _ in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for result in results:
        found = summarise(result.figures)
        cells = [_cell(found[name], scale) for name, _, scale in COLUMNS]
        lines.append(f"| {result.contender.name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *verdict(results), *_left_over(results)])


def _left_over(results: Sequence[Result]) -> list[str]:
    """Latencies are of what finished alone: whoever leaves work lying must not look fast."""
    left = {result.contender.name: sum(each.unfinished for each in result.figures) for result in results}
    return [
        f"- {name}: {count} requests never ran; their weights do not fit the host that they were sent to"
        for name, count in left.items()
        if count
    ]


def _cell(summary: Summary, scale: float) -> str:
    value, half = summary.mean * scale, summary.half * scale
    if not np.isfinite(value):
        return "-"
    digits = 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}" + (f" ± {half:.{digits}f}" if half >= 0.05 else "")


def verdict(results: Sequence[Result]) -> list[str]:
    """How Marquee stands against the best peer and against weights that cost nothing."""
    named = {result.contender.name: summarise(result.figures) for result in results}
    if "marquee" not in named:
        return []
    lines = []
    for figure in ("mean", "p99"):
        ours, text = named["marquee"][figure].mean, []
        if (peer := best_peer(results, figure)) is not None:
            theirs = named[peer.contender.name][figure].mean
            share = round(100 * (1 - ours / theirs))
            text.append(
                f"{abs(share)} % {'over' if share < 0 else 'under'} the best peer ({peer.contender.name})"
            )
        if "free loads" in named:
            text.append(f"{ours / named['free loads'][figure].mean:.2f} x free loads")
        if text:
            lines.append(f"- {figure}: {ours:.1f} s, {', '.join(text)}")
    return lines


def check_plots() -> None:
    """Raises `PlotsMissingError`."""
    if importlib.util.find_spec("matplotlib") is None:
        raise PlotsMissingError


def plots(plan: Scenario, results: Sequence[Result], folder: Path) -> list[Path]:
    """How many requests took how long, and a PNG of bars for each figure beyond latency; needs the extra `sim`."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    stem = "".join(c if c.isalnum() else "-" for c in plan.name.lower())
    figure, axes = plt.subplots(figsize=(9, 5))
    for result in results:
        run = result.last_run
        done = [job for job in run.jobs if job.number in run.finished_at]
        values = np.sort(latencies(run, done))
        axes.plot(values, 1 - np.arange(len(values)) / len(values), **_style(result))
    axes.set(xscale="log", yscale="log", xlabel="latency, s", ylabel="share of requests that took longer")
    axes.set_title(plan.name, fontsize=10)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    paths = [folder / f"{stem}-latency.png"]
    figure.savefig(paths[0], dpi=120, bbox_inches="tight")
    plt.close(figure)
    for name, title, scale in COLUMNS[4:]:
        paths.append(folder / f"{stem}-{name.replace('_', '-')}.png")
        _bars(plan.name, results, name, title, scale, paths[-1])
    return paths


def _style(result: Result) -> dict[str, object]:
    """We stand out; what no peer has (bounds, our hosts) is dashed."""
    name = result.contender.name
    if name == "marquee":
        return {"label": name, "color": "black", "linewidth": 2.5, "zorder": 3}
    return {"label": name, "linestyle": "-" if result.contender.is_peer else "--"}


def _bars(plan: str, results: Sequence[Result], name: str, title: str, scale: float, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    found = [summarise(result.figures)[name] for result in results]
    names = [result.contender.name for result in results]
    bars = axes.barh(names, [each.mean * scale for each in found], xerr=[each.half * scale for each in found])
    for bar, each in zip(bars, results, strict=True):
        bar.set_color(
            "black" if each.contender.name == "marquee" else "C0" if each.contender.is_peer else "0.7"
        )
    axes.invert_yaxis()
    axes.set_xlabel(title)
    axes.set_title(plan, fontsize=10)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
