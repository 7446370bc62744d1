"""Hosted models as an application of Ray Serve: START READING HERE.

    serve run serve.deployment.app:build config=evalrouter.yaml
    evalrouter models serve evalrouter.yaml

One deployment per model, whose copies run an engine (`replica.py` with
`serve/engines/transformers.py` or `serve/engines/llamacpp.py`; `serve/engines/vllm.py`), behind one
ingress (`ingress.py`) that speaks OpenAI's API. Ray Serve places the copies, adds and removes them,
and restarts those that die.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve as ray_serve
from ray.serve import Application

from providers import yaml_documents
from providers.errors import ConfigError, MissingExtraError
from providers.wire import UNREADABLE
from serve.config import ModelConfig, Shareable, SharedCopies, VllmModel, read
from serve.deployment.ingress import DeployedModel, Ingress
from serve.deployment.replica import Replica
from serve.deployment.sharing import SharedReplica

NAME = "evalrouter"


def build(config: Mapping[str, Any]) -> Application:
    """Return the application of a config.

    Args:
        config: `{"models": {...}}`, as the `args` of a Serve config file have it, or
            `{"config": "evalrouter.yaml"}` to read the section of that file.

    Raises:
        ConfigError: the config cannot be used; the message says what is wrong.
    """
    unknown = set(config) - {"models", "config"}
    if unknown or len(config) != 1:
        raise ConfigError("takes either models: {...} or config: FILE")
    entries = config.get("models")
    if entries is None:
        entries = _section(Path(config["config"]))
    return application(read(entries, os.environ))


def _section(path: Path) -> Any:
    try:
        data = yaml_documents.decode_file(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UNREADABLE as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    entries = data.get("models") if isinstance(data, dict) else None
    if "${" in str(entries):
        raise ConfigError(
            f"{path}: models: ${{NAME}} is read by 'evalrouter models serve' only; write it out"
        )
    return entries


def application(models: Mapping[str, ModelConfig]) -> Application:
    """Return the application of models whose GPUs are settled (see `config.with_gpus`)."""
    deployments = _names(models)
    hosted = {
        name: DeployedModel(
            deployments[name],
            model.engine,
            model.source,
            model.cold_start,
            adapters=tuple(model.adapters),
            shared=_share(model) is not None,
        )
        for name, model in models.items()
    }
    bound = {
        deployment: _deployment(
            deployment, {name: models[name] for name in models if deployments[name] == deployment}
        )
        for deployment in dict.fromkeys(deployments.values())
    }
    handles = {name: bound[deployment] for name, deployment in deployments.items()}
    ingress = ray_serve.deployment(
        Ingress,
        name="ingress",
        # It waits for the models nearly all of its time.
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=10_000,
    )
    ingress_app: Application = ingress.bind(handles, hosted)
    return ingress_app


def _share(model: ModelConfig) -> SharedCopies | None:
    return model.share if isinstance(model, Shareable) else None


def _names(models: Mapping[str, ModelConfig]) -> dict[str, str]:
    """Return a deployment's name for each model, without the characters that Ray refuses."""
    names: dict[str, str] = {}
    for name, model in models.items():
        if share := _share(model):
            names[name] = f"shared_{share.name}"
            continue
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
        taken = {*names.values(), "ingress"}
        # Only those of shared copies begin so.
        free = plain not in taken and not plain.startswith("shared_")
        names[name] = plain if free else f"model_{len(names)}_{plain}"
    return names


def _deployment(deployment: str, models: Mapping[str, ModelConfig]) -> Application:
    """Return the deployment of one model, or of those that share its copies."""
    name, model = next(iter(models.items()))
    options = _options(deployment, model)
    if isinstance(model, VllmModel):
        try:
            from serve.engines import vllm  # noqa: PLC0415  # an extra, and slow to import
        except ImportError as error:
            raise MissingExtraError(f"{name} (engine vllm)", "vllm") from error
        return vllm.deployment(name, model, options)
    options["ray_actor_options"] = {"num_cpus": model.cpus, "num_gpus": model.gpus or 0}
    bound: Application
    if share := _share(model):
        bound = ray_serve.deployment(SharedReplica, **options).bind(models, share.keep)
    else:
        bound = ray_serve.deployment(Replica, **options).bind(name, model)
    return bound


def _options(deployment: str, model: ModelConfig) -> dict[str, Any]:
    """Return Ray Serve's options for a deployment, which do not depend on its engine."""
    replicas = model.replicas
    options: dict[str, Any] = {
        "name": deployment,
        "max_ongoing_requests": model.concurrency,
        "max_queued_requests": model.queue or 1,
        # A model that cannot be loaded will not be loaded the third time either.
        "max_constructor_retry_count": 2,
        # For streams that still go on when a copy is to end.
        "graceful_shutdown_timeout_s": 30,
    }
    if replicas.min == replicas.max_copies:
        options["num_replicas"] = replicas.min
    else:
        options["autoscaling_config"] = {
            "min_replicas": replicas.min,
            "max_replicas": replicas.max_copies,
            "target_ongoing_requests": replicas.target,
            "upscale_delay_s": replicas.up_delay,
            "downscale_delay_s": replicas.idle,
        }
    return options
