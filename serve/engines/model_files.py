"""Where a model's files are: on this machine, on the Hugging Face hub, or in S3.

`fetch(source)` gives a path, or the hub's name where the engine's own library downloads.
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
    """A model's folder or file on this machine; a name on the hub is returned as it is.

    Raises:
        ConfigError: the path does not exist, or the bucket has nothing there.
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
    """A model that is one file, wherever it is; on the hub it is `org/repo/path/to/file`.

    Raises:
        ConfigError: there is no such file.
        MissingExtraError: the hub needs huggingface-hub.
    """
    found = Path(fetch(source))
    if found.is_file():
        return found
    if is_local(source) or source.startswith("s3://") or source.count("/") < 2:
        raise ConfigError(f"{source}: not a file; on the hub, name it as org/repo/file.gguf")
    try:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415  # an extra
    except ImportError:
        raise MissingExtraError("a model on the Hugging Face hub", "local") from None
    owner, repo, name = source.split("/", 2)
    return Path(hf_hub_download(f"{owner}/{repo}", name, revision=revision or None))


def fetch_folder(source: str) -> str:
    """A folder on this machine, also where the source is on the hub.

    Raises:
        ConfigError: the path does not exist, or the bucket has nothing there.
        MissingExtraError: S3 needs pyarrow, the hub huggingface-hub.
    """
    found = fetch(source)
    if Path(found).exists():
        return found
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415  # an extra
    except ImportError:
        raise MissingExtraError("a model on the Hugging Face hub", "local") from None
    return str(snapshot_download(found))


def _from_s3(source: str, cache: Path) -> Path:
    """Copy `s3://bucket/prefix` into the cache; the environment says which S3 and whose."""
    try:
        from pyarrow import fs  # noqa: PLC0415  # an extra
    except ImportError:
        raise MissingExtraError(f"{source}", "parquet") from None
    remote, path = fs.FileSystem.from_uri(source)
    found = remote.get_file_info(path)
    if found.type == fs.FileType.NotFound:
        raise ConfigError(f"{source}: nothing is there")
    files = [found]
    if found.type == fs.FileType.Directory:
        inside = remote.get_file_info(fs.FileSelector(path, recursive=True))
        files = [one for one in inside if one.type == fs.FileType.File]
    # What is there now names the copy, so that a changed model is copied anew.
    told = "\n".join(sorted(f"{one.path} {one.size} {one.mtime_ns}" for one in files))
    target = cache / hashlib.sha256(f"{source}\n{told}".encode()).hexdigest()[:24]
    if found.type == fs.FileType.File:
        target /= Path(path).name
    done = target.with_name(target.name + ".done")
    if not done.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        fs.copy_files(source, str(target))
        done.touch()
    return target


def fingerprint(path: Path) -> str:
    """Twelve hex digits that change with a local model's weights, config or tokenizer.

    Of files above 3 MB the beginning, the middle and the end are read.
    """
    digest = hashlib.sha256()
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    for one in files:
        size = one.stat().st_size
        digest.update(f"{one.name} {size}\n".encode())
        with one.open("rb") as file:
            if size <= 3 * _SAMPLE_BYTES:
                digest.update(file.read())
                continue
            for at in (0, size // 2, size - _SAMPLE_BYTES):
                file.seek(at)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:12]
