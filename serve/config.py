"""The `models:` section as frozen Structs: which models to host, on what, and how many of each.

    models:
      bart-cnn: {engine: transformers, task: summarization, source: facebook/bart-large-cnn}

The router's config reads the section with these types; nothing here imports Ray or an engine.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from providers.errors import ConfigError, MissingExtraError, closest

Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=10**9)]

ModelTask = Literal["", "chat", "summarization", "translation", "text2text", "embedding"]
Device = Annotated[str, msgspec.Meta(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]


class ModelsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything in the section."""


class Replicas(ModelsSection, frozen=True, kw_only=True):
    """How many copies of a model run. Ray Serve adds and removes them by the requests in flight.

    Attributes:
        min: copies that run without any requests; with 0 the first request waits for a cold start.
        max: copies at most; None for as many as `min`, and at least one.
        target: requests in flight per copy that are aimed at.
        up_delay: seconds of more load before a copy is added.
        idle: seconds of less load before a copy is removed.
    """

    min: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 1
    max: _Count | None = None
    target: Positive = 4.0
    up_delay: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 5.0
    idle: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 300.0

    @property
    def max_copies(self) -> int:
        """Return the largest number of copies that run."""
        return self.max or max(self.min, 1)


class SharedCopies(ModelsSection, frozen=True, kw_only=True):
    """Copies that several models share: a copy loads a model when the first request names it.

    Attributes:
        name: a name for the copies; models that give the same name share them.
        keep: models that a copy keeps loaded; the one used longest ago leaves first, and never
            while it answers.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    keep: _Count = 2


class ModelConfig(ModelsSection, frozen=True, kw_only=True):
    """What every hosted model has.

    Attributes:
        engine: `transformers`, `llamacpp`, `llama-cpp-python` or `vllm`.
        source: a name on the Hugging Face hub, a local path, or `s3://bucket/prefix`.
        revision: branch, tag or commit on the hub; "" for the default branch, resolved when the
            model is loaded. The commit is part of every answer's `system_fingerprint`.
        cpus: cores reserved per copy.
        gpus: GPUs per copy; a fraction shares one. None means `RAY_WORKER_GPUS_FRACTION` of the
            environment, else `RAY_WORKER_GPUS`, else none.
        replicas: see Replicas.
        concurrency: requests that one copy works on at a time.
        queue: requests that may wait for a copy; more are answered with 429.
        cold_start: seconds a request waits for the first copy before it is answered that the model
            is still starting (503, code `model_starting`); in shared copies also for its loading.
        adapters: LoRA adapters by name, with the same kinds of source as models. Requests name
            them as `MODEL:ADAPTER`; they share the model's weights.
    """

    engine: str
    source: Annotated[str, msgspec.Meta(min_length=1)]
    revision: str = ""
    cpus: Share = 1.0
    gpus: Share | None = None
    replicas: Replicas = Replicas()
    concurrency: _Count = 16
    queue: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 200
    cold_start: Positive = 100.0
    adapters: dict[str, Annotated[str, msgspec.Meta(min_length=1)]] = {}


class Shareable(ModelConfig, frozen=True, kw_only=True):
    """A model that need not have copies of its own.

    Attributes:
        share: see SharedCopies; None for copies of its own.
    """

    share: SharedCopies | None = None


class TransformersOptions(ModelsSection, frozen=True, kw_only=True):
    """How the transformers engine runs a model.

    Attributes:
        device: `auto` takes a GPU if the copy has one.
        dtype: `auto` is the model's own on a GPU and float32 on a CPU.
        threads: of torch on a CPU; None for `cpus`, rounded up.
        max_model_len: tokens of prompt and answer together, or of the encoder's input; None for
            the model's own limit.
        max_batch_size: requests generated together at most; streams are generated on their own.
        batch_wait: seconds a request waits for others to be generated with.
        truncate: whether an encoder's input that is too long is cut at its end, and the answer's
            usage says by how much; else it is refused.
        prefix: text before an encoder's input; None for the one in the model's config for its task.
        chat_template: a Jinja template, or the path of one; "" for the tokenizer's own.
        generation: settings of transformers' GenerationConfig for seq2seq models, such as
            `num_beams` and `min_length`; they override the model's own.
        trust_remote_code: whether code that comes with the model may run.
    """

    device: Device = "auto"
    dtype: Dtype = "auto"
    threads: _Count | None = None
    max_model_len: _Count | None = None
    max_batch_size: _Count = 8
    batch_wait: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.005
    truncate: bool = True
    prefix: str | None = None
    chat_template: str = ""
    generation: dict[str, Any] = {}
    trust_remote_code: bool = False


class TransformersModel(Shareable, frozen=True, kw_only=True):
    """A model that Hugging Face's transformers runs: causal, seq2seq, or an embedding model.

    Attributes:
        task: `chat` (causal), `summarization`, `translation`, `text2text` (seq2seq), `embedding`;
            "" for the one that the model's config implies.
        options: see TransformersOptions.
    """

    task: ModelTask = ""
    options: TransformersOptions = TransformersOptions()


class LlamacppOptions(ModelsSection, frozen=True, kw_only=True):
    """How llama.cpp runs a GGUF file.

    Attributes:
        context: tokens of prompt and answer together per request; 0 for the model's own limit.
        parallel: requests decoded together; each has `context` tokens.
        gpu_layers: layers on the GPU; -1 for all.
        threads: on a CPU; None for `cpus`, rounded up.
        embedding: whether the model gives embeddings, and nothing else.
        chat_template: a Jinja template; "" for the model's own.
    """

    context: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0
    parallel: _Count = 4
    gpu_layers: Annotated[int, msgspec.Meta(ge=-1, le=10**9)] = -1
    threads: _Count | None = None
    embedding: bool = False
    chat_template: str = ""


class LlamacppModel(Shareable, frozen=True, kw_only=True):
    """A GGUF file. On the hub it is named `org/repo/file.gguf`.

    Attributes:
        options: see LlamacppOptions.
    """

    options: LlamacppOptions = LlamacppOptions()


class LlamaCppPythonOptions(ModelsSection, frozen=True, kw_only=True):
    """How llama-cpp-python's server runs a GGUF file; it answers one request at a time.

    Attributes:
        context: tokens of prompt and answer together; 0 for the model's own limit.
        gpu_layers: layers on the GPU; -1 for all.
        threads: on a CPU; None for `cpus`, rounded up.
        embedding: whether the model gives embeddings too.
        chat_format: one of llama-cpp-python's formats, such as `chatml`; "" for the model's own.
        start_timeout: seconds until the file must be loaded.
    """

    context: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0
    gpu_layers: Annotated[int, msgspec.Meta(ge=-1, le=10**9)] = -1
    threads: _Count | None = None
    embedding: bool = False
    chat_format: str = ""
    start_timeout: Positive = 300.0


class LlamaCppPythonModel(ModelConfig, frozen=True, kw_only=True):
    """A GGUF file, for an installed llama-cpp-python with its server. It takes no adapters.

    Attributes:
        options: see LlamaCppPythonOptions.
    """

    options: LlamaCppPythonOptions = LlamaCppPythonOptions()


class VllmModel(ModelConfig, frozen=True, kw_only=True):
    """A model that vLLM runs, through Ray's own `ray.serve.llm`.

    Attributes:
        options: vLLM's engine arguments by their own names, such as `max_model_len`,
            `tensor_parallel_size`, `tool_call_parser` and `reasoning_parser`; checked against the
            vLLM that is installed.
        accelerator: the GPU's name as Ray knows it, such as `H100`; "" for any.
    """

    options: dict[str, Any] = {}
    accelerator: str = ""


# The values of `engine:`, and how an entry with each is read.
ENGINES: Mapping[str, type[ModelConfig]] = {
    "transformers": TransformersModel,
    "llamacpp": LlamacppModel,
    "llama-cpp-python": LlamaCppPythonModel,
    "vllm": VllmModel,
}


def type_of(name: str, entry: Any) -> type[ModelConfig]:
    """Return the type with which to read an entry of the section.

    Raises:
        ConfigError: it names no engine, or one that does not exist; the message does not say where
            the entry stands.
    """
    engine = entry.get("engine") if isinstance(entry, dict) else None
    if not name or "#" in name:
        raise ConfigError(f"{name!r} is no name for a model")
    if engine is None:
        raise ConfigError(f"needs an engine: {', '.join(sorted(ENGINES))}")
    if not isinstance(engine, str) or engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}.{closest(str(engine), ENGINES)}")
    return ENGINES[engine]


def with_gpus(model: ModelConfig, environ: Mapping[str, str]) -> ModelConfig:
    """Return the model with its GPUs from the environment, where its entry has none.

    `RAY_WORKER_GPUS_FRACTION` counts unless it is 0, else `RAY_WORKER_GPUS`.

    Raises:
        ConfigError: one of them is no number.
    """
    if model.gpus is not None:
        return model
    gpus = 0.0
    for name in ("RAY_WORKER_GPUS", "RAY_WORKER_GPUS_FRACTION"):
        value = environ.get(name) or "0"
        try:
            gpus = msgspec.convert(value, Share, strict=False) or gpus
        except msgspec.ValidationError:
            raise ConfigError(f"{name} is no number of GPUs: {value!r}") from None
    return msgspec.structs.replace(model, gpus=gpus)


# The extra that brings an engine; "" for a package that is compiled on the spot.
ENGINE_EXTRAS: Mapping[str, str] = {
    "transformers": "local",
    "llamacpp": "llamacpp",
    "llama-cpp-python": "",
    "vllm": "vllm",
}
# A module of each engine.
_ENGINE_MODULES: Mapping[str, str] = {
    "transformers": "transformers",
    "llamacpp": "xllamacpp",
    "llama-cpp-python": "llama_cpp",
    "vllm": "vllm",
}


def missing_engine(name: str, model: ModelConfig) -> ConfigError | MissingExtraError | None:
    """Return the error for a model whose engine is not installed here; None where it is."""
    if importlib.util.find_spec(_ENGINE_MODULES[model.engine]) is not None:
        return None
    return not_installed(name, model)


def not_installed(name: str, model: ModelConfig) -> ConfigError | MissingExtraError:
    """Return the error for a model whose engine is not installed."""
    what = f"{name} (engine: {model.engine})"
    if extra := ENGINE_EXTRAS[model.engine]:
        return MissingExtraError(what, extra)
    return ConfigError(f"{what} needs llama-cpp-python: pip install 'llama-cpp-python[server]'")


class Reserved(NamedTuple):
    """What models take of a machine as soon as they run, with as few copies as may be."""

    cpus: float
    gpus: float


def reserved(models: Mapping[str, ModelConfig]) -> Reserved:
    """Return what these models reserve at the start; those that share copies reserve once.

    A model that starts with no copy counts as far as it alone needs more than all others.
    """
    copies: dict[str, tuple[int, ModelConfig]] = {}
    for name, model in models.items():
        shared = model.share.name if isinstance(model, Shareable) and model.share else None
        # A model's name has no such character.
        place = name if shared is None else f"#{shared}"
        copies[place] = (model.replicas.min, model)
    at_start = [(count, model.cpus, model.gpus or 0.0) for count, model in copies.values()]
    cpus = sum(count * cpus for count, cpus, _ in at_start)
    gpus = sum(count * gpus for count, _, gpus in at_start)
    return Reserved(
        max([cpus, *(cpus for _, cpus, _ in at_start)]),
        max([gpus, *(gpus for _, _, gpus in at_start)]),
    )


_ADAPTER_NAME = re.compile(r"[^:#/\s]+")
# What belongs to a copy, and so is the same for all models that share it.
_OF_THE_COPY = ("share", "cpus", "gpus", "replicas", "concurrency", "queue")


def contradictions(models: Mapping[str, ModelConfig]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield every mistake that types cannot express, as its place and a message.

    Two models may answer to one name, or have different settings for the copies that they share.
    """
    owners: dict[str, str] = {}
    first: dict[str, str] = {}
    for name, model in models.items():
        if model.adapters and isinstance(model, LlamaCppPythonModel):
            yield ("models", name, "adapters"), "its engine takes none; the engine llamacpp does"
        for adapter in model.adapters:
            if not _ADAPTER_NAME.fullmatch(adapter):
                message = f"{adapter!r} cannot name an adapter: clients use it as MODEL:ADAPTER"
                yield ("models", name, "adapters", adapter), message
        for known in (name, *(f"{name}:{adapter}" for adapter in model.adapters)):
            owner = owners.setdefault(known, name)
            if owner != name:
                yield ("models", name), f"{known!r} is a name of {owner} too"
        if name.rpartition(":")[2] in model.adapters:
            yield ("models", name, "adapters"), "one of them is how the model's own name ends"
        if not isinstance(model, Shareable) or model.share is None:
            continue
        other = first.setdefault(model.share.name, name)
        for key in _OF_THE_COPY:
            before = getattr(models[other], key)
            if getattr(model, key) != before:
                other_value = msgspec.json.encode(before).decode()
                yield (
                    ("models", name, key),
                    f"shares the copies {model.share.name!r} with {other}, which has {other_value} "
                    "here; what belongs to a copy must be the same for all models in it",
                )


