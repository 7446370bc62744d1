"""LoRA adapters on a transformers model (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    adapters = Adapters(model, {"pirate": "./pirate"})    # changes the model in place
    with adapters.using(["pirate", ""]):                  # the first row's, and none for the second
        model.generate(...)

The weights of the model are there once, and rows of one batch may have different adapters. peft can
mix them, but by hooks that it sets for the time of a call, which two threads would take from one
another; here the hooks stay, and each thread sets what its rows use.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
from peft.tuners.lora import LoraLayer

from providers.errors import ConfigError
from serve.engines.model_files import fetch_folder, fingerprint

# peft's name for "no adapter".
_NONE = "__base__"
# What cannot be mixed in a batch, or changes more than an adapter's own weights.
_REFUSED = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters")


class Adapters:
    """The adapters of one model.

    Args:
        model: a model of transformers; LoRA layers are put into it.
        sources: the local path, `s3://bucket/prefix` or name on the hub of each adapter.
        owner: the model's name, for messages.

    Raises:
        ConfigError: one of them is no LoRA adapter, not of this model, or of a kind that cannot be
            mixed with others.
    """

    def __init__(self, model: Any, sources: Mapping[str, str], owner: str) -> None:
        # Its keys are names of modules, in which peft allows less than in an adapter's name.
        self._inner = {name: f"adapter_{number}_" for number, name in enumerate(sources)}
        self.fingerprints: dict[str, str] = {}
        self._local = threading.local()
        wrapped: Any = None
        for name, source in sources.items():
            try:
                path = fetch_folder(source)
                config = peft.PeftConfig.from_pretrained(path)
                _check(config)
                config.inference_mode = True
                inner = self._inner[name]
                settings = {"adapter_name": inner, "autocast_adapter_dtype": False}
                if wrapped is None:
                    wrapped = peft.PeftModel(model, config, **settings)
                # In the number format of the model, and not as it was trained.
                _check_weights(wrapped.load_adapter(path, **settings))
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                reason = " ".join(lines)[:300]
                raise ConfigError(f"{owner}:{name}: {source} cannot be loaded: {reason}") from error
            self.fingerprints[name] = fingerprint(Path(path))
        model.eval()
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.register_forward_pre_hook(self._name_adapters, with_kwargs=True)

    @contextmanager
    def using(self, names: Sequence[str]) -> Iterator[None]:
        """Return a context in which this thread's rows have these adapters; "" for none."""
        self._local.names = [self._inner.get(name, _NONE) for name in names]
        try:
            yield
        finally:
            del self._local.names

    def _name_adapters(self, _module: Any, args: Any, kwargs: Any) -> Any:
        names = self._local.names
        # A row's beams follow one another.
        times = len(args[0]) // len(names)
        return args, {**kwargs, "adapter_names": [name for name in names for _ in range(times)]}


def _check(config: Any) -> None:
    """Raise ValueError for an adapter that cannot share a model with others."""
    if config.peft_type != peft.PeftType.LORA:
        raise ValueError(f"it is no LoRA adapter, but {config.peft_type}")
    refused = [key for key in _REFUSED if getattr(config, key, None)]
    if config.bias != "none":
        refused.append("bias")
    if refused:
        raise ValueError(
            f"it has {' and '.join(refused)}, which would change the model for others too; merge "
            "it into a model of its own (peft's merge_and_unload)"
        )


def _check_weights(loaded: Any) -> None:
    if loaded.missing_keys or loaded.unexpected_keys:
        raise ValueError("its weights are not those of an adapter of this model")
