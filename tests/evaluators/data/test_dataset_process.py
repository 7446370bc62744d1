"""Datasets and templates that would take all time or memory, where they cannot."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from itertools import islice
from pathlib import Path

import pytest

from evaluators.data import dataset_process
from evaluators.data.dataset_process import (
    DatasetLimits,
    describe,
    in_thread,
    open_dataset,
    rows,
    samples,
)
from evaluators.data.sampling import Sampling
from providers.errors import DatasetError, RunDocumentError

FOR_EVER = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)
SHORT = DatasetLimits(render_s=1.0)
SMALL = DatasetLimits(memory=256 * 2**20)


@pytest.fixture
def lines(tmp_path):
    def write(records):
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in records))
        return path

    return write


def rendered(path, *, limits=SHORT, **templates):
    dataset = open_dataset(path, **templates, needs_prompt=False, templates=True, limits=limits)
    return list(samples(dataset, count=dataset.row_count, **templates, limits=limits))


def test_a_dataset_arrives_as_it_is_read_here(lines):
    records = [
        {"id": n, "input": f"é {n} \u2028", "big": 10**30 + n, "deep": {"a": [1.5, None, True]}}
        for n in range(1000)
    ]
    dataset = open_dataset(lines(records), prompt="Say {{ input }}", templates=True)
    assert dataset.columns == ("id", "input", "big", "deep")
    read = list(rows(dataset))
    assert read == list(dataset.rows())
    assert [one.fields["big"] for one in read] == [10**30 + n for n in range(1000)]
    found = list(samples(dataset, count=1000, prompt="Say {{ input }}"))
    assert [one.messages[0]["content"] for one in found] == [
        f"Say é {n} \u2028" for n in range(1000)
    ]
    some = samples(dataset, count=2, chosen=[3, 900], prompt="{{ big }}")
    assert [(one.id, one.messages[0]["content"]) for one in some] == [
        ("3", str(10**30 + 3)),
        ("900", str(10**30 + 900)),
    ]
    drawn = dataset_process.choose(Sampling(n=5, seed=1), dataset)
    assert len(drawn) == 5
    assert [one.name for one in describe(dataset)] == ["id", "input", "big", "deep"]
    assert [one.number for one in rows(dataset, count=2)] == [1, 2]


@pytest.mark.parametrize("prompt", [FOR_EVER + "{{ input }}", "{{ input }}" + FOR_EVER])
def test_a_template_without_an_end(lines, prompt):
    path = lines([{"input": "a"}, {"input": "b"}])
    with pytest.raises(RunDocumentError) as caught:
        rendered(path, prompt=prompt)
    assert caught.value.param == "prompt"
    assert "prompt: row 1: rendering the template took longer than 1" in caught.value.message
    # The next one has a process again.
    assert rendered(path, prompt="{{ input }}")[1].messages[0]["content"] == "b"


def test_a_template_without_an_end_for_one_row_of_many(lines):
    path = lines([{"input": "a", "slow": n == 700} for n in range(1000)])
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "{% if slow %}%s{%% endif %%}"}]},
    ]
    messages[1]["content"][0]["text"] = "{% if slow %}" + FOR_EVER + "{% endif %}{{ input }}"
    with pytest.raises(RunDocumentError) as caught:
        rendered(path, messages=messages)
    assert caught.value.param == "messages[1].content[0].text"
    assert "row 701: rendering the template took longer" in caught.value.message


@pytest.mark.parametrize(
    "template",
    [
        "{{ input.ljust(10 ** 10) }}",
        "{{ input.center(9 * 10 ** 9) }}",
        "{{ '%09999999999d' | format(1) }}",
        "{{ '{:>9999999999}'.format(input) }}",
        "{{ input | indent(width=10 ** 10) }}x{{ input | center(10 ** 10) }}",
        "{{ [[1]] | tojson(indent=10 ** 10) }}",
        "{{ input | replace('', input.ljust(10 ** 9)) }}",
        "{{ [input.ljust(10 ** 8)] | join | list }}",
        "{% set n = namespace(x=input.ljust(10**6)) %}"
        "{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ input.expandtabs(10 ** 10) }}{{ '\t'.expandtabs(2 ** 30) }}",
    ],
)
def test_a_template_that_wants_all_memory(lines, template):
    with pytest.raises(RunDocumentError) as caught:
        rendered(lines([{"input": "a"}]), prompt=template)
    assert caught.value.param == "prompt"
    assert caught.value.message.startswith("prompt: ")
    assert len(caught.value.message) < 500


def test_a_constant_is_computed_when_it_is_compiled(lines):
    with pytest.raises(RunDocumentError, match="prompt: "):
        rendered(lines([{"input": "a"}]), prompt="{{ ('x' * 1000).ljust(10 ** 10) }}")
    with pytest.raises(RunDocumentError):
        rendered(lines([{"input": "a"}]), prompt="{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}")


def test_many_texts_of_one_row(lines):
    """Each is within its limit, all together are not."""
    part = {"type": "text", "text": "{{ input }}"}
    messages = [{"role": "user", "content": [part] * 1000}]
    with pytest.raises((RunDocumentError, DatasetError), match=r"memory|bytes"):
        rendered(lines([{"input": "a" * 900_000}]), messages=messages, limits=SMALL)


def parquet_file(path: Path, columns, **options) -> Path:
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), path, **options)
    return path


def test_parquet_that_unpacks_to_very_much(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    text = "x" * 10_000_000
    for name, column, options in (
        ("dictionary", pa.array([text]).take(pa.array([0] * 60)), {}),
        ("plain", pa.array([text] * 60), {"use_dictionary": False, "compression": "zstd"}),
        ("nested", pa.array([[[text]]] * 60), {"compression": "snappy"}),
        ("struct", pa.array([{"a": text}] * 60), {"compression": "zstd"}),
    ):
        path = parquet_file(tmp_path / f"{name}.parquet", {"input": column}, **options)
        with pytest.raises(DatasetError, match=f"{name}.parquet: ") as caught:
            open_dataset(path, needs_prompt=False, limits=SMALL)
        assert len(caught.value.message) < 500


def test_parquet_with_very_many_rows(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    column = pa.array(["x"]).take(pa.array([0] * 5_000_000, pa.int8()))
    path = parquet_file(tmp_path / "many.parquet", {"input": column})
    assert path.stat().st_size < 2_000_000
    with pytest.raises(DatasetError, match=r"reading it took longer than [\d.]+ s"):
        open_dataset(path, needs_prompt=False, limits=DatasetLimits(read_s=0.5, read_s_per_mb=0))


def test_json_that_is_one_very_large_value(tmp_path):
    path = tmp_path / "d.json"
    path.write_text('[{"input": "x"},{"input": [' + "{}," * 8_000_000 + "{}]}]")
    with pytest.raises(DatasetError, match=r"d\.json: reading it takes more than \d+ MiB"):
        open_dataset(path, needs_prompt=False, limits=SMALL)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a":' * 100_000, '[{"input": ' + "[" * 60_000]
)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_json_that_is_very_deep(tmp_path, content, suffix):
    path = tmp_path / f"d.{suffix}"
    path.write_text(content)
    with pytest.raises(DatasetError, match=r"nested too deeply|a row must be an object|not JSON"):
        open_dataset(path, needs_prompt=False)


def test_what_was_not_read_to_its_end_leaves_nothing(lines):
    dataset = open_dataset(lines([{"input": "a" * 1000}] * 20_000))
    before = children(os.getpid())
    for _ in range(3):
        found = samples(dataset, count=20_000)
        assert len(list(islice(found, 10))) == 10
        found.close()
    assert len(children(os.getpid())) <= max(1, len(before))


def children(parent: int) -> list[int]:
    found = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(pid) for one in found for pid in one.read_text().split()]


async def test_cancelling_ends_the_process(lines):
    path = lines([{"input": "a"}])
    task = asyncio.create_task(in_thread(rendered, path, prompt=FOR_EVER, limits=DatasetLimits()))
    while not any(b"dataset_worker" in commandline(one) for one in children(os.getpid())):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # It is usable at once.
    assert len(await in_thread(rendered, path, prompt="{{ input }}")) == 1


def commandline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends the child")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_process_ends_with_its_parent(tmp_path, lines, number):
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from evaluators.data.dataset_process import open_dataset, samples
        dataset = open_dataset(Path(sys.argv[1]))
        print("ready", flush=True)
        list(samples(dataset, count=1, prompt=sys.argv[2]))
    """)
    path = lines([{"input": "a"}])
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(path), FOR_EVER],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    with parent:
        assert parent.stdout.readline() == b"ready\n"
        [child] = children(parent.pid)
        parent.send_signal(number)
    deadline = time.monotonic() + 60
    while b"dataset_worker" in commandline(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_no_secret_reaches_the_process(lines, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    path = lines([{"input": "a"}] * 10)
    with pytest.raises(RunDocumentError):
        rendered(path, prompt=FOR_EVER)  # so that a fresh one is started
    rendered(path, prompt="{{ input }}")
    [child] = [one for one in children(os.getpid()) if b"dataset_worker" in commandline(one)]
    assert b"sk-very-secret" not in Path(f"/proc/{child}/environ").read_bytes()
