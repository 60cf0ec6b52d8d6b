"""Files get unguessable ids, are whole or absent, and say a media type that a browser may believe."""

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from router.errors import UnknownFileError
from router.files import FileStore

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "files")


def test_stored_bytes_come_back(store: FileStore) -> None:
    file_id = store.put(b"picture", "image/png", NOW)
    found = store.find(file_id)
    assert (found.path.read_bytes(), found.size_bytes, found.media_type) == (b"picture", 7, "image/png")
    assert file_id.startswith("20261123-")
    assert file_id.endswith(".png")


def test_what_a_browser_would_run_is_opaque(store: FileStore) -> None:
    for media_type in ("text/html", "image/svg+xml", "made/up"):
        assert store.find(store.put(b"<script>", media_type, NOW)).media_type == "application/octet-stream"


@pytest.mark.parametrize(
    "file_id", ["", "..", "../../etc/passwd", "20261123-abc.png", f"20261123-{'0' * 32}.png"]
)
def test_other_ids_are_unknown(store: FileStore, file_id: str) -> None:
    with pytest.raises(UnknownFileError):
        store.find(file_id)


def test_draft_is_invisible_until_kept_and_gone_when_discarded(store: FileStore, tmp_path: Path) -> None:
    draft = store.draft()
    draft.write(b"half")
    draft.discard()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_old_days_are_dropped_whole(store: FileStore) -> None:
    old, new = store.put(b"a", "image/png", NOW - 86_400), store.put(b"b", "image/png", NOW)
    assert store.drop_before(date(2026, 11, 23)) == 1
    assert store.find(new).size_bytes == 1
    with pytest.raises(UnknownFileError):
        store.find(old)


def test_a_renewed_file_lies_in_the_folder_of_its_new_day(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    old = store.put(b"content", "image/png", 0.0)
    assert store.renew(old, 3600.0) == old
    fresh = store.renew(old, 10 * 86400.0)
    store.drop_before(date(1970, 1, 5))
    assert (fresh[:8], store.find(fresh).path.read_bytes()) == ("19700111", b"content")
    with pytest.raises(UnknownFileError):
        store.renew(old, 10 * 86400.0)
