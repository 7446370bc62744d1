"""Stores files in a local folder or in S3, behind one protocol.

    artifacts = open_artifacts("s3://bucket/prefix", config.storage.s3)
    stored = await artifacts.put("datasets/ab12.csv", chunks)
    async for chunk in artifacts.get("datasets/ab12.csv"): ...

A key is a relative path of plain names. An artifact is stored whole or not at all: when `chunks`
raises, or the process is killed, the key has what it had before.

This is the only module that knows boto3.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import io
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator
from contextlib import aclosing, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec

from providers.errors import ArtifactError, ConfigError, MissingExtraError, NotFoundError
from router.config.storage import S3

CHUNK = 1024 * 1024
PART = 8 * 1024 * 1024  # S3 takes parts from 5 MiB on, and 10,000 of them

# What a full disk says.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_KEY = re.compile(r"[A-Za-z0-9_=@-][A-Za-z0-9._=@-]*(/[A-Za-z0-9_=@-][A-Za-z0-9._=@-]*)*")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_INCOMING = ".incoming"
_ABANDONED_S = 3600.0
# Only temporary folders with this prefix are locked while they are in use.
_FOLDERS = "evalrouter-files-"
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


class Artifact(msgspec.Struct, frozen=True):
    """A stored file, and how many bytes it has."""

    key: str
    size: int


class StoredFile(msgspec.Struct, frozen=True):
    """A file that `put` wrote. `sha256` is the hash of its bytes, hex."""

    key: str
    size: int
    sha256: str


class Artifacts(Protocol):
    """Stores files. Every method may raise ArtifactError.

    Attributes:
        root: the folder or `s3://bucket/prefix`, for messages.
    """

    root: str

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> StoredFile:
        """Store a file, in place of an earlier one. Raises what `chunks` raises."""
        ...

    def get(self, key: str) -> AsyncGenerator[bytes]:
        """Yield the file in chunks of up to 1 MiB. Raises NotFoundError."""
        ...

    def open(self, key: str, size: int) -> io.RawIOBase:
        """Open a file of a known size, to read any part of it on the thread that calls.

        Raises NotFoundError, then or as it is read.
        """
        ...

    def list(self, prefix: str = "") -> AsyncGenerator[Artifact]:
        """Yield the files whose keys begin with `prefix`, by key."""
        ...

    async def exists(self, key: str) -> bool:
        """Return whether the key has a file."""
        ...

    async def delete(self, key: str) -> None:
        """Remove a file; not an error when the key has none."""
        ...

    def path(self, key: str) -> Path | None:
        """Return the file's path on this machine's disk; None where it must be fetched."""
        ...


def open_artifacts(root: str, s3: S3) -> Artifacts:
    """Return the store at a folder or at `s3://bucket/prefix`, which is not touched yet.

    Raises:
        ConfigError: the address is neither.
        MissingExtraError: S3 without boto3.
    """
    if root.startswith("s3://"):
        bucket, prefix = parse_s3(root)
        return S3Artifacts(bucket, prefix, s3)
    if "://" in root:
        raise ConfigError(f"{root!r} is neither a folder nor s3://bucket/prefix")
    return LocalArtifacts(Path(root))


def parse_s3(url: str) -> tuple[str, str]:
    """Return bucket and key (or prefix, without slashes at its ends) of `s3://bucket/key`."""
    parts = urlsplit(url)
    if not _BUCKET.fullmatch(parts.netloc) or parts.query or parts.fragment:
        raise ConfigError(f"{url!r} is not of the form s3://bucket/prefix")
    return parts.netloc, parts.path.strip("/")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder that is removed afterwards. Raises ArtifactError where that fails.

    Where its process is killed, it stays until the next call of `remove_abandoned_folders`.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix=_FOLDERS)
        lock = os.open(made.name, os.O_RDONLY)
    except OSError as error:
        raise ArtifactError(f"no temporary folder can be made: {error}") from error
    try:
        with suppress(OSError):  # a file system without locks: no other process removes it
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with made as name:
            yield Path(name)
    finally:
        os.close(lock)


def remove_abandoned_folders(*, older_s: float = 60.0) -> None:
    """Remove the temporary folders of this user's processes that were killed. Blocks.

    Args:
        older_s: how old a folder has to be; one may have been made and not be locked yet.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*"):
        # Another process may remove it, too.
        with suppress(OSError):
            about = folder.lstat()
            is_old = about.st_mtime < time.time() - older_s
            if about.st_uid == os.getuid() and stat.S_ISDIR(about.st_mode) and is_old:
                _remove_unlocked(folder)


