"""Refuses what a run document that came over HTTP may not open, run and connect to.

    document = await confine(document, config.evaluation, datasets=datasets)

`Runs` and `Jobs` call it for everything that a server does for a client: creating, estimating,
resuming, extending and scoring again, and once more before a stored run is executed. Commands may
name anything: they run with the rights of the user's own account.

A `file:` metric is a program, so a request may name those alone that lie in the folder that the
config has for them (`evaluation.programs`), by their path in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import msgspec

from evaluators.data.paths import is_below
from evaluators.document import RunDocument
from evaluators.metrics.registry import MetricSpec, Opening, function_hint, openings
from providers.errors import RunDocumentError
from router.config.evaluation import Evaluation
from router.datasets.registry import DatasetRegistry


async def confine(
    document: RunDocument,
    allowed: Evaluation,
    *,
    datasets: DatasetRegistry | None,
    base: Path | None = None,
) -> RunDocument:
    """Refuse a document that names something outside what the config allows; nothing is opened.

    Return it with the whole paths of the programs in the folder for them.

    Args:
        document: complete, with what its task fills in.
        allowed: the config's section `evaluation`.
        datasets: says which datasets may be read; None where the run has its samples already.
        base: the folder that the dataset's path starts from; None for the working directory.

    Raises:
        RunDocumentError, RequestError: what is refused, and the setting that would allow it.
    """
    _check_execution(document, allowed)
    if datasets is not None:
        await datasets.confine(document.dataset, base=base)
    # On a thread: links are followed on the disk.
    metrics = await asyncio.to_thread(_checked_metrics, document, allowed)
    return msgspec.structs.replace(document, metrics=metrics)


def _check_execution(document: RunDocument, allowed: Evaluation) -> None:
    execution = document.execution
    if execution == "local":
        return
    address = "" if execution == "ray" else execution.address
    if address not in allowed.ray_addresses:
        raise RunDocumentError(
            f"execution.address: {address!r} is not among the clusters that requests may name "
            "(evaluation.ray_addresses in the server's config)",
            param="execution.address",
            code="not_allowed",
        )


def _checked_metrics(document: RunDocument, allowed: Evaluation) -> tuple[MetricSpec, ...]:
    return tuple(
        _checked_metric(spec, allowed, param=f"metrics[{n}]")
        for n, spec in enumerate(document.metrics)
    )


def _checked_metric(spec: MetricSpec, allowed: Evaluation, *, param: str) -> MetricSpec:
    for opening in openings(spec, param=param):
        if opening.what == "program" and opening.param == param:
            # A file; a program that an option names has the option's path.
            name = f"file:{_program(opening, allowed)}"
            spec = name if isinstance(spec, str) else {**spec, "name": name}
        else:
            _check_opening(opening, allowed)
    return spec


def _program(opening: Opening, allowed: Evaluation) -> Path:
    """Return the path of a program in the folder for them, through no link. Opens nothing.

    Raises:
        RunDocumentError: the config has no folder, or the program is elsewhere or not there.
    """
    if not allowed.programs:
        raise RunDocumentError(
            f"{opening.param}: a metric that is a file is run from the command line only, unless "
            "evaluation.programs in the server's config names the folder that it is in; or install "
            "it as a plugin",
            param=opening.param,
            code="not_allowed",
        )
    folder = Path(allowed.programs)
    if is_below(opening.value, [folder], base=folder):
        path = folder.resolve() / opening.value
        # Without links, which lead to what others may be able to write, and without `..`.
        if path.resolve() == path:
            return path
    raise RunDocumentError(
        f"{opening.param}: {opening.value!r} is not a file of the folder for programs "
        f"({allowed.programs}; evaluation.programs in the server's config): name it by its path "
        f"there, without .. and links{function_hint(opening.value)}",
        param=opening.param,
        code="not_allowed",
    )


def _check_opening(opening: Opening, allowed: Evaluation) -> None:
    param, value = opening.param, opening.value
    match opening.what:
        case "file":
            if not is_below(value, allowed.roots):
                raise RunDocumentError(
                    f"{param}: {value!r} is outside what requests may name "
                    f"({', '.join(allowed.roots)}; evaluation.roots in the server's config)",
                    param=param,
                    code="outside_roots",
                )
        case "model":
            if not _is_listed(value, allowed.models):
                raise _not_allowed(opening, "model", "evaluation.models")
        case "hub_metric":
            if value not in allowed.hf_metrics:
                raise _not_allowed(
                    opening, "metric of the Hugging Face hub", "evaluation.hf_metrics"
                )
        case "program":
            raise RunDocumentError(
                f"{param}: a metric that is a program is run from the command line only, or "
                "as an installed plugin",
                param=param,
                code="not_allowed",
            )


def _not_allowed(opening: Opening, kind: str, setting: str) -> RunDocumentError:
    return RunDocumentError(
        f"{opening.param}: {opening.value!r} is no {kind} that requests may name ({setting} in the "
        "server's config); others are run from the command line only",
        param=opening.param,
        code="not_allowed",
    )


def _is_listed(model: str, listed: Iterable[str]) -> bool:
    """Return whether the model is listed as it is written, or is a listed folder's full path.

    A stored document has the full path of a folder that was listed when it came.
    """
    if model in listed:
        return True
    return model.startswith("/") and model in (str(Path(folder).resolve()) for folder in listed)
