"""BERTScore: how near each token of the answer is to one of a reference, by a language model.

    {name: bertscore, model: roberta-large}                       # a name on the Hugging Face hub
    {name: bertscore, model: models/my-bert, layers: 9}           # a folder

Needs the extra `local`. The model is loaded once, by a worker process of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import msgspec

from evaluators.base import Output, Sample, Scorable, Score
from evaluators.data.paths import Opens, is_file, is_folder
from evaluators.metrics.model_folder import fingerprint, max_tokens, not_loaded
from evaluators.metrics.reference import references, unscored
from evaluators.text.normal_form import NormalForm, normalizer
from providers.errors import MissingExtraError, RunDocumentError

_OUTPUTS = {
    "bertscore_precision": "Mean similarity of the answer's tokens to the nearest of a reference.",
    "bertscore_recall": "Mean similarity of a reference's tokens to the nearest of the answer.",
    "bertscore_f1": "F1 of BERTScore's precision and recall.",
}


class BertScore:
    """Precision, recall and F1, the same numbers as bert-score's; each the best over references.

    `model` is a folder or a name on the hub, `layers` which of its layers to use (bert-score knows
    it for common names; a folder needs it). `baseline` is a file of rescaling baselines in
    bert-score's format; without it scores are raw. A GPU is used where there is one. A blank
    answer is 0, rescaled or not. Texts longer than the model takes are cut; a note says so. Both
    texts are brought into the normal form `unicode` first; "none" gives bert-score's numbers for
    texts in any other form too.
    """

    name = "bertscore"
    needs_reference = True
    source = "Zhang et al. 2020, BERTScore; bert-score"
    load_s = 900.0
    sample_s = 300.0

    def __init__(
        self,
        *,
        model: Annotated[str, msgspec.Meta(min_length=1), Opens("model")] = "roberta-large",
        layers: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None,
        baseline: Annotated[str, Opens("file")] | None = None,
        batch_size: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 32,
        unicode: NormalForm = "nfc",
    ) -> None:
        if find_spec("bert_score") is None:
            raise MissingExtraError("The metric bertscore", "local")
        local = is_folder(Path(model))
        if local and layers is None:
            raise RunDocumentError("layers: a model in a folder needs it", param="layers")
        if local and ("t5" in model or model.startswith("scibert")):
            raise RunDocumentError(
                f"model: bert-score takes a path with 't5' in it, as {model}, or 'scibert' in "
                "front, for another kind of model; rename the folder",
                param="model",
            )
        if baseline is not None and not is_file(Path(baseline)):
            raise RunDocumentError(f"baseline: {baseline}: no such file", param="baseline")
        self._model = model
        self._layers = layers
        self._baseline = baseline
        self._batch_size = batch_size
        self._form = normalizer(unicode)
        self._scorer: Any = None
        self._max_tokens = 0
        self.outputs = tuple(
            Output(name=name, low=-1.0 if baseline is None else None, description=text)
            for name, text in _OUTPUTS.items()
        )
        which = f"{Path(model).name}@{fingerprint(Path(model))}" if local else model
        rescaled = "no" if baseline is None else Path(baseline).name
        self.signature = (
            f"bertscore|nrefs:var|multi:max|model:{which}|layers:{layers or 'default'}|idf:no"
            f"|rescale:{rescaled}|cut:noted|unicode:{unicode}|blank:0|bert-score:{version('bert-score')}"
            f"|transformers:{version('transformers')}"
        )

    def load(self) -> None:
        """Load the model; a name on the hub is downloaded once. Raises RuntimeError."""
        from bert_score import BERTScorer  # noqa: PLC0415  # an extra, and slow to import

        try:
            self._scorer = BERTScorer(
                model_type=self._model,
                num_layers=self._layers,
                batch_size=self._batch_size,
                # Only names the file of baselines, which is passed explicitly.
                lang="en" if self._baseline else None,
                rescale_with_baseline=self._baseline is not None,
                baseline_path=self._baseline,
            )
        except Exception as error:
            raise not_loaded(self._model, error) from error
        tokenizer = self._scorer._tokenizer  # noqa: SLF001  # bert-score has no public way to it
        # Without a limit of its own, the tokenizer is given the model's: with none, it crashes.
        config = self._scorer._model.config  # noqa: SLF001  # likewise
        self._max_tokens = max_tokens(tokenizer.model_max_length, config)
        tokenizer.model_max_length = self._max_tokens

    def score_batch(self, items: Sequence[Scorable]) -> Iterable[tuple[Score, ...]]:
        """Yield three scores for each answer, computed for all of them together."""
        pairs = [
            (at, self._form(answer.text or ""), self._form(reference))
            for at, (sample, answer) in enumerate(items)
            for reference in references(sample)
            if (answer.text or "").strip()
        ]
        # Texts of about one length share a batch, so that little of it is padding.
        pairs.sort(key=lambda pair: len(pair[1]) + len(pair[2]))
        best: dict[int, list[float]] = {}
        if pairs:
            texts = [text for _, text, _ in pairs]
            accepted = [reference for _, _, reference in pairs]
            tensors = self._scorer.score(texts, accepted, batch_size=self._batch_size)
            for (at, _, _), *values in zip(
                pairs, *(tensor.tolist() for tensor in tensors), strict=True
            ):
                # Rounding makes equal texts 1.0000001 alike.
                best[at] = [
                    max(before, min(value, 1.0))
                    for before, value in zip(best.get(at, [-9.0] * 3), values, strict=True)
                ]
        for at, (sample, answer) in enumerate(items):
            yield self._scores(best.get(at, [0.0] * 3), sample, self._form(answer.text or ""))

    def _scores(self, values: list[float], sample: Sample, text: str) -> tuple[Score, ...]:
        accepted = tuple(map(self._form, references(sample)))
        if not accepted:
            return unscored(self.outputs)
        note = ""
        if text.strip() and any(map(self._is_cut, (text, *accepted))):
            note = f"the answer or a reference was cut to {self._max_tokens} tokens"
        return tuple(
            Score(output=output.name, value=value, note=note)
            for output, value in zip(self.outputs, values, strict=True)
        )

    def _is_cut(self, text: str) -> bool:
        # A token is at least a byte long, so most texts need not be counted.
        if len(text.encode(errors="replace")) <= self._max_tokens - 2:
            return False
        tokenizer = self._scorer._tokenizer  # noqa: SLF001  # bert-score has no public way to it
        return len(tokenizer.encode(text.strip())) > self._max_tokens
