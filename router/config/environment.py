"""The variables of the environment that are evalrouter's own, and those that nothing reads."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from providers.base import Secret
from providers.errors import ConfigError, closest
from providers.plain_files import open_plain_file

# Of a server that a command calls.
API_KEY = "EVALROUTER_API_KEY"
ADMIN_KEY = "EVALROUTER_ADMIN_KEY"
ADMIN_KEY_FILE = "EVALROUTER_ADMIN_KEY_FILE"
CONFIG = "EVALROUTER_CONFIG"
DATA = "EVALROUTER_DATA"

# What a config file's text has in place of a variable; `$${` stands for `${`.
REFERENCE = re.compile(
    r"\$\$(?=\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}"
)

_PREFIX = "EVALROUTER_"
_READ = (API_KEY, ADMIN_KEY, ADMIN_KEY_FILE, CONFIG, DATA)
# What Kubernetes sets in every container for a service called `evalrouter` or `evalrouter-...`.
_SERVICE_LINK = re.compile(
    r"\w+_(SERVICE_(HOST|PORT(_\w+)?)=.*|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=.*|PORT=\w+://.*)"
)
# A key is compared by one round of SHA-256, so it has to be too long to be guessed.
_KEY = re.compile(r"[!-~]{32,256}")
_MAX_KEY_FILE_BYTES = 4096


def referenced_variables(text: str) -> list[str]:
    """Return the variables that a text of a config file reads, in their order."""
    return [match["name"] for match in REFERENCE.finditer(text) if match["name"] is not None]


def unread_variables(environ: Mapping[str, str], referenced: str = "") -> list[str]:
    """Return a warning for each variable that begins with EVALROUTER_ and that nothing reads.

    Args:
        environ: the environment.
        referenced: the text of the config file, whose `${NAME}` read variables too.
    """
    warnings = []
    read = {*_READ, *referenced_variables(referenced)}
    for name in sorted(environ):
        if not name.startswith(_PREFIX) or name in read:
            continue
        if not _SERVICE_LINK.fullmatch(f"{name}={environ[name]}"):
            warnings.append(f"nothing reads the variable {name}.{closest(name, _READ)}")
    return warnings


# Variables of Lumigator that mean something here in another form, and what to do in their place.
_LUMIGATOR: Mapping[str, str] = {
    "DEFAULT_SUMMARIZER_PROMPT": "write it as the system message of the run document's messages",
    "ENABLE_FIRST_TIME_CACHE": "models are loaded when they are first needed",
    "EVALUATOR_LITE_COMMAND": "evaluations need no job of their own",
    "EVALUATOR_LITE_PIP_REQS": "evaluations need no job of their own",
    "EVALUATOR_LITE_WORK_DIR": "evaluations need no job of their own",
    "EVALUATOR_PIP_REQS": "evaluations need no job of their own",
    "EVALUATOR_WORK_DIR": "evaluations need no job of their own",
    "INFERENCE_COMMAND": "inference is a route of the run, and needs no job of its own",
    "INFERENCE_PIP_REQS": "inference is a route of the run, and needs no job of its own",
    "INFERENCE_WORK_DIR": "inference is a route of the run, and needs no job of its own",
    "LUMIGATOR_API_CORS_ALLOWED_ORIGINS": "write server.allow_origins in the config",
    "LUMIGATOR_SECRET_KEY": "secrets are not stored: the config refers to them as ${NAME}",
    "LUMI_API_CORS_ALLOWED_ORIGINS": "write server.allow_origins in the config",
    "MISTRAL_API_URL": "write base_url at a provider of the kind mistral",
    "MODELS_CACHED": "models are loaded when they are first needed",
    "OAI_API_URL": "write base_url at a provider of the kind openai",
    "RAY_SERVE_INFERENCE_PORT": "use 'evalrouter models serve --port'",
    "RAY_WORKER_ENV_VARS": "use 'evalrouter eval submit --env NAME'",
    "S3_DATASETS_PREFIX": "write storage.artifacts: s3://bucket/prefix in the config",
    "S3_ENDPOINT_URL": "name it AWS_ENDPOINT_URL",
    "S3_EXPERIMENT_RESULTS_FILENAME": "'evalrouter eval export' writes results to files",
    "S3_EXPERIMENT_RESULTS_PREFIX": "write storage.artifacts: s3://bucket/prefix in the config",
    "S3_JOB_RESULTS_FILENAME": "'evalrouter eval export' writes results to files",
    "S3_JOB_RESULTS_PREFIX": "write storage.artifacts: s3://bucket/prefix in the config",
    "S3_URL_EXPIRATION": "files are downloaded through the server, with its keys",
    "SQLALCHEMY_DATABASE_URL": "write storage.database in the config, or set POSTGRES_HOST, ...",
}
# Other programs have variables with these names: they count beside one of the above.
_LUMIGATOR_AND_OTHERS: Mapping[str, str] = {
    "DEPLOYMENT_TYPE": "nothing depends on it",
    "GPU_COUNT": "set RAY_WORKER_GPUS, or write gpus: at a model of the config",
    "MAX_DATASET_SIZE": "write datasets.max_bytes in the config",
    "TRACKING_BACKEND": "runs are stored in the database; the config's tracking: can send them on",
}


def answered_variables(environ: Mapping[str, str], referenced: str = "") -> list[str]:
    """Return what to do in place of each variable that is Lumigator's and that nothing reads.

    Args:
        environ: the environment.
        referenced: the text of the config file, whose `${NAME}` read variables too.
    """
    read = referenced_variables(referenced)

    def unread(answers: Mapping[str, str]) -> list[str]:
        return [
            f"nothing reads Lumigator's variable {name}: {answer}"
            for name, answer in answers.items()
            if environ.get(name) and name not in read
        ]

    certain = unread(_LUMIGATOR)
    return certain + unread(_LUMIGATOR_AND_OTHERS) if certain else []


def read_admin_key(configured: Secret, environ: Mapping[str, str]) -> Secret:
    """Return the first administrator's key: of the config, else of the environment; "" for none.

    Raises:
        ConfigError: it is too short or has odd characters, or its file cannot be used.
    """
    if configured:
        return Secret(_checked(configured.reveal(), "server.admin_key"))
    key, path = environ.get(ADMIN_KEY), environ.get(ADMIN_KEY_FILE)
    if key and path:
        raise ConfigError(f"both {ADMIN_KEY} and {ADMIN_KEY_FILE} are set; set one of them")
    if path:
        return Secret(read_key_file(Path(path), ADMIN_KEY_FILE))
    return Secret(_checked(key, ADMIN_KEY) if key else "")


def _checked(key: str, source: str) -> str:
    if not _KEY.fullmatch(key):
        raise ConfigError(
            f"{source}: a key has 32 to 256 visible ASCII characters and no blanks; "
            "'openssl rand -hex 32' prints one"
        )
    return key


def read_key_file(path: Path, name: str) -> str:
    """Return the key in a file.

    Args:
        path: the file.
        name: what names the file, for messages.

    Raises:
        ConfigError: it is missing, is a folder, holds no key, or cannot be read, or by everybody.
    """
    where = f"{name}: {path}"
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ConfigError(
                f"{where} is a folder; Docker makes one where the file to mount is missing"
            )
        if mode & stat.S_IROTH:
            raise ConfigError(
                f"{where}: every user can read it (mode {stat.S_IMODE(mode):04o}); chmod 600 it, "
                "or 440 for a group (Kubernetes: defaultMode: 0440, Docker: mode: 0400)"
            )
        with open_plain_file(path) as file:
            data = file.read(_MAX_KEY_FILE_BYTES)
    except FileNotFoundError:
        raise ConfigError(f"{where}: no such file") from None
    except PermissionError:
        raise ConfigError(
            f"{where}: user {os.geteuid()} may not read it; give it to that user"
        ) from None
    except OSError as problem:
        raise ConfigError(f"{where}: {problem.strerror}") from None
    # What is not ASCII is refused as a key, whatever it decodes to.
    return _checked(data.decode("utf-8", "replace").rstrip("\r\n"), where)
