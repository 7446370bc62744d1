"""Downloads datasets of the Hugging Face hub: `hf://org/name?split=&config=&revision=`.

    files = fetch(parse_hub("hf://org/name?split=test"), access, folder, max_bytes)
    files.commit, files.paths

A revision is resolved to a commit first, and every file is taken from that commit. The files are
the repository's parquet files; where it has none, those that the hub itself makes of it (its branch
`refs/convert/parquet`). A private or gated dataset needs a token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from providers.errors import ArtifactError, DatasetError, MissingExtraError, closest
from router.datasets.artifacts import FULL

CONVERTED = "refs/convert/parquet"

# train-00000-of-00002.parquet, train.parquet; train/0000.parquet as the hub's own branch has it
_BY_NAME = re.compile(
    r"(?:(?P<folder>.+)/)?(?P<split>[A-Za-z0-9_.]+?)(?:-\d+-of-\d+(?:-\w+)?)?\.parquet"
)
_BY_FOLDER = re.compile(r"(?:(?P<folder>.+)/)?(?P<split>[A-Za-z0-9_.-]+)/\d+\.parquet")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class HubName(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset of the hub; None stands for what its address leaves open."""

    repository: str
    split: str | None = None
    config: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        query = {
            name: value
            for name in ("split", "config", "revision")
            if (value := getattr(self, name)) is not None
        }
        return f"hf://{self.repository}" + (f"?{urlencode(query)}" if query else "")


class HubFiles(NamedTuple):
    """A dataset's files, in order, with its complete address and its commit."""

    name: HubName
    commit: str
    paths: list[Path]


def parse_hub(address: str) -> HubName:
    """Read an address of the hub. Raises DatasetError."""
    parts = urlsplit(address)
    repository = f"{parts.netloc}{parts.path}".strip("/")
    query = parse_qs(parts.query, keep_blank_values=True)
    known = ("split", "config", "revision")
    for name, values in query.items():
        if name not in known:
            raise DatasetError(f"{address}: unknown {name!r}.{closest(name, known)}")
        if len(values) > 1 or not values[0]:
            raise DatasetError(f"{address}: give {name} one value")
    if not _REPOSITORY.fullmatch(repository):
        raise DatasetError(
            f"{address}: must be of the form hf://org/name?split=...&config=...&revision=..."
        )
    return HubName(repository=repository, **{name: values[0] for name, values in query.items()})


class Access(NamedTuple):
    """How the hub is reached.

    Attributes:
        endpoint: the hub's address, `https://huggingface.co`.
        token: gives access to private and gated datasets; None for the token that huggingface_hub
            has (`HF_TOKEN`, or `hf auth login`), False to use no token at all.
        remedy: the setting to name where a token is missing.
    """

    endpoint: str
    token: str | Literal[False] | None = None
    remedy: str = "HF_TOKEN"


def fetch(name: HubName, access: Access, folder: Path, max_bytes: int) -> HubFiles:
    """Download the dataset's files into `folder`. Blocks.

    Args:
        name: the dataset to fetch.
        access: the hub, and the token to use.
        folder: an empty folder.
        max_bytes: how many bytes the files may have together.

    Raises:
        DatasetError: no such dataset, revision, config or split; it needs a token, it is too large,
            or the hub cannot be reached.
        MissingExtraError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi, hf_hub_download  # noqa: PLC0415  # an optional package
        from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415  # likewise
    except ImportError:
        raise MissingExtraError("Datasets of the Hugging Face hub", "hub") from None
    disable_progress_bars()
    api = HfApi(endpoint=access.endpoint, token=access.token)
    with _TranslatedErrors(name, access):
        info = api.dataset_info(name.repository, revision=name.revision, files_metadata=True)
        card: Any = info.card_data or {}
        parquet = _parquet_of(info)
        if not parquet and name.revision is None:
            info = api.dataset_info(name.repository, revision=CONVERTED, files_metadata=True)
            parquet, card = _parquet_of(info), {}
        resolved, files = choose_files(name, list(parquet), card.get("configs") or [])
        size = sum(parquet[file] or 0 for file in files)
        if size > max_bytes:
            raise DatasetError(
                f"{resolved}: its files have {size} bytes, more than datasets.max_bytes "
                f"({max_bytes})"
            )
        paths = [
            Path(
                hf_hub_download(
                    name.repository,
                    file,
                    repo_type="dataset",
                    revision=info.sha,
                    local_dir=folder,
                    endpoint=access.endpoint,
                    token=access.token,
                )
            )
            for file in files
        ]
    resolved = msgspec.structs.replace(resolved, revision=info.sha)
    return HubFiles(resolved, str(info.sha), paths)


def _parquet_of(info: Any) -> dict[str, int | None]:
    return {
        file.rfilename: file.size for file in info.siblings or () if _is_parquet(file.rfilename)
    }


def _is_parquet(path: str) -> bool:
    """Return whether the path is a parquet file's, and lies in the repository."""
    return path.endswith(".parquet") and not path.startswith("/") and ".." not in path.split("/")


