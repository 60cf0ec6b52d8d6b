"""The local Hub is what the real client takes it for, so that tests against it say something."""

from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub import Fault, Hub, Repository, sha256

WEIGHTS = bytes(range(256)) * 64


@pytest.fixture
def hub():
    server = Hub(
        {
            "lab/open": Repository({"config.json": b"{}", "model.safetensors": WEIGHTS}),
            "lab/gated": Repository({"model.safetensors": WEIGHTS}, gated=True, token="hf_in"),
        }
    ).start()
    yield server
    server.stop()


@pytest.fixture
def download(hub, tmp_path):
    def call(repo, path, **options):
        options = {"endpoint": hub.endpoint, "cache_dir": tmp_path, "token": False} | options
        return Path(hf_hub_download(repo, path, **options)).read_bytes()

    return call


def test_the_real_client_reads_sizes_and_digests(hub):
    info = HfApi(endpoint=hub.endpoint, token=False).model_info("lab/open", files_metadata=True)
    weights = next(file for file in info.siblings if file.rfilename == "model.safetensors")
    assert info.sha == hub.repositories["lab/open"].commit
    assert (weights.size, weights.lfs.sha256) == (len(WEIGHTS), sha256(WEIGHTS))


def test_the_real_client_downloads_through_the_redirect(hub, download):
    assert download("lab/open", "model.safetensors") == WEIGHTS
    assert any(asked.startswith("/cdn/") for _, asked, _ in hub.requests)


def test_a_cut_connection_is_tried_again(hub, download):
    hub.fail("model.safetensors", Fault("cut", after_bytes=5000))
    assert download("lab/open", "model.safetensors") == WEIGHTS
    assert hub.gets("model.safetensors") == 2


def test_ranges_are_served(hub):
    address = f"{hub.endpoint}/lab/open/resolve/main/model.safetensors"
    answer = httpx.get(address, headers={"Range": "bytes=10-19"}, follow_redirects=True, trust_env=False)
    assert (answer.status_code, answer.content) == (206, WEIGHTS[10:20])


@pytest.mark.parametrize(
    ("repo", "path", "revision", "error"),
    [
        ("lab/unknown", "config.json", "main", RepositoryNotFoundError),
        ("lab/open", "nothing.json", "main", EntryNotFoundError),
        ("lab/open", "config.json", "0" * 40, RevisionNotFoundError),
        ("lab/gated", "model.safetensors", "main", GatedRepoError),
    ],
)
def test_refusals_are_told_apart(download, repo, path, revision, error):
    with pytest.raises(error):
        download(repo, path, revision=revision)


def test_a_member_passes_the_gate(download):
    assert download("lab/gated", "model.safetensors", token="hf_in") == WEIGHTS
