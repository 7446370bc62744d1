"""Loads a model of Hugging Face's transformers, and reads from its files how it is to be run."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import transformers as hf

from providers.base import ModelFacts
from providers.errors import ConfigError
from serve.config import TransformersModel, TransformersOptions, adapter_of
from serve.engines.model_files import fetch, fingerprint

if TYPE_CHECKING:
    from serve.engines.lora import Adapters

ModelKind = Literal["causal", "seq2seq", "embedding"]

# A tokenizer that knows no limit reports a number of 30 digits.
_NO_LIMIT = 10**9
_SEQ2SEQ_LIMITS = ("max_encoder_position_embeddings", "max_position_embeddings", "n_positions")
_CAUSAL_LIMITS = ("max_position_embeddings", "n_positions", "max_sequence_length")

_CLASSES: dict[ModelKind, Any] = {
    "causal": hf.AutoModelForCausalLM,
    "seq2seq": hf.AutoModelForSeq2SeqLM,
    "embedding": hf.AutoModel,
}


class Pretrained(NamedTuple):
    """A loaded model and what its config says about running it.

    Attributes:
        name: the model as its users call it.
        kind: the kind of model, which decides how it reads and writes.
        model: transformers' model, on its device.
        tokenizer: transformers' tokenizer.
        device: the device that the model runs on.
        limit: tokens of prompt and answer together, or of an encoder's input.
        prefix: text before an encoder's input.
        settings: how text is generated before a request changes it; None for embeddings.
        fingerprint: commit or files, number format and version, for `system_fingerprint`.
        adapters: the model's LoRA adapters, if its entry names any.
    """

    name: str
    kind: ModelKind
    model: Any
    tokenizer: Any
    device: torch.device
    limit: int
    prefix: str
    settings: Any
    fingerprint: str
    adapters: Adapters | None

    def adapter_of(self, model: str) -> str:
        """Return the adapter that a request's `model` names; "" for the model itself."""
        return adapter_of(model, self.adapters.fingerprints) if self.adapters else ""

    def fingerprint_with(self, adapter: str) -> str:
        """Return what identifies the model together with an adapter, or with none ("")."""
        if self.adapters and adapter:
            return f"{self.fingerprint}-lora-{self.adapters.fingerprints[adapter]}"
        return self.fingerprint

    def using(self, adapters: Sequence[str]) -> contextlib.AbstractContextManager[None]:
        """Return a context in which this thread's rows have these adapters; "" for none."""
        return self.adapters.using(adapters) if self.adapters else contextlib.nullcontext()


def load_pretrained(name: str, model: TransformersModel) -> Pretrained:
    """Load a model; takes seconds to minutes.

    Raises:
        ConfigError: the files are no such model, or an option does not fit it.
    """
    options = model.options
    source = fetch(model.source)
    # A copy of a model has no terminal that shows progress.
    hf.logging.disable_progress_bar()
    device, dtype = _device(options.device, options.dtype)
    if device.type == "cpu":
        torch.set_num_threads(options.threads or max(1, math.ceil(model.cpus)))
    known = {"revision": model.revision or None, "trust_remote_code": options.trust_remote_code}
    try:
        config = hf.AutoConfig.from_pretrained(source, **known)
        tokenizer: Any = hf.AutoTokenizer.from_pretrained(source, **known)
        kind = _kind(model.task, config)
        # Weights of the same commit as the config.
        commit = getattr(config, "_commit_hash", None)
        known["revision"] = commit or known["revision"]
        loaded = _CLASSES[kind].from_pretrained(source, dtype=dtype, **known)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:500]
        raise ConfigError(f"{name}: {source} cannot be loaded: {reason}") from error
    # Drops a limit of the tokenizer's own file, once: later it would be a race of threads.
    tokenizer("x")
    task = _task_settings(model.task, config)
    prefix = task.pop("prefix", "")
    loaded = loaded.to(device).eval()
    pretrained = Pretrained(
        name=name,
        kind=kind,
        model=loaded,
        tokenizer=tokenizer,
        device=device,
        limit=options.max_model_len or _limit(kind, config, tokenizer),
        prefix=prefix if options.prefix is None else options.prefix,
        settings=_generation_settings(name, kind, loaded, task, options),
        fingerprint=_fingerprint(commit, source, loaded.dtype),
        adapters=_load_adapters(loaded, model.adapters, name),
    )
    if pretrained.settings is not None and pretrained.settings.pad_token_id is None:
        ends = end_tokens(pretrained.settings)
        pretrained.settings.pad_token_id = tokenizer.pad_token_id or (ends[0] if ends else 0)
    if loaded.can_generate():
        # Each request has its own bound, and transformers warns when it is given two.
        loaded.generation_config.max_length = None
    return pretrained


