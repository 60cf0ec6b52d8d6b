"""The commands `marquee host` and `marquee load`. Process edge: parses, calls one function, prints."""

import asyncio
import errno
import json
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from loaders.errors import LoaderError
from registry import addresses, logs, shipped
from registry.errors import RegistryError
from registry.settings import Settings

if TYPE_CHECKING:
    from loaders.library import Result

device_option = click.option("--device", help="auto, cpu or cuda:0 (default auto).")
devices_option = click.option(
    "--device", help="auto, cpu, cuda:0, several with commas, or all (default auto)."
)


@click.command()
@click.option("--url", required=True, help="The router's address: https://models.example.com")
@click.option("--key", help="A key with the scope `host` (or MARQUEE_HOST_KEY).")
@click.option("--home", type=click.Path(path_type=Path), help="Weights and state (default .marquee).")
@devices_option
@click.option("--pool", help="The pool to join (default local).")
@click.option("--zone", help="Failure domain: rack, building, data centre.")
@click.option("--name", help="How the dashboard calls this host (default: the machine's name).")
def host(
    url: str,
    key: str | None,
    home: Path | None,
    device: str | None,
    pool: str | None,
    zone: str | None,
    name: str | None,
) -> None:
    """Join this machine's device, or several, to a pool and serve until stopped."""
    from loaders import host as process
    from loaders import several
    from loaders.link import Address

    settings = Settings.from_environment(os.environ, home=home, host_key=key, device=device, pool=pool)
    if settings.host_key is None:
        raise click.UsageError("a key is needed: --key or MARQUEE_HOST_KEY")
    if not addresses.is_http(url):
        raise click.BadParameter(f"{url!r} is no gateway's address, {addresses.LIKE}", param_hint="--url")
    if not addresses.is_token(settings.host_key):
        raise click.UsageError("the key is none: it is one word that begins with mq_")
    logs.configure(settings.log_level, facts={"device": settings.device} if settings.hosts_here > 1 else {})
    address = Address(url=url, key=settings.host_key)
    name = name or platform.node()
    try:
        devices = several.devices(settings.device)
        settings = msgspec.structs.replace(settings, device=devices[0])
        if len(devices) > 1:
            asyncio.run(several.run(address, settings, devices, name=name, zone=zone))
        else:
            asyncio.run(process.run(address, settings, name=name, zone=zone))
    except LoaderError as error:
        raise click.ClickException(str(error)) from error


@click.command()
@click.argument("model", metavar="SLUG|PATH|REPO")
@click.option("--prompt")
@click.option(
    "--lora", "loras", multiple=True, metavar="FILE|SLUG|REPO[:SCALE]", help="May be given several times."
)
@click.option("--negative-prompt")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--steps", type=int, help="Denoising steps.")
@click.option("--guidance", type=float)
@click.option("--size", metavar="WIDTHxHEIGHT")
@click.option("--count", type=int, default=1, show_default=True)
@click.option(
    "--set",
    "others",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other argument, several times: image_url=cat.png, strength=0.6, duration=2…",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path(), help="Folder for the outputs.")
@click.option(
    "--catalog",
    type=click.Path(path_type=Path),
    help="A catalog.yaml; default: the one here, else the one that Marquee comes with.",
)
@click.option("--home", type=click.Path(path_type=Path), help="Weights and state (default .marquee).")
@device_option
def load(
    model: str,
    prompt: str | None,
    loras: tuple[str, ...],
    negative_prompt: str | None,
    seed: int,
    steps: int | None,
    guidance: float | None,
    size: str | None,
    count: int,
    others: tuple[str, ...],
    out: Path,
    catalog: Path | None,
    home: Path | None,
    device: str | None,
) -> None:
    """Run one model here, without a server."""
    settings = Settings.from_environment(os.environ, home=home, device=device)
    logs.configure("warning" if settings.log_level == "info" else settings.log_level)  # it is shown already
    own = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "image_size": size,
        "num_images": count,
    }
    values = {**_named(others), **{name: value for name, value in own.items() if value is not None}}
    _check_folder(out)
    result = _run(settings, catalog or _catalog(), model, [_scaled(lora) for lora in loras], values)
    _keep(result, out, seed)


def _run(
    settings: Settings, catalog: Path, model: str, loras: list[tuple[str, float]], values: dict[str, Any]
) -> "Result":
    """How far it is stands on stderr meanwhile."""
    from loaders.library import Loader
    from loaders.showing import Display

    display = Display(sys.stderr)
    try:
        with Loader(settings, catalog=catalog, on_step=display.stepped, on_motion=display.moved) as loader:
            return loader.run(model, loras=loras, **values)
    except (LoaderError, RegistryError) as error:
        display.clear()
        raise click.ClickException(
            f"{error} ({error.name})" if isinstance(error, LoaderError) else str(error)
        ) from error


def _catalog() -> Path:
    here = Path(shipped.FILE)
    return here if here.exists() else shipped.catalog()


def _keep(result: "Result", out: Path, seed: int) -> None:
    """Writes the outputs and says what there is to say of them."""
    for output in result.outputs:
        path = out / f"{seed}-{output.sha256[:12]}.{output.suffix}"
        try:
            path.write_bytes(output.data)
        except OSError as error:
            raise _not_written(path, error) from error
        click.echo(f"{path}  ({output.content_type}, {output.size_bytes} bytes)")
    click.echo(f"load {result.load_seconds:.2f} s, run {result.run_seconds:.2f} s", err=True)
    for name, way in sorted(result.how.items()):
        click.echo(f"{name}: {way}", err=True)


def _check_folder(out: Path) -> None:
    """Before a run that may take minutes."""
    try:
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _not_written(out, error) from error


def _not_written(path: Path, error: OSError) -> click.ClickException:
    return click.ClickException(f"{path} cannot be written: {error.strerror}")


def _named(others: tuple[str, ...]) -> dict[str, Any]:
    """What is no JSON is text."""
    values: dict[str, Any] = {}
    for other in others:
        name, equals, text = other.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{other!r} is no NAME=VALUE", param_hint="--set")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


def _scaled(text: str) -> tuple[str, float]:
    name, colon, scale = text.rpartition(":")
    try:
        return (name, float(scale)) if colon else (text, 1.0)
    except ValueError:
        return text, 1.0
