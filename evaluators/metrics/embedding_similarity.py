"""Embedding similarity: the cosine between an answer and a reference.

    {name: embedding_similarity, route: openai/text-embedding-3-small}      # through the router
    {name: embedding_similarity, model: models/all-MiniLM-L6-v2}            # the extra `local`

A blank answer is 0. With several references the nearest counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from operator import mul
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from evaluators.base import Embed, Output, Scorable, Score
from evaluators.data.paths import Opens, is_folder
from evaluators.metrics.model_folder import fingerprint, not_loaded
from evaluators.metrics.reference import references, unscored
from evaluators.text.normal_form import NormalForm, normalizer
from providers.errors import EvalrouterError, MissingExtraError, RunDocumentError

_OUTPUTS = (
    Output(
        name="embedding_similarity",
        low=-1.0,
        description="Cosine between the embeddings of the answer and a reference.",
    ),
)
_SOURCE = "Reimers and Gurevych 2019, Sentence-BERT (cosine of sentence embeddings)"
_SIGNATURE = "embedding_similarity|nrefs:var|multi:max|measure:cosine|unicode:{}|blank:0|v:2"

# Hosts limit how many texts a request may have; OpenAI's limit is 2,048, others' are lower.
_TEXTS_PER_REQUEST = 64


def embedding_similarity(
    *,
    route: str | None = None,
    model: Annotated[str, Opens("model")] | None = None,
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 32,
    unicode: NormalForm = "nfc",
) -> ByRoute | ByModel:
    """Cosine of embeddings by a `route` of the router, or a local `model` (a folder or hub name).

    Texts are brought into the normal form `unicode` before they are embedded.

    Raises:
        RunDocumentError: neither or both are named.
        MissingExtraError: a local model without the extra `local`.
    """
    if (route is None) == (model is None):
        raise RunDocumentError(
            "route: name either a route that has embeddings, or a local model", param="route"
        )
    if route is not None:
        return ByRoute(route, unicode)
    return ByModel(model or "", batch_size, unicode)


class ByRoute:
    """Cosine of the embeddings that a route gives.

    A text that the route refuses leaves no value. The cost of the embeddings is shown beside the
    run's answers, and counts for its limits.
    """

    name = "embedding_similarity"
    outputs = _OUTPUTS
    needs_reference = True
    source = _SOURCE

    def __init__(self, route: str, unicode: NormalForm) -> None:
        self.route = route
        self._form = normalizer(unicode)
        self.signature = f"{_SIGNATURE.format(unicode)}|route:{route}"

    async def ask(self, items: Sequence[Scorable], embed: Embed) -> list[tuple[Score, ...]]:
        """Return a score for each answer; the texts of the batch are embedded together."""
        pairs = _pairs(items, self._form)
        texts = _texts(pairs)
        vectors: dict[str, list[float]] = {}
        failed = ""
        for start in range(0, len(texts), _TEXTS_PER_REQUEST):
            some = texts[start : start + _TEXTS_PER_REQUEST]
            try:
                embedded = await embed(self.route, some)
            except EvalrouterError as error:
                failed = f"{self.route}: {error.message}"
                continue
            vectors.update(zip(some, embedded, strict=True))
        return [_score(pair, vectors, failed) for pair in pairs]


class ByModel:
    """Cosine of the embeddings of a sentence-transformers model in a worker process of its own.

    Texts longer than the model takes are cut; a note says so.
    """

    name = "embedding_similarity"
    outputs = _OUTPUTS
    needs_reference = True
    source = _SOURCE
    load_s = 900.0
    sample_s = 300.0

    def __init__(
        self,
        model: Annotated[str, msgspec.Meta(min_length=1)],
        batch_size: int,
        unicode: NormalForm,
    ) -> None:
        if find_spec("sentence_transformers") is None:
            raise MissingExtraError("The metric embedding_similarity with a local model", "local")
        self._name = model
        self._batch_size = batch_size
        self._form = normalizer(unicode)
        self._model: Any = None
        folder = Path(model)
        which = f"{folder.name}@{fingerprint(folder)}" if is_folder(folder) else model
        self.signature = (
            f"{_SIGNATURE.format(unicode)}|model:{which}|cut:noted"
            f"|sentence-transformers:{version('sentence-transformers')}"
        )

    def load(self) -> None:
        """Load the model; a name on the hub is downloaded once. Raises RuntimeError."""
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415  # an extra

        try:
            self._model = SentenceTransformer(self._name)
        except Exception as error:
            raise not_loaded(self._name, error) from error

    def score_batch(self, items: Sequence[Scorable]) -> Iterable[tuple[Score, ...]]:
        """Yield a score for each answer; each different text is embedded once."""
        pairs = _pairs(items, self._form)
        texts = _texts(pairs)
        # It sorts by length itself.
        embedded = self._model.encode(texts, batch_size=self._batch_size, show_progress_bar=False)
        vectors = dict(zip(texts, embedded.tolist(), strict=True))
        cut = {text for text in texts if self._is_cut(text)}
        note = f"the answer or a reference was cut to {self._model.max_seq_length} tokens"
        for pair in pairs:
            cut_note = "" if cut.isdisjoint((pair.text, *pair.accepted)) else note
            yield _score(pair, vectors, note=cut_note)

    def _is_cut(self, text: str) -> bool:
        limit = self._model.max_seq_length
        if limit is None or len(text.encode(errors="replace")) <= limit - 2:
            return False
        return len(self._model.tokenizer.encode(text)) > int(limit)


class _Pair(NamedTuple):
    """The texts that are compared, in their normal form."""

    text: str
    accepted: tuple[str, ...]


def _pairs(items: Sequence[Scorable], form: Callable[[str], str]) -> list[_Pair]:
    return [
        _Pair(form(answer.text or ""), tuple(map(form, references(sample))))
        for sample, answer in items
    ]


def _texts(pairs: Sequence[_Pair]) -> list[str]:
    """Return every text that has to be embedded, once."""
    texts: dict[str, None] = {}
    for text, accepted in pairs:
        if accepted and text.strip():
            texts.update(dict.fromkeys((text, *accepted)))
    return list(texts)


def _score(
    pair: _Pair, vectors: dict[str, list[float]], failed: str = "", note: str = ""
) -> tuple[Score, ...]:
    text, accepted = pair
    if not accepted:
        return unscored(_OUTPUTS)
    if not text.strip():
        return (Score(output="embedding_similarity", value=0.0),)
    if not all(item in vectors for item in (text, *accepted)):
        return unscored(_OUTPUTS, failed or "no embedding")
    try:
        best = max(_cosine(vectors[text], vectors[reference]) for reference in accepted)
    except ValueError as error:
        return unscored(_OUTPUTS, str(error))
    return (Score(output="embedding_similarity", value=best, note=note),)


def _cosine(vector: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of two vectors.

    Raises:
        ValueError: they differ in length, or one is all zeros.
    """
    if len(vector) != len(other):
        raise ValueError("the embeddings have different lengths")
    norms = math.hypot(*vector) * math.hypot(*other)
    if not norms:
        raise ValueError("an embedding is all zeros")
    return max(-1.0, min(1.0, math.fsum(map(mul, vector, other)) / norms))
