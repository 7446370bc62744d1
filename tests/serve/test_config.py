"""The section `models:`, with mistakes named by their place."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from servers import s3_server

from providers.errors import ConfigError
from router.config.loading import parse
from serve import config
from serve.engines import model_files


def models(text, environ=None):
    return parse(text, "models.yaml", environ or {}).models


def test_the_section_is_read():
    found = models(
        """
models:
  bart-cnn:
    {engine: transformers, task: summarization, source: facebook/bart-large-cnn, gpus: 0.5}
  prometheus: {engine: llamacpp, source: ./prometheus.gguf, replicas: {min: 0, max: 4}}
"""
    )
    assert found["bart-cnn"].task == "summarization"
    assert found["bart-cnn"].gpus == 0.5
    assert found["prometheus"].replicas.max_copies == 4
    assert found["prometheus"].gpus == 0


def test_the_environment_says_how_many_gpus():
    text = "models:\n  a: {engine: transformers, source: x}\n"
    assert models(text, {"RAY_WORKER_GPUS_FRACTION": "0.25"})["a"].gpus == 0.25
    assert models(text, {"RAY_WORKER_GPUS": "2", "RAY_WORKER_GPUS_FRACTION": ""})["a"].gpus == 2
    # 0 says nothing.
    both = {"RAY_WORKER_GPUS": "1.0", "RAY_WORKER_GPUS_FRACTION": "0.0"}
    assert models(text, both)["a"].gpus == 1
    assert models(text, {**both, "RAY_WORKER_GPUS_FRACTION": "0.5"})["a"].gpus == 0.5
    with pytest.raises(ConfigError, match="RAY_WORKER_GPUS_FRACTION is no number of GPUs: 'half'"):
        models(text, {"RAY_WORKER_GPUS_FRACTION": "half"})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{source: x}", r"models\.yaml:2: models\.a: needs an engine: "),
        ("{engine: vlm, source: x}", r"models\.yaml:2: models\.a: unknown engine 'vlm'"),
        ("{engine: transformers}", r"models\.a: .*source"),
        ("{engine: transformers, sauce: x}", r"models\.a\.sauce: unknown key.*'source'"),
        (
            "{engine: transformers, source: x, options: {beams: 4}}",
            r"models\.a\.options\.beams: unknown key",
        ),
        ("{engine: llamacpp, source: x, task: chat}", r"models\.a\.task: unknown key"),
        ("{engine: transformers, source: x, task: talk}", r"models\.a\.task: "),
        ("{engine: transformers, source: x, replicas: {min: -1}}", r"models\.a\.replicas\.min: "),
        (
            "{engine: transformers, source: x, options: {device: gpu}}",
            r"models\.a\.options\.device",
        ),
    ],
)
def test_mistakes_are_named_by_their_place(entry, message):
    with pytest.raises(ConfigError, match=message):
        models(f"models:\n  a: {entry}\n")


COPY = "engine: transformers, share: {name: small}, cpus: 2, replicas: {max: 2}"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            f"a: {{{COPY}, source: x}}\n  b.1: {{{COPY}, source: y, gpus: 0.5}}",
            r"yaml:3: models\.b\.1\.gpus: shares the copies 'small' with a, which has 0\.0 here",
        ),
        (
            f"a: {{{COPY}, source: x}}\n  b: {{{COPY.replace('max: 2', 'max: 3')}, source: y}}",
            r'models\.b\.replicas: .*"max":2',
        ),
        (
            f"a: {{{COPY}, source: x}}\n"
            f"  b: {{{COPY.replace('small', 'small, keep: 4')}, source: y}}",
            r"models\.b\.share: .*\"keep\":2",
        ),
        (f"a: {{{COPY}, source: x, concurrency: 0}}", r"models\.a\.concurrency: "),
        ("a: {engine: transformers, source: x, share: {name: a b}}", r"models\.a\.share\.name: "),
        ("a: {engine: vllm, source: x, share: {name: small}}", r"models\.a\.share: unknown key"),
        (
            "a: {engine: vllm, source: x, adapters: {b: y}}\n  'a:b': {engine: vllm, source: x}",
            r"yaml:3: models\.a:b: 'a:b' is a name of a too",
        ),
        ("'a:b': {engine: vllm, source: x, adapters: {b: y}}", r"models\.a:b\.adapters: one of"),
        ("a: {engine: vllm, source: x, adapters: {'b:c': y}}", r"adapters\.b:c: 'b:c' cannot name"),
    ],
)
def test_entries_that_contradict_each_other_are_named(entries, message):
    with pytest.raises(ConfigError, match=message):
        models(f"models:\n  {entries}\n")


def test_every_contradiction_is_named_at_once():
    shared = {"engine": "transformers", "source": "x", "share": {"name": "s"}}
    entries = {
        "a": {"engine": "vllm", "source": "x", "adapters": {"b": "y", "c:d": "y"}},
        "a:b": {"engine": "vllm", "source": "x", "adapters": {"b": "y"}},
        "one": shared,
        "two": {**shared, "gpus": 0.5, "queue": 1},
    }
    wrong = [
        "models.a.adapters.c:d: 'c:d' cannot name",
        "models.a:b: 'a:b' is a name of a too",
        "models.a:b.adapters: one of",
        "models.two.gpus: shares",
        "models.two.queue: shares",
    ]
    with pytest.raises(ConfigError) as caught:
        models(f"models: {msgspec.json.encode(entries).decode()}\n")
    assert all_begin(caught.value.message, [f"models.yaml:1: {place}" for place in wrong])
    with pytest.raises(ConfigError) as caught:
        config.read(entries, {})
    assert all_begin(caught.value.message, wrong)
    assert caught.value.param == "models.a.adapters.c:d"


def all_begin(text, beginnings):
    lines = text.splitlines()
    return len(lines) == len(beginnings) and all(map(str.startswith, lines, beginnings))


def test_models_share_copies_whatever_their_engine():
    rest = "share: {name: small, keep: 3}, gpus: 0.5"
    found = models(
        f"models:\n  a: {{engine: transformers, source: x, {rest}, adapters: {{b: ./b}}}}\n"
        f"  c: {{engine: llamacpp, source: y, {rest}, cold_start: 5}}\n"
    )
    assert found["a"].share == found["c"].share
    assert found["a"].share.keep == 3
    told = {
        name: {"engine": "transformers", "source": "x", "share": {"name": "s"}} for name in "ab"
    }
    told["b"]["queue"] = 1
    with pytest.raises(ConfigError, match=r"models\.b\.queue: shares the copies 's' with a"):
        config.read(told, {})


def test_rays_own_config_is_checked_too():
    found = config.read({"a": {"engine": "transformers", "source": "x"}}, {})
    assert found["a"].source == "x"
    with pytest.raises(ConfigError, match=r"models\.a: .*unknown field `sauce`"):
        config.read({"a": {"engine": "transformers", "source": "x", "sauce": "y"}}, {})
    with pytest.raises(ConfigError, match="must map names"):
        config.read({}, {})


# Where models come from


def test_a_source_is_a_path_a_name_on_the_hub_or_s3(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"x")
    assert model_files.fetch(str(tmp_path)) == str(tmp_path)
    assert model_files.fetch("facebook/bart-large-cnn") == "facebook/bart-large-cnn"
    assert model_files.fetch_file(str(tmp_path / "a.gguf")) == tmp_path / "a.gguf"
    with pytest.raises(ConfigError, match="no such file or folder"):
        model_files.fetch(str(tmp_path / "b"))
    for wrong in (str(tmp_path), "org/repo"):
        with pytest.raises(ConfigError, match=r"not a file; .*org/repo/file\.gguf"):
            model_files.fetch_file(wrong)


def test_a_fingerprint_changes_with_the_weights(tmp_path):
    file = tmp_path / "weights"
    found = set()
    size = 5 << 20
    for at in (0, size // 2, size - 1):
        content = bytearray(size)
        content[at] = 1
        file.write_bytes(content)
        found.add(model_files.fingerprint(tmp_path))
    assert len(found) == 3
    assert model_files.fingerprint(tmp_path) in found


@pytest.fixture
def s3(monkeypatch):
    """A client of a real S3 server, which the environment names."""
    pytest.importorskip("pyarrow")
    from botocore.session import Session

    with s3_server("models") as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint_url)
        monkeypatch.setenv("AWS_DEFAULT_REGION", found.region)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", found.access_key_id.reveal())
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", found.secret_access_key.reveal())
        client = Session().create_client("s3")
        yield client
        client.close()


def test_a_folder_in_s3_is_copied_once(tmp_path, s3):
    s3.put_object(Bucket="models", Key="tiny/config.json", Body=b"{}")
    s3.put_object(Bucket="models", Key="tiny/deep/weights", Body=b"w")
    found = Path(model_files.fetch("s3://models/tiny", cache=tmp_path))
    assert (found / "deep" / "weights").read_bytes() == b"w"
    assert model_files.fetch("s3://models/tiny", cache=tmp_path) == str(found)
    s3.put_object(Bucket="models", Key="tiny/deep/weights", Body=b"new")
    again = Path(model_files.fetch("s3://models/tiny", cache=tmp_path))
    assert (again / "deep" / "weights").read_bytes() == b"new"
    s3.put_object(Bucket="models", Key="a.gguf", Body=b"g")
    assert Path(model_files.fetch("s3://models/a.gguf", cache=tmp_path)).read_bytes() == b"g"
    with pytest.raises(ConfigError, match="nothing is there"):
        model_files.fetch("s3://models/none", cache=tmp_path)