def choose_files(
    name: HubName, files: list[str], configs: list[dict[str, Any]]
) -> tuple[HubName, list[str]]:
    """Return the name with its config and split, and the files that belong to them.

    Args:
        name: may leave out the config or the split where the dataset has only one.
        files: the repository's parquet files.
        configs: those of the dataset's card; where it has none, the files' names say what they are.

    Raises:
        DatasetError: no such config or split, or the dataset has several and the name leaves it
            open.
    """
    of = _by_card(files, configs) or _by_names(files)
    if not of:
        raise DatasetError(f"{name}: has no parquet files; download it and give its files by path")
    config = _only(name, "config", name.config, of, default="default")
    split = _only(name, "split", name.split, of[config])
    named = config if name.config is not None or len(of) > 1 else None
    return (
        msgspec.structs.replace(name, config=named, split=split),
        sorted(of[config][split]),
    )


def _only(
    name: HubName, what: str, chosen: str | None, names: Iterable[str], default: str | None = None
) -> str:
    """Return the chosen name, or the only one, or the default."""
    known = list(names)
    if chosen is not None:
        if chosen not in known:
            raise DatasetError(f"{name}: has no {what} {chosen!r}.{closest(chosen, known)}")
        return chosen
    if len(known) == 1:
        return known[0]
    if default in known:
        return str(default)
    raise DatasetError(f"{name}: has several {what}s; add {what}=... ({', '.join(known[:12])})")


_Files = dict[str, dict[str, list[str]]]


def _by_card(files: list[str], configs: list[dict[str, Any]]) -> _Files:
    by_config: _Files = {}
    for config in configs:
        data = config.get("data_files")
        for entry in data if isinstance(data, list) else []:
            if not isinstance(entry, dict) or "path" not in entry:
                continue
            patterns = entry["path"] if isinstance(entry["path"], list) else [entry["path"]]
            matching = [f for f in files if any(fnmatch(f, str(glob)) for glob in patterns)]
            if matching:
                splits = by_config.setdefault(str(config.get("config_name", "default")), {})
                splits[str(entry.get("split", "train"))] = matching
    return by_config


def _by_names(files: list[str]) -> _Files:
    by_config: _Files = {}
    for file in files:
        match = _BY_FOLDER.fullmatch(file) or _BY_NAME.fullmatch(file)
        if match is None:
            continue
        folder = match["folder"]
        config = "default" if folder in (None, "data") else folder.removeprefix("data/")
        by_config.setdefault(config, {}).setdefault(match["split"], []).append(file)
    return by_config


class _TranslatedErrors:
    """Raises huggingface_hub's errors as evalrouter's."""

    def __init__(self, name: HubName, access: Access) -> None:
        self._name = name
        self._endpoint = access.endpoint
        self._remedy = access.remedy

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        from huggingface_hub import errors  # noqa: PLC0415  # an optional package

        name = self._name
        match error:
            case errors.GatedRepoError():
                raise DatasetError(
                    f"{name}: is gated; ask for access on the hub and set {self._remedy}"
                ) from error
            case errors.RevisionNotFoundError():
                raise DatasetError(f"{name}: has no such revision") from error
            case errors.RepositoryNotFoundError():
                raise DatasetError(
                    f"{name}: there is no such dataset on {self._endpoint}, or it is private and "
                    f"needs a token; set {self._remedy}"
                ) from error
            case errors.HFValidationError():
                raise DatasetError(f"{name}: {error}") from error
            case errors.HfHubHTTPError():
                raise DatasetError(f"{name}: {self._endpoint} refused: {error}") from error
            case OSError(errno=number) if number in FULL:
                raise ArtifactError(
                    f"{name}: no room to download it ({error.strerror}); free some space"
                ) from error
            case errors.LocalEntryNotFoundError() | OSError():
                raise DatasetError(
                    f"{name}: {self._endpoint} cannot be reached ({error}). Without a network, "
                    "give a file that is on this machine"
                ) from error
            case None:
                return
            case _ if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore"):
                raise DatasetError(
                    f"{name}: {self._endpoint} cannot be reached ({error}). Without a network, "
                    "give a file that is on this machine"
                ) from error
