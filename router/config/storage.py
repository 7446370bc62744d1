"""`storage:` of the config: where things are stored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from providers.base import NotNegative, Secret
from providers.errors import InputError
from router.config.documents import Document, Problem
from router.config.environment import DATA
from router.config.section import Section

_SQLITE = "sqlite:///"
_POSTGRES = re.compile(r"postgres(ql)?://")
# As PostgreSQL's own client splits it.
_USER_AND_PASSWORD = re.compile(r"(postgres(?:ql)?://)([^@/?:]*):([^@/?]*)@")
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
        folder: the folder of the database and the artifacts where nothing else names a place for
            them; else `EVALROUTER_DATA`, else the working directory. `evalrouter serve` writes the
            first administrator's key into it, as `admin-key`, where others than this machine's
            users can reach the server, no key exists and `server.admin_key` is not set.
        database: `sqlite:///path`, relative to the working directory, or
            `postgresql://USER:PASSWORD@HOST:PORT/NAME`, which needs the extra `postgres`; behind a
            `?` it takes what PostgreSQL's own programs take (`sslmode=verify-full`, ...). Where it
            is not set and `POSTGRES_HOST` is: that server, with `POSTGRES_PORT`, `POSTGRES_USER`,
            `POSTGRES_PASSWORD` and `POSTGRES_DB`.
        password: PostgreSQL's, where `database` has none; else `POSTGRES_PASSWORD`.
        artifacts: where datasets and exported runs are stored: a folder, relative to the working
            directory, or `s3://bucket/prefix`. Where it is not set and `S3_BUCKET` is, that bucket.
        s3: see S3.
        traffic_days: how many days requests stay on record; 0 for ever. A route may have its own.
        responses_days: how many days clients can continue a response (`previous_response_id`) whose
            host keeps none; what was said is stored for as long. 0 stores none.
        seal_after_days: how many days requests stay in the database; then they go, a day (UTC) at a
            time, into compressed files in `artifacts`, and are shown and deleted as before. 0 for
            never. Needs the extra `parquet`.
        required: whether `/health/ready` fails (503) while the database does not work. With
            `false` it succeeds (200, `degraded`), so that load balancers go on sending requests for
            models, which are answered either way.
    """

    folder: str = ""
    # Without a password once it is read, because it is shown.
    database: str = "sqlite:///evalrouter.db"
    password: Secret = Secret("")
    artifacts: str = "./artifacts"
    s3: S3 = S3()
    traffic_days: NotNegative = 30.0
    responses_days: NotNegative = 30.0
    seal_after_days: NotNegative = 0.0
    required: bool = True

    @property
    def is_postgres(self) -> bool:
        """Whether the database is PostgreSQL."""
        return _POSTGRES.match(self.database) is not None

    def sqlite_path(self) -> Path:
        """Return the path of the database file."""
        return Path(self.database.removeprefix(_SQLITE))


def with_environment(
    storage: Storage, section: Mapping[str, Any], environ: Mapping[str, str]
) -> Storage:
    """Return the storage with what its section leaves to the usual variables of PostgreSQL and S3.

    The password is taken out of the database's address.
    """
    storage = msgspec.structs.replace(storage, folder=storage.folder or environ.get(DATA, ""))
    if storage.folder:
        storage = _in_folder(storage, section)
    if "database" not in section and environ.get("POSTGRES_HOST"):
        storage = msgspec.structs.replace(storage, database=_postgres_address(environ))
    address, password = _without_password(storage.database)
    if Storage(database=address).is_postgres:
        password = password or storage.password.reveal() or environ.get("POSTGRES_PASSWORD", "")
    storage = msgspec.structs.replace(storage, database=address, password=Secret(password))
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


def _in_folder(storage: Storage, section: Mapping[str, Any]) -> Storage:
    """Return the storage with what its section gives no place to in its folder."""
    places = {
        "database": f"{_SQLITE}{storage.folder}/evalrouter.db",
        "artifacts": f"{storage.folder}/artifacts",
    }
    return msgspec.structs.replace(
        storage, **{name: place for name, place in places.items() if name not in section}
    )


def storage_at(address: str, configured: Storage, environ: Mapping[str, str]) -> Storage:
    """Return the storage with the database at an address.

    The password of an address without one is that of the config, where it names the same database,
    else `POSTGRES_PASSWORD`.

    Raises:
        InputError: nothing can be stored there.
    """
    storage = Storage(database=address)
    if _without_options(storage.database) == _without_options(configured.database):
        storage = msgspec.structs.replace(storage, password=configured.password)
    storage = with_environment(storage, {"database": address}, environ)
    if fault := _database_fault(storage):
        # Not the address itself, which may have a password where none was found.
        raise InputError(f"the address of a database {fault}")
    return storage


def storage_problems(document: Document, storage: Storage) -> Iterator[Problem]:
    """Yield the addresses that nothing can be stored at."""
    if "://" in storage.artifacts and not _S3_URL.fullmatch(storage.artifacts):
        yield document.problem(("storage", "artifacts"), "must be a folder or s3://bucket/prefix")
    if fault := _database_fault(storage):
        yield document.problem(("storage", "database"), fault)


def _database_fault(storage: Storage) -> str:
    """Return what is wrong with the address of the database; "" where nothing is seen."""
    if storage.is_postgres:
        return _fault(storage.database)
    if not storage.database.startswith(_SQLITE):
        return "must begin with sqlite:/// or postgresql://"
    return ""


def _without_options(address: str) -> str:
    return _without_password(address)[0].partition("?")[0]


def _postgres_address(environ: Mapping[str, str]) -> str:
    user = environ.get("POSTGRES_USER") or "postgres"
    host, name = environ["POSTGRES_HOST"], environ.get("POSTGRES_DB") or user
    place = f"[{host}]" if ":" in host else quote(host, safe="")
    port = quote(environ.get("POSTGRES_PORT") or "5432", safe="")
    return f"postgresql://{quote(user, safe='')}@{place}:{port}/{quote(name, safe='')}"


def _without_password(address: str) -> tuple[str, str]:
    """Return a database's address without the password in it, and the password; "" for none."""
    if not _POSTGRES.match(address):
        return address, ""
    password = ""
    if match := _USER_AND_PASSWORD.match(address):
        password = unquote(match[3])
        address = f"{match[1]}{match[2]}@{address[match.end() :]}"
    place, mark, options = address.partition("?")
    rest = []
    for option in options.split("&"):
        name, _, value = option.partition("=")
        if name == "password":
            password = unquote(value)
        else:
            rest.append(option)
    return place + mark + "&".join(rest), password


def _fault(address: str) -> str:
    """Return what is wrong with the address of a PostgreSQL database; "" where nothing is seen."""
    place, _, options = address.partition("?")
    if place.count("@") > 1 or "@" in place.partition("://")[2].partition("/")[2]:
        return "has an @ or a / in its user or password: write them as %40 and %2F"
    if "sslpassword=" in options:
        return "must not have sslpassword: keep the key of the certificate without one"
    return ""
