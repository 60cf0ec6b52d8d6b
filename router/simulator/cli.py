"""`marquee simulate`: plays scenarios and prints the comparison. ◐ process edge."""

import os
from pathlib import Path

import click

SCENARIOS = Path(__file__).parent / "scenarios"


@click.command()
@click.argument("scenarios", nargs=-1)
@click.option("--trace", "traces", type=click.Path(path_type=Path), help="Folder with the GenTD26 traces.")
@click.option("--requests", type=click.IntRange(min=1), help="How many, instead of the scenario's.")
@click.option("--seeds", type=click.IntRange(min=1), help="How many, instead of the scenario's.")
@click.option(
    "--load",
    type=click.FloatRange(min=0, min_open=True),
    help="Share of the hosts' run seconds, instead of the scenario's.",
)
@click.option("--policy", "policies", multiple=True, help="Only these; repeat it.")
@click.option("--plots", type=click.Path(path_type=Path), help="Folder for PNGs (needs the extra `sim`).")
def simulate(
    scenarios: tuple[str, ...],
    traces: Path | None,
    requests: int | None,
    seeds: int | None,
    load: float | None,
    policies: tuple[str, ...],
    plots: Path | None,
) -> None:
    """Compare routers on simulated fleets.

    SCENARIOS are YAML files, or names of the ones that come with Marquee; none lists those.
    """
    from router.simulator import experiment, report, scenario
    from router.simulator.errors import SimulatorError

    if not scenarios:
        for path in sorted(SCENARIOS.glob("*.yaml")):
            click.echo(f"{path.stem:24} {scenario.parse(path.read_text()).name}")
        return
    folder = traces or Path(os.environ.get("MARQUEE_TRACES", "traces"))
    given = {"requests": requests, "seeds": seeds, "load": load, "policies": list(policies) or None}
    overrides = {name: value for name, value in given.items() if value is not None}
    try:
        if plots:
            report.check_plots()
        for name in scenarios:
            plan = scenario.parse(_text(name), **overrides)
            results = experiment.play(plan, folder, lambda line: click.echo(line, err=True))
            click.echo(report.table(plan, results) + "\n")
            for path in report.plots(plan, results, plots) if plots else ():
                click.echo(f"wrote {path}", err=True)
    except (SimulatorError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _text(name: str) -> str:
    """Raises `ScenarioError`."""
    from router.simulator.errors import ScenarioError

    shipped = SCENARIOS / f"{name}.yaml"
    file = shipped if shipped.exists() else Path(name)
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        ours = ", ".join(sorted(path.stem for path in SCENARIOS.glob("*.yaml")))
        why = getattr(error, "strerror", None) or "it is no text"
        raise ScenarioError(f"{name}: {why}; give a YAML file, or one of {ours}") from error
