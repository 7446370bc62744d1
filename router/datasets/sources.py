"""Fetches what a user names as a file of rows on this machine: a path, http(s)://, s3://, hf://.

    named = "hf://org/name?split=test"
    async with fetched(named, base=Path(), config=config, over_http=False) as source:
        open_dataset(source.path)

A file that had to be fetched lies in a temporary folder, which is removed afterwards.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from evaluators.data import dataset_process
from evaluators.data.dataset_process import in_thread
from evaluators.data.formats import EXTENSIONS
from providers.errors import ArtifactError, BodyTooLargeError, DatasetError, NotFoundError, closest
from router.config.evaluation import Datasets
from router.config.schema import Config
from router.datasets.artifacts import CHUNK, S3Artifacts, parse_s3, temporary_folder
from router.datasets.huggingface import Access, fetch, parse_hub

SCHEMES = ("http", "https", "s3", "hf")
TIMEOUT = aiohttp.ClientTimeout(total=3600, connect=10, sock_read=60)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_HOPS = 5
# An IPv4 address in IPv6's clothes, which a gateway would take them off.
_NAT64 = IPv6Network("64:ff9b::/96")


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset's file.

    Attributes:
        path: the file, or a folder of arrow files.
        name: the dataset's name where the user gives none.
        address: what the user named, complete (with a hub's commit) and without secrets.
        columns: the file's own column names to known ones, as it was registered.
        delimiter: what separates the cells of CSV and TSV, as it was registered.
        provenance: what is known of how it was made.
        registered: the hash of the registered version that it is; "" where it is none.
    """

    path: Path
    name: str
    address: str
    columns: dict[str, str] = {}
    delimiter: str = ""
    provenance: dict[str, Any] = {}
    registered: str = ""


def is_address(named: str) -> bool:
    """Return whether this names something to fetch rather than a path or a registered dataset."""
    return "://" in named


@asynccontextmanager
async def fetched(
    named: str, *, base: Path, config: Config, over_http: bool
) -> AsyncIterator[Source]:
    """Open the dataset's file on this machine.

    Args:
        named: a path, or an address of one of SCHEMES.
        base: the folder that relative paths start from.
        config: `datasets` says what may be fetched, `storage.s3` how S3 is reached.
        over_http: whether a client named it, who must not use the token of this machine's user.

    Raises:
        DatasetError, NotFoundError: why it cannot be fetched.
        BodyTooLargeError: it is larger than `datasets.max_bytes`.
        MissingExtraError: for S3 and the hub.
    """
    if not is_address(named):
        path = base / named
        await asyncio.to_thread(_check_path, path, named)
        yield Source(path=path, name=path.stem, address=named)
        return
    scheme = named.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise DatasetError(f"{named}: cannot fetch {scheme}://.{closest(scheme, SCHEMES)}")
    with temporary_folder() as folder:
        if scheme == "hf":
            yield await in_thread(_from_hub, named, config.datasets, folder, over_http=over_http)
        elif scheme == "s3":
            yield await _from_s3(named, config, folder)
        else:
            yield await _from_web(named, config, folder)


async def collect(chunks: AsyncIterable[bytes], path: Path, max_bytes: int, what: str) -> None:
    """Write a file of at most `max_bytes`.

    Raises:
        BodyTooLargeError: the chunks have more.
        ArtifactError: the disk refuses.
    """
    size = 0
    try:
        file = await asyncio.to_thread(path.open, "wb")
        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > max_bytes:
                    raise too_large(what, max_bytes)
                await asyncio.to_thread(file.write, chunk)
        finally:
            await asyncio.to_thread(file.close)
    except OSError as error:
        raise _no_room(what, path, error) from error