def _remove_abandoned_files(folder: Path) -> None:
    """Remove files that nobody has written to for an hour. Blocks."""
    for file in folder.iterdir():
        with suppress(OSError):
            if file.lstat().st_mtime < time.time() - _ABANDONED_S:
                file.unlink()


def _remove_unlocked(folder: Path) -> None:
    """Remove a folder that no process uses. Raises OSError where one does."""
    lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(lock)


async def file_chunks(path: Path) -> AsyncGenerator[bytes]:
    """Yield a file's bytes, read on a thread."""
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while chunk := await _finished(file.read, CHUNK):
            yield chunk
    finally:
        file.close()


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key) or len(key) > 900:
        raise ArtifactError(f"{key!r} cannot be an artifact's key")
    return key


async def _finished(
    function: Callable[_Args, _Result], *args: _Args.args, **kwargs: _Args.kwargs
) -> _Result:
    """Call a function on a thread; a cancellation waits for its end, so that cleanup is safe."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # A cancelled scope, as that of an answer whose client left, cancels again and again.
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        task.exception()
        raise


# Local


class LocalArtifacts:
    """Stores files below a folder, which is made for the first one."""

    def __init__(self, folder: Path) -> None:
        self.root = str(folder)
        self._folder = folder

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> StoredFile:
        """Write a file beside its place, flush it to the disk, then rename it in one step."""
        target = self._folder / _checked(key)
        beside = self._folder / _INCOMING / uuid.uuid4().hex
        digest, size = hashlib.sha256(), 0
        try:
            await _finished(beside.parent.mkdir, parents=True, exist_ok=True)
            await _finished(_remove_abandoned_files, beside.parent)
            file = await _finished(beside.open, "xb")
        except OSError as error:
            raise self._refused("store", key, error) from error

        def write(chunk: bytes) -> None:
            digest.update(chunk)
            file.write(chunk)

        def finish() -> None:
            file.flush()
            os.fsync(file.fileno())
            file.close()
            target.parent.mkdir(parents=True, exist_ok=True)
            beside.replace(target)

        try:
            async for chunk in chunks:
                size += len(chunk)
                try:
                    await _finished(write, chunk)
                except OSError as error:
                    raise self._refused("store", key, error) from error
            try:
                await _finished(finish)
            except OSError as error:
                raise self._refused("store", key, error) from error
        finally:
            # Closing writes what is buffered, which a full disk refuses again.
            with suppress(OSError):
                file.close()
            beside.unlink(missing_ok=True)
        return StoredFile(key, size, digest.hexdigest())

    async def get(self, key: str) -> AsyncGenerator[bytes]:
        """Yield the file in chunks of up to 1 MiB. Raises NotFoundError."""
        chunks = file_chunks(self._folder / _checked(key))
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise _no_such(key) from None
        except OSError as error:
            raise self._refused("read", key, error) from error

    def open(self, key: str, size: int) -> io.RawIOBase:
        """Open a file, to read any part of it."""
        try:
            return (self._folder / _checked(key)).open("rb", buffering=0)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise _no_such(key) from None
        except OSError as error:
            raise self._refused("read", key, error) from error

    async def list(self, prefix: str = "") -> AsyncGenerator[Artifact]:
        """Yield the files whose keys begin with `prefix`, by key."""

        def walk() -> list[Artifact]:
            artifacts = []
            for folder, names, files in os.walk(self._folder):
                names[:] = [name for name in names if not name.startswith(".")]
                for name in files:
                    path = Path(folder, name)
                    key = path.relative_to(self._folder).as_posix()
                    if key.startswith(prefix):
                        artifacts.append(Artifact(key, path.stat().st_size))
            return sorted(artifacts, key=lambda artifact: artifact.key)

        for artifact in await asyncio.to_thread(walk):
            yield artifact

    async def exists(self, key: str) -> bool:
        """Return whether the key has a file."""
        return await asyncio.to_thread((self._folder / _checked(key)).is_file)

    async def delete(self, key: str) -> None:
        """Remove a file; not an error when the key has none."""
        try:
            await _finished((self._folder / _checked(key)).unlink, missing_ok=True)
        except OSError as error:
            raise self._refused("delete", key, error) from error

    def path(self, key: str) -> Path | None:
        """Return the file's path, whether or not it exists."""
        return self._folder / _checked(key)

    def _refused(self, doing: str, key: str, error: OSError) -> ArtifactError:
        reason = error.strerror or str(error)
        if error.errno in FULL:
            reason = f"no space left ({reason}); nothing of it was stored; free some space"
        message = f"cannot {doing} {key} in {self.root}: {reason}"
        return ArtifactError(message, place=str(self.root))