def read(entries: Any, environ: Mapping[str, str]) -> dict[str, ModelConfig]:
    """Read a section on its own, as Ray Serve's own config passes it on.

    Raises:
        ConfigError: the section is wrong; the message names the path.
    """
    if not isinstance(entries, dict) or not entries:
        raise ConfigError("models: must map names to settings", param="models")
    models: dict[str, ModelConfig] = {}
    for name, entry in entries.items():
        try:
            model = msgspec.convert(entry, type_of(name, entry))
            models[name] = with_gpus(model, environ)
        except (ConfigError, msgspec.ValidationError) as error:
            raise ConfigError(f"models.{name}: {error}", param=f"models.{name}") from None
    wrong = [(".".join(place), message) for place, message in contradictions(models)]
    if wrong:
        lines = [f"{path}: {message}" for path, message in wrong]
        raise ConfigError("\n".join(lines), param=wrong[0][0])
    return models


def adapter_of(model: str, adapters: Collection[str]) -> str:
    """Return the adapter that `MODEL:ADAPTER` names; "" for the model itself."""
    adapter = model.rpartition(":")[2]
    return adapter if adapter in adapters and adapter != model else ""


def is_local(source: str) -> bool:
    """Return whether a source is a path: it looks like one, or exists."""
    return source.startswith(("/", ".", "~")) or Path(source).exists()
