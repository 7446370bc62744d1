"""Finds a model's files on this machine, on the Hugging Face hub or in S3.

`fetch(source)` returns a path, or the hub's name where the engine's own library downloads.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from providers.errors import ConfigError, MissingExtraError
from serve.config import is_local

# Enough of a weight file to tell two apart without reading gigabytes.
_SAMPLE_BYTES = 1 << 20
_CACHE = Path("~/.cache/evalrouter/models")


def fetch(source: str, *, cache: Path = _CACHE) -> str:
    """Return a model's folder or file on this machine; a name on the hub is returned unchanged.

    Raises:
        ConfigError: the path does not exist, or the bucket has nothing at it.
        MissingExtraError: S3 needs pyarrow.
    """
    if source.startswith("s3://"):
        return str(_from_s3(source, cache.expanduser()))
    if is_local(source):
        path = Path(source).expanduser()
        if not path.exists():
            raise ConfigError(f"{source}: no such file or folder")
        return str(path)
    return source


def fetch_file(source: str, revision: str = "") -> Path:
    """Return the file of a model that is one file; on the hub it is `org/repo/path/to/file`.

    Raises:
        ConfigError: the file does not exist, or the source is a folder.
        MissingExtraError: the hub needs huggingface-hub.
    """
    path = Path(fetch(source))
    if path.is_file():
        return path
    if is_local(source) or source.startswith("s3://") or source.count("/") < 2:
        raise ConfigError(f"{source}: not a file; on the hub, name it as org/repo/file.gguf")
    try:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415  # an extra
    except ImportError:
        raise MissingExtraError("a model on the Hugging Face hub", "local") from None
    owner, repo, name = source.split("/", 2)
    return Path(hf_hub_download(f"{owner}/{repo}", name, revision=revision or None))


def fetch_folder(source: str) -> str:
    """Return a folder on this machine, downloaded where the source is on the hub.

    Raises:
        ConfigError: the path does not exist, or the bucket has nothing at it.
        MissingExtraError: S3 needs pyarrow, the hub huggingface-hub.
    """
    folder = fetch(source)
    if Path(folder).exists():
        return folder
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415  # an extra
    except ImportError:
        raise MissingExtraError("a model on the Hugging Face hub", "local") from None
    return str(snapshot_download(folder))


def _from_s3(source: str, cache: Path) -> Path:
    """Copy `s3://bucket/prefix` into the cache; address and keys of S3 are the environment's."""
    try:
        from pyarrow import fs  # noqa: PLC0415  # an extra
    except ImportError:
        raise MissingExtraError(f"{source}", "parquet") from None
    remote, path = fs.FileSystem.from_uri(source)
    info = remote.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise ConfigError(f"{source}: nothing is there")
    files = [info]
    if info.type == fs.FileType.Directory:
        inside = remote.get_file_info(fs.FileSelector(path, recursive=True))
        files = [file for file in inside if file.type == fs.FileType.File]
    # The listing names the copy, so that a changed model is copied anew.
    listing = "\n".join(sorted(f"{file.path} {file.size} {file.mtime_ns}" for file in files))
    target = cache / hashlib.sha256(f"{source}\n{listing}".encode()).hexdigest()[:24]
    if info.type == fs.FileType.File:
        target /= Path(path).name
    done = target.with_name(target.name + ".done")
    if not done.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        fs.copy_files(source, str(target))
        done.touch()
    return target


def fingerprint(path: Path) -> str:
    """Return twelve hex digits that change with a local model's weights, config or tokenizer.

    Of files above 3 MB the beginning, the middle and the end are read.
    """
    digest = hashlib.sha256()
    files = sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as content:
            if size <= 3 * _SAMPLE_BYTES:
                digest.update(content.read())
                continue
            for at in (0, size // 2, size - _SAMPLE_BYTES):
                content.seek(at)
                digest.update(content.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:12]