def _check_path(path: Path, named: str) -> None:
    """Refuse a path that cannot be one; that a file is missing shows when it is opened."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        shown = named if len(named) <= 100 else f"{named[:100]}…"
        raise DatasetError(f"{shown!r}: {getattr(error, 'strerror', error)}") from error


def too_large(what: str, max_bytes: int) -> BodyTooLargeError:
    """Return the error for a dataset that is larger than the config allows."""
    return BodyTooLargeError(f"{what}: is larger than {max_bytes} bytes (datasets.max_bytes)")


def to_jsonl(paths: list[Path], target: Path, max_bytes: int) -> None:
    """Write several files of rows as one. Blocks.

    Raises:
        DatasetError: a row that cannot be used.
        BodyTooLargeError: the file would be larger than `max_bytes`.
        ArtifactError: the disk refuses.
    """
    size = 0
    try:
        with target.open("wb") as file:
            for path in paths:
                dataset = dataset_process.open_dataset(path, needs_prompt=False)
                for row in dataset_process.rows(dataset):
                    size += file.write(json.dumps(row.fields, ensure_ascii=False).encode() + b"\n")
                    if size > max_bytes:
                        raise too_large(str(path), max_bytes)
    except OSError as error:
        raise _no_room(str(paths[0]), target, error) from error


def _no_room(what: str, path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"{what}: cannot be written to {path.parent}: {error.strerror}")


# The hub


def _from_hub(named: str, datasets: Datasets, folder: Path, *, over_http: bool) -> Source:
    access = _access(datasets, over_http=over_http)
    files = fetch(parse_hub(named), access, folder, datasets.max_bytes)
    name = files.name.repository.rpartition("/")[2]
    path = files.paths[0]
    if len(files.paths) > 1:
        path = folder / f"{name}.jsonl"
        to_jsonl(files.paths, path, datasets.max_bytes)
    parts = [name, *(part for part in (files.name.config, files.name.split) if part)]
    return Source(
        path=path,
        name="-".join(parts),
        address=str(files.name),
        provenance={"hub": datasets.hub, "commit": files.commit},
    )


def _access(datasets: Datasets, *, over_http: bool) -> Access:
    """Return how the hub is reached for a command, or for a client."""
    configured = datasets.hf_token.reveal() or None
    if not over_http:
        return Access(datasets.hub, configured)
    remedy = "datasets.hf_token in the server's config"
    return Access(datasets.hub, configured or False, remedy)


# S3


async def _from_s3(named: str, config: Config, folder: Path) -> Source:
    bucket, key = parse_s3(named)
    path = _landing(named, key, folder)
    artifacts = S3Artifacts(bucket, "", config.storage.s3, plain_keys=False)
    try:
        await collect(artifacts.get(key), path, config.datasets.max_bytes, named)
    except NotFoundError as error:
        raise NotFoundError(f"there is no {named}") from error
    return Source(path=path, name=path.stem, address=named)


def _landing(named: str, key: str, folder: Path) -> Path:
    suffix = Path(key).suffix.lower()
    if not key.isprintable():
        raise DatasetError(f"{named!r}: its name has characters that no file's name should have")
    if suffix not in EXTENSIONS:
        raise DatasetError(
            f"{named}: its name must end in one of {', '.join(EXTENSIONS)}, by which the format is "
            "known"
        )
    return folder / f"{Path(key).stem or 'dataset'}{suffix}"


# The web


async def _from_web(named: str, config: Config, folder: Path) -> Source:
    shown = without_secrets(named)
    path = _landing(shown, unquote(_split(named).path), folder)
    chunks = _download(named, config)
    async with aclosing(chunks):
        await collect(chunks, path, config.datasets.max_bytes, shown)
    return Source(path=path, name=path.stem, address=shown)


def without_secrets(url: str) -> str:
    """Return a URL without a password and without its query, which may be a signature."""
    parts = _split(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        # The whole of it might be a secret.
        raise DatasetError(f"{url.partition(':')[0]}://...: not an address: {error}") from error


async def _download(url: str, config: Config) -> AsyncGenerator[bytes]:
    max_bytes = config.datasets.max_bytes
    for _ in range(_MAX_HOPS):
        shown = without_secrets(url)
        pinned = _Pinned(await _addresses(url, allow_private=config.datasets.private_addresses))
        connector = aiohttp.TCPConnector(resolver=pinned, use_dns_cache=False)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as session,
                session.get(url, allow_redirects=False) as response,
            ):
                if response.status in _REDIRECTS:
                    url = urljoin(url, response.headers.get("location", ""))
                    continue
                if response.status != 200:
                    raise DatasetError(f"{shown}: the host answered {response.status}")
                # Unpacked sizes are not announced; `collect` counts them.
                if (response.content_length or 0) > max_bytes:
                    raise too_large(shown, max_bytes)
                async for chunk in response.content.iter_chunked(CHUNK):
                    yield chunk
                return
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise DatasetError(f"{shown}: cannot be fetched: {error or 'too slow'}") from error
    raise DatasetError(f"{without_secrets(url)}: more than {_MAX_HOPS} redirections")


async def _addresses(url: str, *, allow_private: bool) -> list[ResolveResult]:
    """Return the addresses of the URL's host. Raises DatasetError where they must be public."""
    parts = _split(url)
    shown = without_secrets(url)
    try:
        port = (443 if parts.scheme == "https" else 80) if parts.port is None else parts.port
    except ValueError as error:
        raise DatasetError(f"{shown}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DatasetError(f"{shown}: not an address of the form https://host/path")
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(
            parts.hostname, port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise DatasetError(f"{shown}: there is no host {parts.hostname} ({error})") from error
    for *_, address in addresses:
        if not allow_private and not is_public(str(address[0])):
            raise DatasetError(
                f"{shown}: {parts.hostname} is at {address[0]}, which is not a public address; to "
                "fetch datasets from there set datasets.private_addresses: true in the config"
            )
    return [
        ResolveResult(
            hostname=parts.hostname,
            host=str(address[0]),
            port=port,
            family=family,
            proto=proto,
            flags=socket.AI_NUMERICHOST,
        )
        for family, _, proto, _, address in addresses
    ]


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = inner or ip
    return ip.is_global and not ip.is_multicast


class _Pinned(AbstractResolver):
    """Resolves to the addresses that were checked, so that a second DNS answer cannot differ."""

    def __init__(self, addresses: list[ResolveResult]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the checked addresses, whatever the family."""
        return self._addresses

    async def close(self) -> None:
        """Do nothing: the resolver has no resources to free."""
