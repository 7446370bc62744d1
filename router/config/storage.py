"""`storage:` of the config: where things are stored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from providers.base import NotNegative, Secret
from router.config.documents import Document, Problem
from router.config.section import Section

_S3_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._=@-]+)*/?")


class S3(Section, frozen=True, kw_only=True):
    """How S3, or a host that speaks its protocol, is reached. Needs the extra `s3`.

    What neither the file nor the variables below give, boto3 looks for in its usual places.

    Attributes:
        endpoint_url: another host than Amazon's; else `AWS_ENDPOINT_URL`.
        region: else `AWS_DEFAULT_REGION`.
        access_key_id, secret_access_key: else `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
    """

    endpoint_url: str = ""
    region: str = ""
    access_key_id: Secret = Secret("")
    secret_access_key: Secret = Secret("")


class Storage(Section, frozen=True, kw_only=True):
    """Where things are stored.

    Attributes:
        database: `sqlite:///path`, relative to the working directory.
        artifacts: where datasets and exported runs are stored: a folder, relative to the working
            directory, or `s3://bucket/prefix`. Where it is not set and `S3_BUCKET` is, that bucket.
        s3: see S3.
        traffic_days: how many days requests stay on record; 0 for ever.
        required: whether `/health/ready` fails (503) while the database does not work. With
            `false` it succeeds (200, `degraded`), so that load balancers go on sending requests for
            models, which are answered either way.
    """

    database: str = "sqlite:///evalrouter.db"
    artifacts: str = "./artifacts"
    s3: S3 = S3()
    traffic_days: NotNegative = 30.0
    required: bool = True

    def sqlite_path(self) -> Path:
        """Return the path of the database file."""
        return Path(self.database.removeprefix("sqlite:///"))


def with_environment(
    storage: Storage, section: Mapping[str, Any], environ: Mapping[str, str]
) -> Storage:
    """Return the storage with what its section leaves to the variables of S3's own tools."""
    if "artifacts" not in section and environ.get("S3_BUCKET"):
        storage = msgspec.structs.replace(storage, artifacts=f"s3://{environ['S3_BUCKET']}")
    s3 = S3(
        endpoint_url=storage.s3.endpoint_url or environ.get("AWS_ENDPOINT_URL", ""),
        region=storage.s3.region or environ.get("AWS_DEFAULT_REGION", ""),
        access_key_id=storage.s3.access_key_id or Secret(environ.get("AWS_ACCESS_KEY_ID", "")),
        secret_access_key=storage.s3.secret_access_key
        or Secret(environ.get("AWS_SECRET_ACCESS_KEY", "")),
    )
    return msgspec.structs.replace(storage, s3=s3)


def storage_problems(document: Document, storage: Storage) -> Iterator[Problem]:
    """Yield the addresses that nothing can be stored at."""
    if "://" in storage.artifacts and not _S3_URL.fullmatch(storage.artifacts):
        yield document.problem(("storage", "artifacts"), "must be a folder or s3://bucket/prefix")
    if not storage.database.startswith("sqlite:///"):
        yield document.problem(("storage", "database"), "must begin with sqlite:///")
