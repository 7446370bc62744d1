"""Packs a run's document, dataset and config into a folder that means the same elsewhere.

    command = pack(document, base, config, folder)      # in `folder`: evalrouter eval run ...

What is a file here goes along; what is a name or an address (a registered dataset, `hf://`, a
model) stays one, and is looked up where the run is executed.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from evaluators.document import RayExecution, RunDocument
from providers import yaml_documents
from providers.errors import ConfigError
from providers.wire import UNREADABLE
from router.datasets.shipped import SHIPPED
from router.datasets.sources import is_address
from router.evals.validation import resolve_metrics

RUN, CONFIG, FILES = "run.json", "evalrouter.yaml", "files"

_SQLITE = "sqlite:///"


def pack(document: RunDocument, base: Path, config: Mapping[str, Any], folder: Path) -> list[str]:
    """Fill a folder, and return the command that executes the run in it.

    Args:
        document: complete, as `complete_run` gives it.
        base: the folder that its relative paths start from.
        config: from `read_config`.
        folder: exists, and is empty.

    Raises:
        RunDocumentError: a file of one of its metrics does not exist.
    """
    files = _Files(folder)
    dataset = document.dataset
    if dataset not in SHIPPED and not is_address(dataset) and (base / dataset).is_file():
        dataset = files.take(base / dataset)
    execution = document.execution
    if execution == "ray":
        execution = RayExecution()
    if execution != "local" and not execution.address:
        # The cluster that the job is in.
        execution = msgspec.structs.replace(execution, address="auto")
    packed = msgspec.structs.replace(
        document,
        dataset=dataset,
        # The name that it would have had from the file.
        name=document.name or Path(document.dataset).stem,
        metrics=tuple(files.packed(spec) for spec in resolve_metrics(document, base).metrics),
        execution=execution,
    )
    (folder / RUN).write_bytes(msgspec.json.encode(packed))
    (folder / CONFIG).write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    return ["evalrouter", "eval", "run", RUN, "--config", CONFIG]


def read_config(path: Path | None, database: str | None) -> dict[str, Any]:
    """Return the config as it was written: its `${NAME}` are variables of the other machine.

    Args:
        path: the file; None for none.
        database: `storage.database`, instead of the file's.

    Raises:
        ConfigError: it cannot be read, or names no database that outlives the run.
    """
    config: Any = {}
    if path is not None:
        try:
            config = yaml_documents.decode_file(path) or {}
        except OSError as problem:
            raise ConfigError(f"{path}: {problem.strerror}") from None
        except UNREADABLE as problem:
            raise ConfigError(f"{path}: {problem}") from None
    if not isinstance(config, dict):
        raise ConfigError(
            f"{path}: the config must be an object (got {yaml_documents.kind_of(config)})"
        )
    storage = config.get("storage") or {}
    if database is not None:
        storage = {**storage, "database": database}
        config = {**config, "storage": storage}
    address = str(storage.get("database", "")) if isinstance(storage, dict) else ""
    if not address.removeprefix(_SQLITE).startswith(("/", "${", "postgres://", "postgresql://")):
        raise ConfigError(
            "storage.database: the job's own folder is deleted with the job; name a file by its "
            "full path on the cluster's head, as sqlite:////data/evalrouter.db, or a server, as "
            "postgresql://..., there or with --database",
            param="storage.database",
        )
    checked: dict[str, Any] = config
    return checked


class _Files:
    """Copies files into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken = 0

    def take(self, path: Path) -> str:
        """Copy a file or a folder, and return its path from where the document is."""
        # Each has a folder of its own, so that equal names do not meet.
        place = Path(FILES, str(self._taken), path.name)
        self._taken += 1
        (self._folder / place.parent).mkdir(parents=True)
        if path.is_dir():
            shutil.copytree(path, self._folder / place)
        else:
            shutil.copyfile(path, self._folder / place)
        return str(place)

    def packed(self, spec: str | Mapping[str, Any]) -> str | dict[str, Any]:
        """Return a metric's spec with its absolute paths replaced by paths in the folder."""
        if isinstance(spec, str):
            return self._text(spec)
        return {
            option: self._text(value) if isinstance(value, str) else value
            for option, value in spec.items()
        }

    def _text(self, value: str) -> str:
        path = value.removeprefix("file:")
        if not Path(path).is_absolute() or not Path(path).exists():
            return value
        return f"{'file:' if path != value else ''}{self.take(Path(path))}"