# S3


class S3Artifacts:
    """Stores objects below a prefix of a bucket, which must exist.

    Files of more than 8 MiB are sent in parts; when one fails, its parts are removed. With
    `plain_keys=False` a key may be anything, for objects that evalrouter did not write.

    Raises:
        MissingExtraError: boto3 is not installed.
    """

    def __init__(self, bucket: str, prefix: str, s3: S3, *, plain_keys: bool = True) -> None:
        self.root = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._settings = s3
        self._check = _checked if plain_keys else str
        self._made: Any = None
        self._making = asyncio.Lock()
        try:
            import boto3  # noqa: PLC0415  # an optional package
            from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415  # likewise
        except ImportError:
            raise MissingExtraError("Artifacts in S3", "s3") from None
        self._boto3 = boto3
        self._errors = (BotoCoreError, ClientError)

    async def put(self, key: str, chunks: AsyncIterable[bytes]) -> StoredFile:
        """Store a file, in one request where it is small, in parts where it is not."""
        digest, size = hashlib.sha256(), 0
        upload: str | None = None
        parts: list[dict[str, Any]] = []
        waiting = bytearray()

        async def send_part(body: bytes) -> None:
            number = len(parts) + 1
            reply = await self._call(
                "upload_part", key, PartNumber=number, UploadId=upload, Body=body
            )
            parts.append({"PartNumber": number, "ETag": reply["ETag"]})

        try:
            async for chunk in chunks:
                await asyncio.to_thread(digest.update, chunk)
                size += len(chunk)
                waiting += chunk
                while len(waiting) > PART:
                    if upload is None:
                        upload = (await self._call("create_multipart_upload", key))["UploadId"]
                    await send_part(bytes(waiting[:PART]))
                    del waiting[:PART]
            if upload is None:
                await self._call("put_object", key, Body=bytes(waiting))
            else:
                await send_part(bytes(waiting))
                await self._call(
                    "complete_multipart_upload",
                    key,
                    UploadId=upload,
                    MultipartUpload={"Parts": parts},
                )
        except BaseException:
            if upload is not None:
                with suppress(ArtifactError, NotFoundError):
                    await asyncio.shield(self._call("abort_multipart_upload", key, UploadId=upload))
            raise
        return StoredFile(key, size, digest.hexdigest())

    async def get(self, key: str) -> AsyncGenerator[bytes]:
        """Yield the object in chunks of up to 1 MiB. Raises NotFoundError."""
        body = (await self._call("get_object", key))["Body"]
        try:
            while True:
                try:
                    chunk = await _finished(body.read, CHUNK)
                except (*self._errors, OSError) as error:
                    raise self._refused("get_object", key, error) from error
                if not chunk:
                    return
                yield chunk
        finally:
            body.close()

    def open(self, key: str, size: int) -> io.RawIOBase:
        """Return an object to read ranges of."""
        return _ObjectReader(partial(self._range, key), size)

    def _range(self, key: str, first: int, after: int) -> bytes:
        try:
            if self._made is None:
                self._made = self._make()
            body = self._made.get_object(
                Bucket=self._bucket,
                Key=self._prefix + self._check(key),
                Range=f"bytes={first}-{after - 1}",
            )["Body"]
            with closing(body):
                data: bytes = body.read()
        except (*self._errors, OSError) as error:
            if _code(error) in _MISSING:
                raise _no_such(key) from None
            raise self._refused("get_object", key, error) from error
        return data

    async def list(self, prefix: str = "") -> AsyncGenerator[Artifact]:
        """Yield the objects whose keys begin with `prefix`, by key, page by page."""
        parameters: dict[str, Any] = {"Prefix": self._prefix + prefix}
        while True:
            page = await self._call("list_objects_v2", None, **parameters)
            for entry in page.get("Contents", ()):
                yield Artifact(entry["Key"][len(self._prefix) :], entry["Size"])
            if not page.get("IsTruncated"):
                return
            parameters["ContinuationToken"] = page["NextContinuationToken"]

    async def exists(self, key: str) -> bool:
        """Return whether the key has an object."""
        try:
            await self._call("head_object", key)
        except NotFoundError:
            return False
        return True

    async def delete(self, key: str) -> None:
        """Remove an object; not an error when the key has none."""
        await self._call("delete_object", key)

    def path(self, key: str) -> Path | None:
        """Return None: an object has to be fetched."""
        return None

    async def _call(self, name: str, key: str | None, **parameters: Any) -> dict[str, Any]:
        if key is not None:
            parameters["Key"] = self._prefix + self._check(key)
        try:
            call = getattr(await self._client(), name)
            answer: dict[str, Any] = await _finished(call, Bucket=self._bucket, **parameters)
        except self._errors as error:
            if key is not None and _code(error) in _MISSING:
                raise _no_such(key) from None
            raise self._refused(name, key or "", error) from error
        return answer

    async def _client(self) -> Any:
        async with self._making:
            if self._made is None:
                self._made = await _finished(self._make)
        return self._made

    def _make(self) -> Any:
        from botocore.config import Config  # noqa: PLC0415  # an optional package

        s3 = self._settings
        return self._boto3.session.Session().client(
            "s3",
            endpoint_url=s3.endpoint_url or None,
            region_name=s3.region or None,
            aws_access_key_id=s3.access_key_id.reveal() or None,
            aws_secret_access_key=s3.secret_access_key.reveal() or None,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": 4},
                connect_timeout=5,
                read_timeout=60,
                # Other hosts than Amazon seldom know names for buckets, nor trailing checksums.
                s3={"addressing_style": "path"} if s3.endpoint_url else None,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def _refused(self, doing: str, key: str, error: Exception) -> ArtifactError:
        place = f"{self.root}/{key}" if key else self.root
        return ArtifactError(f"S3 refused {doing} at {place}: {error}", place=self.root)


class _ObjectReader(io.RawIOBase):
    """An object as a file: each read is a request for a range."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read = read
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        after = self._size if size < 0 else min(self._size, self._at + size)
        data = self._read(self._at, after) if after > self._at else b""
        self._at += len(data)
        return data


def _code(error: Any) -> str:
    response = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def _no_such(key: str) -> NotFoundError:
    return NotFoundError(f"there is no {key} in the artifact store")
