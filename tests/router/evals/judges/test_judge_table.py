"""Judges side by side: real llama.cpp servers of ours with a tiny model, in two quantisations."""

import asyncio
import csv
import io
import json
import os
import re
import stat
import sys
from pathlib import Path

import click.testing
import gguf
import msgspec
import pytest
import tiny_gguf

from providers import local_servers
from providers.errors import ConflictError
from router.cli import main
from router.config.loading import load
from router.evals.judges.judge_table import tabulate_studies
from router.evals.judges.studies import CalibrationPlan
from router.services import Services
from router.store.studies import Study

SERVER = Path(local_servers.__file__).with_name("xllamacpp_server.py")
ROWS = [
    {"instruction": f"Question {n}?", "response": f"Answer {n}.", "score": 1 + n % 5}
    for n in range(24)
]
CONFIG = """
providers:
  full: {kind: llamafile, model: full.gguf, binary: ./server, price_per_hour: 3.6}
  small: {kind: llamafile, model: small.gguf, binary: ./server}
prices: {small/tiny: {input: 1.0, output: 10.0}}
"""
# The tiny model speaks nonsense; a grammar makes scores of it.
VERDICT = {"grammar": 'root ::= "[RESULT] " [1-5]', "max_tokens": 12}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_gguf.write(tmp_path / "full.gguf")
    tiny_gguf.write(tmp_path / "small.gguf", q8=True)
    server = tmp_path / "server"
    server.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{SERVER}" "$@"\n')
    server.chmod(server.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "evalrouter.yaml").write_text(CONFIG)
    (tmp_path / "human.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


async def calibrated(services, judge, **options):
    plan = CalibrationPlan(
        judge=judge,
        dataset="human.jsonl",
        rubric={"criteria": "Good?", "scores": {str(n): "so" for n in range(1, 6)}},
        parameters=VERDICT,
        concurrency=2,
        **options,
    )
    study = await services.studies.calibration(plan)
    return await services.studies.execute(study.id)


async def table(*args, code=0):
    # The command has an event loop of its own.
    invoke = click.testing.CliRunner().invoke
    done = await asyncio.to_thread(invoke, main, ["judge", "table", *args])
    assert done.exit_code == code, done.output
    return done.output


def bits_of(path):
    tensors = gguf.GGUFReader(path).tensors
    weights = sum(int(tensor.n_elements) for tensor in tensors)
    return 8 * sum(int(tensor.n_bytes) for tensor in tensors) / weights


async def test_the_table_has_what_was_measured(folder):
    async with Services(load()) as services:
        full = await calibrated(services, "full/tiny")
        small = await calibrated(services, "small/tiny")
        rows, difference = await tabulate_studies(services.store, [full.id, small.id])
    assert difference == ""
    assert [row.target for row in rows] == ["full/tiny", "small/tiny"]
    for row, study, file in zip(rows, (full, small), ("full.gguf", "small.gguf"), strict=True):
        pearson = study.report["calibration"]["agreement"]["pearson"]
        assert row.pearson == pearson["estimate"]
        assert (row.pearson_low, row.pearson_high) == (pearson["low"], pearson["high"])
        assert -1 < row.pearson_low < row.pearson_high < 1
        assert (row.n, row.verdicts, row.unparsed, row.repeats) == (24, 24, 0, 1)
        assert row.requests == 24
        assert row.tokens_per_s > row.requests_per_s > 0
        assert (row.file, row.bits_per_weight) == (file, pytest.approx(bits_of(folder / file)))
        # A Python with llama.cpp in it takes more than 10 MB, and the whole machine has less.
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert 10**7 < row.peak_memory_bytes < memory
    by_hour, by_token = rows
    assert (by_hour.quantization, by_token.quantization) == ("", "Q8_0")
    assert by_hour.token_cost_usd is None
    assert by_hour.machine_cost_usd == pytest.approx(by_hour.seconds / 1000)
    assert by_hour.cost_per_1000_usd == pytest.approx(by_hour.seconds / 24)
    assert by_token.machine_cost_usd is None
    [use] = small.report["use"]
    assert by_token.token_cost_usd == pytest.approx(use["cost_usd"])
    assert by_token.cost_per_1000_usd == pytest.approx(1000 * use["cost_usd"] / 24)

    assert json.loads(await table(full.id, small.id, "--json")) == msgspec.to_builtins(rows)
    written = list(csv.DictReader(io.StringIO(await table(full.id, small.id, "--csv"))))
    assert [row["bits_per_weight"] for row in written] == [str(row.bits_per_weight) for row in rows]
    assert (written[0]["token_cost_usd"], written[0]["estimated"]) == ("", "false")
    shown = re.sub(r"\s+", " ", await table(full.id, small.id))
    assert f"1: full/tiny (full.gguf) on human, {full.id}" in shown
    assert "32.00" in shown
    assert "GiB" in shown
    assert "!" not in shown


async def test_what_was_not_measured_is_blank(folder):
    """Studies of older versions, of other hosts, without answers, and that are not finished."""
    config = """
providers:
  demo:
    kind: scripted
    script: {fair: [{answer: "[RESULT] 4"}], dumb: [{status: 400}]}
"""
    (folder / "evalrouter.yaml").write_text(config)
    async with Services(load()) as services:
        plan = CalibrationPlan(judge="demo/fair", dataset="human.jsonl", repeats=2, limit=6)
        study = await services.studies.execute((await services.studies.calibration(plan)).id)
        report = {name: value for name, value in study.report.items() if name != "models"}
        old = msgspec.structs.replace(study, id="cal_old", report=report)
        await services.store.set_study(old)
        dumb = msgspec.structs.replace(plan, judge="demo/dumb", repeats=1)
        failed = await services.studies.execute((await services.studies.calibration(dumb)).id)
        begun = Study(
            id="cal_begun", kind="calibration", judges=("j",), grading="g", name="n", created_at=0.0
        )
        await services.store.set_study(begun)
        rows, difference = await tabulate_studies(services.store, [study.id, old.id, failed.id])
        with pytest.raises(ConflictError, match="cal_begun is running"):
            await tabulate_studies(services.store, [study.id, begun.id])
        with pytest.raises(ConflictError, match="named twice"):
            await tabulate_studies(services.store, [study.id, study.id])
    for row in rows:
        unknown = (row.file, row.quantization, row.bits_per_weight, row.peak_memory_bytes)
        assert unknown == ("", "", None, None)
        assert (row.machine_cost_usd, row.price_per_hour) == (None, None)
    assert (rows[0].verdicts, rows[0].unparsed, rows[0].token_cost_usd) == (12, 0, 0.0)
    assert rows[1].pearson is None, "the judge always says the same"
    assert (rows[2].target, rows[2].requests, rows[2].unparsed) == ("", 0, 6)
    assert (rows[2].token_cost_usd, rows[2].cost_per_1000_usd) == (None, None)
    assert "number of repeats" in difference
    assert "data" not in difference
    shown = await table(study.id, failed.id)
    assert f"! {difference}" in shown
    assert f"2: demo/dumb on human, {failed.id}" in shown
    assert "cal_begun is running" in await table("cal_begun", code=2)
    assert "exclude each other" in await table(study.id, "--csv", "--json", code=2)
    assert "cal_none" in await table("cal_none", code=2)


async def test_a_study_of_pairs_has_no_correlation_but_speed_and_cost(folder):
    (folder / "evalrouter.yaml").write_text("""
providers:
  demo:
    kind: scripted
    price_per_hour: 2
    script: {pairs: [{match: odd, answer: "No comment."}, {answer: "[RESULT] A"}]}
""")
    (folder / "pairs.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "instruction": f"Question {n}?",
                    "response_a": ("even", "odd")[n % 2],
                    "response_b": "other",
                    "label": "a",
                }
            )
            + "\n"
            for n in range(10)
        )
    )
    async with Services(load()) as services:
        plan = CalibrationPlan(judge="demo/pairs", dataset="pairs.jsonl", retries=0)
        study = await services.studies.execute((await services.studies.calibration(plan)).id)
        [row], _ = await tabulate_studies(services.store, [study.id])
    assert (row.pearson, row.n, row.verdicts, row.unparsed) == (None, 5, 10, 5)
    # Both orders of each pair.
    assert row.requests == 20
    assert row.cost_per_1000_usd == pytest.approx(50 * row.seconds * 2 / 3600)
    assert "5 of 10" in re.sub(r"[\s│]+", " ", await table(study.id))
