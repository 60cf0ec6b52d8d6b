"""Pinning against a server that speaks the Hub's protocol: answers become versions, refusals stay with their entry."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from registry import apply, cli, hub, manifest, pinning, store
from registry.catalog import Source
from registry.database import Database
from registry.errors import HubError, NotSafetensorsError
from tests.hub import Hub, Repository

TEXT = """
schemas:
  prompt: {type: object}
models:
  acme/toys:
    task: text-to-image
    input: prompt
    variants:
      acme/toys: {hub: acme/toys}
      acme/late: {hub: acme/late}
      acme/gone: {hub: acme/gone}
adapters:
  acme/bent: {base: acme/toys, hub: acme/bent}
"""


def _files(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


@pytest.fixture
def server(toys: Path):
    server = Hub().start()
    for repository, folder in (("acme/toys", "toys"), ("acme/late", "toys-late"), ("acme/bent", "toys-bent")):
        server.repositories[repository] = Repository(_files(toys.parent / folder))
    yield server
    server.stop()


async def test_answers_become_versions_and_are_asked_once(
    db: Database, server: Hub, toys: Path, tmp_path: Path
) -> None:
    file = tmp_path / "catalog.yaml"
    file.write_text(TEXT)
    declared = apply.read_file(file)
    endpoint = hub.Endpoint(url=server.endpoint)
    pins, outcome = await pinning.pin(
        declared,
        pinning.read(file),
        endpoint,
        keep=lambda pins: pinning.write(file, pins),
        tell=lambda _: None,
    )
    assert (outcome.pinned, outcome.known) == (3, 0)
    assert outcome.failed == {"acme/gone": "acme/gone: the Hub knows no such repository, or it wants a token"}

    fetched = sum(
        server.gets(f"{name}/diffusion_pytorch_model.safetensors") for name in ("transformer", "vae")
    )
    again, outcome = await pinning.pin(
        declared, pinning.read(file), endpoint, keep=lambda _: None, tell=lambda _: None
    )
    assert (again, outcome.pinned, outcome.known) == (pins, 0, 3)
    assert fetched == sum(
        server.gets(f"{name}/diffusion_pytorch_model.safetensors") for name in ("transformer", "vae")
    )

    await apply.apply(db, apply.read_file(file))
    rows = await store.load_catalog(db)
    local = apply.read_folders(manifest.parse((toys.parent / "catalog.yaml").read_text()), toys.parent)
    assert {v.variant: v.digest for v in rows.versions} == {
        "acme/toys": local.contents["acme/toys"].digest,
        "acme/late": local.contents["acme/toys/late"].digest,
    }, "the same bytes from the Hub or a folder are one version"
    assert {v.manifest.source.revision for v in rows.versions} == {
        server.repositories["acme/toys"].commit,
        server.repositories["acme/late"].commit,
    }
    assert [adapter.slug for adapter in rows.adapters] == ["acme/bent"]


async def test_only_headers_of_weights_are_fetched(server: Hub) -> None:
    hub.read_pipeline(hub.Endpoint(url=server.endpoint), Source(kind="hub", location="acme/toys"))
    asked = [
        span for method, path, span in server.requests if method == "GET" and path.endswith(".safetensors")
    ]
    assert asked
    assert all(span is not None for span in asked)


async def test_a_pickle_under_a_good_name_is_refused(server: Hub, toys: Path) -> None:
    files = _files(toys.parent / "toys") | {
        "vae/diffusion_pytorch_model.safetensors": b"\x80\x04" + bytes(5000)
    }
    server.repositories["acme/bad"] = Repository(files)
    with pytest.raises(NotSafetensorsError):
        hub.read_pipeline(hub.Endpoint(url=server.endpoint), Source(kind="hub", location="acme/bad"))


@pytest.mark.parametrize(
    ("repository", "revision", "message"),
    [
        ("acme/none", None, "acme/none: the Hub knows no such repository, or it wants a token"),
        ("acme/toys", "v9", "acme/toys: it has no revision v9"),
        (
            "acme/gated",
            None,
            "acme/gated: it is gated: accept its licence on the Hub and set MARQUEE_HUB_TOKEN",
        ),
    ],
)
def test_what_the_hub_refuses_is_named(
    server: Hub, toys: Path, repository: str, revision: str | None, message: str
) -> None:
    server.repositories["acme/gated"] = Repository(_files(toys.parent / "toys"), gated=True, token="x")
    with pytest.raises(HubError) as caught:
        hub.read_pipeline(
            hub.Endpoint(url=server.endpoint), Source(kind="hub", location=repository, revision=revision)
        )
    assert str(caught.value) == message


def test_no_hub_at_all_is_named() -> None:
    with pytest.raises(HubError, match=r"acme/toys: the Hub does not answer .* check the name"):
        hub.read_pipeline(hub.Endpoint(url="http://127.0.0.1:9"), Source(kind="hub", location="acme/toys"))


def test_inspect_prints_components_and_sizes(toys: Path) -> None:
    result = CliRunner().invoke(cli.inspect, [str(toys.parent / "toys")], env={"MARQUEE_TEST_CLUSTER": None})
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("StableDiffusion3Pipeline  sha256:")
    assert [line.split()[0] for line in lines[2:]] == [
        "text_encoder",
        "text_encoder_2",
        "transformer",
        "vae",
        "total",
    ]
