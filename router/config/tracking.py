"""`tracking:` of the config: where runs are sent when they have ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import msgspec

from providers.base import Positive, Secret
from router.config.documents import Document, Problem
from router.config.section import Section


class Tracking(Section, frozen=True, kw_only=True):
    """Where runs are sent when they have ended. Needs the extra `mlflow`.

    Attributes:
        mlflow: the address of an MLflow server, `file:///folder`, or `databricks`; "" for none.
        experiment: the experiment of MLflow that the runs belong to.
        automatic: whether every run that ends is sent, besides those that are sent on request.
        rows: whether the samples, answers and scores are sent, besides the report.
        username, password, token: how the server is reached; else `MLFLOW_TRACKING_USERNAME`,
            `MLFLOW_TRACKING_PASSWORD` and `MLFLOW_TRACKING_TOKEN`.
        limit_s: seconds that sending a run may take.
    """

    mlflow: str = ""
    experiment: str = "evalrouter"
    automatic: bool = True
    rows: bool = True
    username: str = ""
    password: Secret = Secret("")
    token: Secret = Secret("")
    limit_s: Positive = 300.0


def with_variables(tracking: Tracking, environ: Mapping[str, str]) -> Tracking:
    """Return the section with what it leaves to MLflow's own variables."""
    return msgspec.structs.replace(
        tracking,
        username=tracking.username or environ.get("MLFLOW_TRACKING_USERNAME", ""),
        password=tracking.password or Secret(environ.get("MLFLOW_TRACKING_PASSWORD", "")),
        token=tracking.token or Secret(environ.get("MLFLOW_TRACKING_TOKEN", "")),
    )


def tracking_problems(document: Document, tracking: Tracking) -> Iterator[Problem]:
    """Yield what no run can be sent to."""
    if tracking.mlflow and (fault := address_fault(tracking.mlflow)):
        yield document.problem(("tracking", "mlflow"), fault)
    if not tracking.experiment.strip() or not tracking.experiment.isprintable():
        yield document.problem(("tracking", "experiment"), "must be a name")


def address_fault(address: str) -> str:
    """Return why nothing can be sent to an address; "" where nothing is wrong with it.

    The reason never has the address in it, which may have a password where nobody expects one.
    """
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return "is no address: its host or port cannot be read"
    if not address.isprintable() or " " in address:
        return "has characters that an address cannot have"
    if "@" in address:
        return (
            "has a user or a password in it: give them as tracking.username and tracking.password, "
            "or as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if parts.query or parts.fragment:
        return "must have neither ? nor #"
    if address == "databricks" or parts.scheme == "databricks":
        return ""
    if parts.scheme in ("http", "https") and parts.hostname and port != 0:
        return ""
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return ""
    return "must be http://HOST, https://HOST, file:///FOLDER or databricks"