def weights_of(model: Any) -> ModelFacts:
    """Return the number of a model's weights and their bits; no numbers for a quantised one."""
    if getattr(model, "hf_quantizer", None) is not None:
        # Its packed tensors do not say how many weights they hold.
        return ModelFacts()
    sizes = [(tensor.numel(), tensor.element_size()) for tensor in model.parameters()]
    parameters = sum(count for count, _ in sizes)
    size = sum(count * each for count, each in sizes)
    return ModelFacts(parameters=parameters, bits_per_weight=8 * size / parameters)


def end_tokens(settings: Any) -> list[int]:
    """Return the tokens that end a text."""
    ends = settings.eos_token_id
    return list(ends) if isinstance(ends, list) else [] if ends is None else [ends]


def _generation_settings(
    name: str, kind: ModelKind, loaded: Any, task: dict[str, Any], options: TransformersOptions
) -> Any:
    """Return how text is generated before a request changes it; None for embeddings."""
    if kind == "embedding":
        return None
    settings = copy.deepcopy(loaded.generation_config)
    if kind == "seq2seq":
        for key, value in {**task, **options.generation}.items():
            if not hasattr(settings, key):
                raise ConfigError(f"{name}: generation has no setting {key!r}")
            setattr(settings, key, value)
    else:
        # The model's own sampling defaults would make two hosts of one model differ.
        if options.generation:
            raise ConfigError(
                f"{name}: options.generation is for seq2seq models; send the parameters with the "
                "request"
            )
        settings = hf.GenerationConfig(
            bos_token_id=settings.bos_token_id,
            eos_token_id=settings.eos_token_id,
            pad_token_id=settings.pad_token_id,
        )
    settings.do_sample = False
    return settings


def _kind(task: str, config: Any) -> ModelKind:
    """Return which of the three kinds a model is.

    Raises:
        ValueError: the task needs another kind than the files are.
    """
    seq2seq = bool(config.is_encoder_decoder)
    if task == "embedding":
        return "embedding"
    if not task:
        architectures = " ".join(config.architectures or ())
        if not seq2seq and "CausalLM" not in architectures and "LMHead" not in architectures:
            return "embedding"
        return "seq2seq" if seq2seq else "causal"
    if (task == "chat") == seq2seq:
        needed = "a causal" if task == "chat" else "a seq2seq"
        raise ValueError(f"task {task!r} needs {needed} model, this is {config.model_type}")
    return "seq2seq" if seq2seq else "causal"


def _device(name: str, dtype: str) -> tuple[torch.device, Any]:
    """Return the device and the number format that two options name."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if dtype == "auto":
        return device, torch.float32 if device.type == "cpu" else "auto"
    return device, getattr(torch, dtype)


def _limit(kind: ModelKind, config: Any, tokenizer: Any) -> int:
    """Return how many tokens a model has room for."""
    names = _CAUSAL_LIMITS if kind == "causal" else _SEQ2SEQ_LIMITS
    values = [getattr(config, name, None) for name in names]
    limits = [value for value in values if isinstance(value, int) and value > 0][:1]
    if tokenizer.model_max_length < _NO_LIMIT:
        limits.append(tokenizer.model_max_length)
    return min(limits, default=2048 if kind == "causal" else 512)


def _task_settings(task: str, config: Any) -> dict[str, Any]:
    """Return what a model's config sets for a task, such as T5's prefix and BART's beams."""
    tasks = getattr(config, "task_specific_params", None) or {}
    return dict(tasks.get(task) or {})


def _load_adapters(model: Any, sources: Mapping[str, str], owner: str) -> Adapters | None:
    if not sources:
        return None
    from serve.engines.lora import Adapters  # noqa: PLC0415  # peft takes a second to import

    return Adapters(model, sources, owner)


def _fingerprint(commit: str | None, source: str, dtype: torch.dtype) -> str:
    path = Path(source)
    known = commit[:12] if commit else fingerprint(path) if path.exists() else "unknown"
    return f"{known}-{str(dtype).removeprefix('torch.')}-transformers-{hf.__version__}"
