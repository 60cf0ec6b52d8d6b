"""The console command `marquee`: names its subcommands and imports each only when it is called. Process edge."""

import difflib
import importlib
import sys
from collections.abc import Sequence

import click

from loaders import tunables

COMMANDS = {
    "up": "router.up:up",
    "gateway": "router.gateway_cli:gateway",
    "migrate": "registry.cli:migrate",
    "catalog": "registry.cli:catalog",
    "key": "registry.cli:key",
    "inspect": "registry.cli:inspect",
    "publish": "registry.publish_cli:publish",
    "requests": "registry.account_cli:requests",
    "usage": "registry.account_cli:usage",
    "demo-data": "registry.usage_cli:demo_data",
    "top": "router.top:top",
    "host": "loaders.cli:host",
    "load": "loaders.cli:load",
    "why": "router.why:why",
    "simulate": "router.simulator.cli:simulate",
}


EXTRAS = {"host": "host", "load": "host", "up": "all"}  # all others need at most `server`
OURS = ("loaders", "registry", "router")


class LazyGroup(click.Group):
    """A group whose commands are imported on first use, so that `marquee host` needs no server packages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = COMMANDS.get(cmd_name)
        if target is None:
            if near := difflib.get_close_matches(cmd_name, COMMANDS, n=1):
                ctx.fail(f"No such command {cmd_name!r}. Did you mean {near[0]!r}?")
            return None
        module_name, attribute = target.split(":")
        command = getattr(importlib.import_module(module_name), attribute)
        assert isinstance(command, click.Command), target
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands whose packages are not installed here are left out of the list, not fatal to it."""
        rows = []
        for name in self.list_commands(ctx):
            try:
                command = self.get_command(ctx, name)
            except ModuleNotFoundError as missing:
                rows.append((name, f"(not installed here: needs {missing.name})"))
                continue
            if command is not None:
                rows.append((name, command.get_short_help_str(200)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=LazyGroup)
@click.version_option(package_name="marquee", prog_name="marquee")
def marquee() -> None:
    """A generative-media model marketplace that a company runs itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. A named error of ours becomes one clear line and exit code 1; a traceback is a bug."""
    if arguments is None and sys.argv[1:2] == ["host"]:
        tunables.apply()
    try:
        marquee.main(args=arguments, prog_name="marquee", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] in OURS:
            raise
        click.echo(f"marquee: {_to_install(missing, arguments)}", err=True)
        return 1
    except Exception as error:
        if not is_ours(error):
            raise
        click.echo(f"marquee: {error}", err=True)
        return 1
    return 0


def _to_install(missing: ModuleNotFoundError, arguments: Sequence[str] | None) -> str:
    words = sys.argv[1:] if arguments is None else arguments
    extra = next((EXTRAS[word] for word in words if word in EXTRAS), "server")
    return f"this command needs {missing.name}, which is not installed here: pip install 'marquee[{extra}]'"


def is_ours(error: Exception) -> bool:
    """Every package's errors derive from one root class in its `errors` module."""
    ours = ("registry.errors", "loaders.errors", "router.errors")
    return any(base.__module__ in ours for base in type(error).__mro__)


if __name__ == "__main__":
    sys.exit(main())
