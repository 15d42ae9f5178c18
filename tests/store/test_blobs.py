"""Files by their digest: the same rules in a folder and in Azure Blob Storage, what goes wrong in each."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from cerulea.core.errors import FileTrouble, Invalid, Unreachable
from cerulea.store import blobs as module
from cerulea.store.blobs import Blobs
from tests.store.flaky import Flaky

AZURITE = os.environ.get("CERULEA_TEST_AZURITE", "")
NO_AZURITE = 'CERULEA_TEST_AZURITE is not set: eval "$(.ci/azurite start)" starts one for tests'
needs_azurite = pytest.mark.skipif(not AZURITE, reason=NO_AZURITE)


def azurite(prefix: str = "", **options: str) -> str:
    """A URL below the tests' container, with other options."""
    parts = urlsplit(AZURITE)
    query = urlencode({**dict(parse_qsl(parts.query)), **options})
    return f"az://{parts.netloc}/{prefix or secrets.token_hex(6)}?{query}"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Blobs:
    return Blobs(str(tmp_path / "blobs"))


@pytest.fixture(params=["folder", pytest.param("azurite", marks=needs_azurite)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return Blobs(str(tmp_path / "blobs") if request.param == "folder" else azurite())


def stored(tmp_path: Path, digest: str) -> Path:
    return tmp_path / "blobs" / digest[:2] / digest


def files_below(path: Path) -> list[str]:
    return sorted(p.name for p in path.rglob("*") if p.is_file())


# In every store


@pytest.mark.parametrize("size", [0, 1, 1000, (8 << 20) + 1, 20 << 20])
def test_what_is_put_is_fetched(store: Blobs, tmp_path: Path, size: int):
    """Sizes around one part of an upload, and of three parts."""
    (tmp_path / "a").write_bytes(content := os.urandom(size))

    digest = store.put_file(tmp_path / "a")
    store.fetch(digest, tmp_path / "deep" / "b")

    assert digest == sha(content)
    assert (tmp_path / "deep" / "b").read_bytes() == content
    assert files_below(tmp_path / "deep") == ["b"]
    assert store.has(digest) and not store.has(sha(b"other"))


def test_bytes_are_kept_as_files_are(store: Blobs, tmp_path: Path):
    digest = store.put_bytes(b"text")
    (tmp_path / "a").write_bytes(b"text")

    assert digest == store.put_file(tmp_path / "a") == store.put_bytes(b"text") == sha(b"text")
    store.fetch(digest, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"text"


def test_a_fetch_replaces_what_is_there(store: Blobs, tmp_path: Path):
    (tmp_path / "b").write_bytes(b"old")
    digest = store.put_bytes(b"new")

    store.fetch(digest, tmp_path / "b")
    store.fetch(digest, tmp_path / "b")

    assert (tmp_path / "b").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_blob_that_is_not_there_is_an_error(store: Blobs, tmp_path: Path):
    (tmp_path / "b").write_bytes(b"old")

    with pytest.raises(FileTrouble, match="lacks"):
        store.fetch(sha(b"other"), tmp_path / "b")

    assert (tmp_path / "b").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_damaged_blob_is_an_error_and_touches_nothing(store: Blobs, tmp_path: Path):
    (tmp_path / "b").write_bytes(b"old")
    digest = store.put_bytes(b"whole")
    store._place.put_bytes(module._key(digest), b"holes")

    with pytest.raises(FileTrouble, match="damaged"):
        store.fetch(digest, tmp_path / "b")

    assert (tmp_path / "b").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_blob_of_another_length_is_mended_by_a_put(store: Blobs, tmp_path: Path):
    digest = store.put_bytes(b"whole")
    store._place.put_bytes(module._key(digest), b"who")

    store.put_bytes(b"whole")

    store.fetch(digest, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"whole"


@pytest.mark.parametrize("size", [100, 20 << 20])
def test_a_file_that_changes_while_it_is_put_leaves_no_blob(
    store: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
):
    """Another process writes between the two readings of the file."""
    (tmp_path / "a").write_bytes(os.urandom(size))
    digest = module.sha256_file(tmp_path / "a")
    monkeypatch.setattr(module, "_linked", lambda source, target: False)
    monkeypatch.setattr(module, "sha256_file", lambda path: digest)
    with (tmp_path / "a").open("r+b") as file:
        file.seek(size - 1)
        file.write(b"\0" if (tmp_path / "a").read_bytes()[-1] else b"\1")

    with pytest.raises(FileTrouble, match="changed while it was read"):
        store.put_file(tmp_path / "a")

    assert not store.has(digest)


def test_many_may_put_the_same_file_at_once(store: Blobs, tmp_path: Path):
    """Azure keeps the parts of the one who ends first, and refuses the list of parts of the others."""
    (tmp_path / "a").write_bytes(os.urandom(100_000))

    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda _: store.put_file(tmp_path / "a"), range(16)))

    store.fetch(digests.pop(), tmp_path / "b")
    assert not digests
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


@pytest.mark.parametrize(
    "key", ["", "..", "../../etc/passwd", "/etc/passwd", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n"]
)
def test_a_key_is_a_digest_and_nothing_else(store: Blobs, tmp_path: Path, key: str):
    with pytest.raises(Invalid, match="no sha256"):
        store.has(key)
    with pytest.raises(Invalid, match="no sha256"):
        store.fetch(key, tmp_path / "b")


def test_a_file_that_cannot_be_read_is_an_error(store: Blobs, tmp_path: Path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(FileTrouble):
            store.put_file(path)


@pytest.mark.parametrize("url", ["gs://bucket", "http://host/x", "az:", "az:///prefix", "s3://", "ftp://x/y"])
def test_a_place_of_another_kind_is_refused(url: str):
    with pytest.raises(Invalid, match="no place for files"):
        Blobs(url)


def test_an_option_that_does_not_exist_is_refused():
    with pytest.raises(Invalid, match="cannot be opened"):
        Blobs("az://models?account_name=a&colour=blue")


def test_a_secret_in_a_url_is_not_repeated():
    with pytest.raises(Invalid) as refusal:
        Blobs("gs://bucket?account_key=hunter2")

    assert "hunter2" not in str(refusal.value)


# In a folder


def test_a_folder_links_and_copies_nothing(folder: Blobs, tmp_path: Path):
    (tmp_path / "a").write_bytes(b"weights")

    digest = folder.put_file(tmp_path / "a")
    folder.fetch(digest, tmp_path / "b")

    assert (tmp_path / "a").samefile(stored(tmp_path, digest))
    assert (tmp_path / "a").samefile(tmp_path / "b")


def test_a_files_end_leaves_its_blob(folder: Blobs, tmp_path: Path):
    """A run is removed, or its file is replaced in one step, as everything here writes."""
    (tmp_path / "a").write_bytes(b"weights")
    digest = folder.put_file(tmp_path / "a")
    (tmp_path / "new").write_bytes(b"other")
    (tmp_path / "new").replace(tmp_path / "a")

    folder.fetch(digest, tmp_path / "b")

    assert (tmp_path / "b").read_bytes() == b"weights"


def test_a_file_that_was_written_into_is_found_out(folder: Blobs, tmp_path: Path):
    (tmp_path / "a").write_bytes(b"weights")
    digest = folder.put_file(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"weighty")

    with pytest.raises(FileTrouble, match="damaged"):
        folder.fetch(digest, tmp_path / "b")


def test_a_symbolic_link_is_kept_as_what_it_points_to(folder: Blobs, tmp_path: Path):
    (tmp_path / "a").write_bytes(b"weights")
    (tmp_path / "link").symlink_to("a")

    digest = folder.put_file(tmp_path / "link")

    (tmp_path / "a").unlink()
    assert stored(tmp_path, digest).read_bytes() == b"weights"
    assert not stored(tmp_path, digest).is_symlink()


def test_where_nothing_can_be_linked_files_are_copied(folder: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(module.os, "link", refuse)
    (tmp_path / "a").write_bytes(content := os.urandom(100_000))

    digest = folder.put_file(tmp_path / "a")
    folder.fetch(digest, tmp_path / "b")

    assert (tmp_path / "b").read_bytes() == content
    assert not (tmp_path / "a").samefile(tmp_path / "b")
    assert files_below(tmp_path) == sorted(["a", "b", digest])


def test_a_full_disk_leaves_no_part_of_a_blob(folder: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    (tmp_path / "a").write_bytes(b"weights")

    with pytest.raises(FileTrouble, match="No space left"):
        folder.put_bytes(b"text")
    with pytest.raises(FileTrouble, match="No space left"):
        folder.put_file(tmp_path / "a")

    assert files_below(tmp_path / "blobs") == []
    assert not folder.has(sha(b"text"))


# In Azure Blob Storage


@needs_azurite
def test_one_gives_another_fetches(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"weights")
    url = azurite()

    digest = Blobs(url).put_file(tmp_path / "a")

    Blobs(url).fetch(digest, tmp_path / "b")
    assert not Blobs(azurite()).has(digest)


@needs_azurite
def test_a_wrong_key_and_a_missing_container_are_told(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"weights")
    wrong = azurite(account_key="AAAA")
    missing = azurite().replace("az://cerulea/", "az://other/")

    for url in (wrong, missing):
        with pytest.raises(Unreachable, match="CERULEA_BLOBS_URL"):
            Blobs(url).put_file(tmp_path / "a")


@needs_azurite
def test_a_file_comes_through_a_bad_network_once_and_whole(tmp_path: Path):
    """64 MiB over a way on which a fifth of all requests fail; sent again, nothing of it is sent."""
    parts = urlsplit(dict(parse_qsl(urlsplit(AZURITE).query))["endpoint"])
    (tmp_path / "a").write_bytes(os.urandom(64 << 20))
    with Flaky(parts.hostname, parts.port, share=0.2) as way:
        store = Blobs(azurite(endpoint=f"http://127.0.0.1:{way.port}{parts.path}"))
        digest = store.put_file(tmp_path / "a")
        faults, way.requests[:] = way.faults, []

        assert store.put_file(tmp_path / "a") == digest
        assert {line.split()[0] for line in way.requests} == {"HEAD"}
        for _ in range(3):
            store.fetch(digest, tmp_path / "b")
            assert module.sha256_file(tmp_path / "b") == digest
        assert faults > 0 and way.faults > faults
