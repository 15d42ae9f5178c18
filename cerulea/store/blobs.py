"""Files by the sha256 of their content: in a folder of this machine, or in Azure Blob Storage or S3.

In:      a URL, once; then files and bytes.
Out:     hex digests; files again.
Kept:    nobody names a path: a key is made of a digest alone. A blob appears whole or not at all, is sent once, and
         is never changed; what is fetched was verified against its digest.
Folder:  a file on the same file system is linked, not copied, in both directions. Whoever puts or fetches a file
         therefore never writes into it afterwards; to replace it (write beside, rename) is fine.
Not here: which blobs make a model (`registry`), when one is needed no more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from cerulea.core.errors import CeruleaError, FileTrouble, Invalid, Unreachable
from cerulea.core.files import CHUNK_BYTES, sha256_file, sync_folder

PART_BYTES = 8 << 20  # of an upload: what is held in memory is a few of these
RETRIES = {"max_retries": 8}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_KINDS = {"az": "azure", "azure": "azure", "abfs": "azure", "abfss": "azure", "s3": "s3", "s3a": "s3"}


class _Place(Protocol):
    """Where blobs lie."""

    def size(self, key: str) -> int | None: ...
    def put(self, key: str, path: Path, digest: str) -> None: ...
    def put_bytes(self, key: str, content: bytes) -> None: ...
    def link(self, key: str, path: Path) -> bool: ...
    def pieces(self, key: str) -> Iterable[Any]: ...


class Blobs:
    """An open store of blobs."""

    def __init__(self, url: str) -> None:
        """Open the store at `url` without asking anything of it yet.

        Args:
            url: a folder's path or file: URL; `az://container/prefix` or `s3://bucket/prefix`, with credentials from
                the provider's own variables (AZURE_STORAGE_ACCOUNT_NAME, AWS_ACCESS_KEY_ID, ...) or as options
                behind a question mark: `az://models?account_name=...&account_key=...&endpoint=http://...`.

        Raises:
            Invalid: no store of a kind that Cerulea uses, or an option that does not exist.
        """
        parts = urlsplit(url)
        if parts.scheme in ("", "file"):
            self._place: _Place = _Folder(Path(unquote(parts.path) if parts.scheme else url).expanduser())
        elif parts.scheme in _KINDS and parts.netloc:
            self._place = _Bucket(
                _KINDS[parts.scheme], parts.netloc, parts.path.strip("/"), dict(parse_qsl(parts.query))
            )
        else:
            raise Invalid(
                f"{url.split('?')[0][:80]!r} is no place for files of a kind that Cerulea uses.",
                why="It is a folder, az://CONTAINER/PREFIX or s3://BUCKET/PREFIX.",
                fix="Unset CERULEA_BLOBS_URL for a folder, or set one of these.",
            )

    def has(self, digest: str) -> bool:
        """Whether the store holds that content."""
        return self._place.size(_key(digest)) is not None

    def put_file(self, path: Path) -> str:
        """Keep a file's content; returns its digest. What is there already is not sent again.

        Raises:
            FileTrouble: the file cannot be read, changes while it is read, or the disk is full.
            Unreachable: the store does not answer or refuses.
        """
        with _told(path):
            digest, length = sha256_file(path), path.stat().st_size
            key = _key(digest)
            if self._place.size(key) != length:
                try:
                    self._place.put(key, path, digest)
                except Unreachable:
                    # Of two who send the same parts to Azure at once, the first to end throws the other's away.
                    if self._place.size(key) != length:
                        raise
        return digest

    def put_bytes(self, content: bytes) -> str:
        """Keep `content`; returns its digest. Raises as `put_file`."""
        digest = hashlib.sha256(content).hexdigest()
        key = _key(digest)
        with _told(Path(key)):
            if self._place.size(key) != len(content):
                self._place.put_bytes(key, content)
        return digest

    def fetch(self, digest: str, path: Path) -> None:
        """Make `path` a file with that content, in one step; a file that is there is replaced.

        Raises:
            FileTrouble: the store lacks the blob, or what it holds is damaged; `path` is as it was.
            Unreachable: the store does not answer or refuses.
        """
        key = _key(digest)
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = _beside(path)
            try:
                if self._place.link(key, temporary):
                    found = sha256_file(temporary)
                else:
                    found = _write(self._place.pieces(key), temporary)
                if found != digest:
                    raise FileTrouble(
                        f"The stored file {digest[:12]} is damaged: its content has the digest {found[:12]}.",
                        why="A file is kept under the sha256 of its content.",
                        fix=f"Remove {key} from the store and put the file in again, for example from its run.",
                    )
                # A rename between two names of one file does nothing and leaves both: hence the removal below.
                temporary.replace(path)
                sync_folder(path.parent)
            finally:
                temporary.unlink(missing_ok=True)


class _Folder:
    """Blobs in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def size(self, key: str) -> int | None:
        try:
            return (self.root / key).stat().st_size
        except FileNotFoundError:
            return None

    def put(self, key: str, path: Path, digest: str) -> None:
        final = self.root / key
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(final)
        try:
            if _linked(path, temporary):
                _sync(temporary)
            elif _write(_pieces(path), temporary) != digest:
                raise _changed(path)
            temporary.replace(final)
            sync_folder(final.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def put_bytes(self, key: str, content: bytes) -> None:
        final = self.root / key
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(final)
        try:
            _write([content], temporary)
            temporary.replace(final)
            sync_folder(final.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def link(self, key: str, path: Path) -> bool:
        if self.size(key) is None:
            raise _missing(key)
        return _linked(self.root / key, path)

    def pieces(self, key: str) -> Iterable[Any]:
        return _pieces(self.root / key)


class _Bucket:
    """Blobs in Azure Blob Storage or S3, through obstore."""

    def __init__(self, kind: str, bucket: str, prefix: str, options: dict[str, Any]) -> None:
        import obstore
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore, S3Store

        self._obstore = obstore
        if options.get("endpoint", "").startswith("http://"):
            options["client_options"] = {"allow_http": True}
        try:
            make: Any = AzureStore if kind == "azure" else S3Store
            self._store = make(bucket, prefix=prefix or None, retry_config=RETRIES, **options)
        except (BaseError, TypeError, ValueError) as error:
            raise Invalid(
                f"The store for files at {bucket!r} cannot be opened: {str(error).splitlines()[0]}.",
                fix="Check CERULEA_BLOBS_URL and its options.",
            ) from error

    def size(self, key: str) -> int | None:
        with _remote():
            try:
                return int(self._obstore.head(self._store, key)["size"])
            except FileNotFoundError:
                return None

    def put(self, key: str, path: Path, digest: str) -> None:
        with _remote():
            # An upload whose source raises is given up, so that no blob appears.
            self._obstore.put(self._store, key, _verified(path, digest), chunk_size=PART_BYTES, max_concurrency=4)

    def put_bytes(self, key: str, content: bytes) -> None:
        with _remote():
            self._obstore.put(self._store, key, content)

    def link(self, key: str, path: Path) -> bool:
        return False

    def pieces(self, key: str) -> Iterable[Any]:
        with _remote():
            try:
                yield from self._obstore.get(self._store, key).stream(min_chunk_size=PART_BYTES)
            except FileNotFoundError as error:
                raise _missing(key) from error


def _key(digest: str) -> str:
    """`ab/abcd…`: where a blob lies; nothing but a digest can be part of it."""
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise Invalid(f"{str(digest)[:80]!r} is no sha256.", fix="A file is named by 64 lower-case hexadecimal digits.")
    return f"{digest[:2]}/{digest}"


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _linked(source: Path, target: Path) -> bool:
    """Give `source` a second name; False where the file system cannot."""
    try:
        # A link to a symbolic link would be lost with what that one points to.
        os.link(source.resolve(), target)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def _verified(path: Path, digest: str) -> Iterator[bytes]:
    """A file's pieces; raises at their end where they are no longer what was asked to be kept."""
    seen = hashlib.sha256()
    for piece in _pieces(path):
        seen.update(piece)
        yield piece
    if seen.hexdigest() != digest:
        raise _changed(path)


def _write(pieces: Iterable[Any], path: Path) -> str:
    """Write pieces to a new file, to the disk; returns the digest of what was written."""
    seen = hashlib.sha256()
    with path.open("xb") as file:
        for piece in pieces:
            seen.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return seen.hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _changed(path: Path) -> FileTrouble:
    return FileTrouble(f"{path} changed while it was read.", fix="Try again when nobody writes to it.")


def _missing(key: str) -> FileTrouble:
    return FileTrouble(
        f"The store lacks the file {key[3:15]}.",
        why="It was removed, or the store is another one than before.",
        fix="Check CERULEA_BLOBS_URL.",
    )


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the file system refuses, as an error that says so."""
    try:
        yield
    except OSError as error:
        raise FileTrouble(
            f"{error.filename or path} cannot be read or written: {error.strerror or error}.",
            fix="Check the path, its permissions and the free space.",
        ) from error


@contextlib.contextmanager
def _remote() -> Iterator[None]:
    """What the provider refuses, as an error that says so."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (CeruleaError, GeneratorExit):
        raise
    except (BaseError, FileNotFoundError, PermissionError) as error:
        what = " ".join(line.strip() for line in str(error).splitlines()[:2])[:300]
        raise Unreachable(
            f"The store for files does not answer or refuses: {what}",
            fix="Check CERULEA_BLOBS_URL, the credentials, and that the container or bucket exists.",
        ) from error


__all__ = ["Blobs"]
