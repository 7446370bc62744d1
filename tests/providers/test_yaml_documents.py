"""YAML that would grow, or nest, without end is refused wherever YAML is read."""

import json

import msgspec
import pytest

from evaluators.judge.kinds import load_kind
from evaluators.judge.rubrics import load
from evaluators.tasks.registry import find
from providers.errors import ConfigError, EvalrouterError
from providers.offline.script import load_script
from providers.yaml_documents import MAX_BYTES, decode, decode_file
from router.client.calls import create
from router.config.loading import load as load_config
from router.config.loading import parse
from router.evals.bundle import read_config
from router.evals.run_document import parse_run

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGED = "a0: &a0 {k: x}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12)
)
BOMBS = {
    "aliases": ALIASES,
    "merged": MERGED,
    "long texts": f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 100_000)}]\n",
    "itself": "a: &a {b: *a}\n",
    "brackets": "[" * 200_000,
    "braces": '{"a":' * 200_000,
    "dashes": "- " * 50_000 + "x",
    "many": "[" + "1," * 1_000_000 + "1]",
    "large": "# " + "x" * MAX_BYTES,
}
ODD = ["2001-99-99", "1" * 5000, "!!float x", "!!bool x", "!!timestamp x", "!!int x"]

ENDLESS = [".inf", "-.Inf", ".NaN", "1.0e+999", "!!float inf", "1" * 400 + ".0"]

READERS = {
    "config": load_config,
    "run": parse_run,
    "client": lambda path: create(path, {}),
    "script": load_script,
    "kind": lambda path: load_kind(str(path)),
    "rubric": lambda path: load(str(path)),
    "task": lambda path: find(str(path)),
    "packing": lambda path: read_config(path, None),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("reader", READERS)
def test_bombs(tmp_path, reader, bomb):
    path = tmp_path / "d.yaml"
    path.write_text(BOMBS[bomb])
    with pytest.raises(EvalrouterError) as caught:
        READERS[reader](path)
    assert "d.yaml" in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("bomb", ["aliases", "many", "itself"])
@pytest.mark.parametrize("reader", READERS)
def test_bombs_behind_an_escape_that_only_one_reader_takes(tmp_path, reader, bomb):
    path = tmp_path / "d.yaml"
    path.write_text(f'half: "\\ud800"\nb:\n{BOMBS[bomb]}')
    with pytest.raises(EvalrouterError) as caught:
        READERS[reader](path)
    assert "d.yaml" in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_plain_file(tmp_path, reader):
    # An empty file is read without a complaint by some, and a folder or a device is not.
    path = tmp_path / "d.yaml"
    path.symlink_to("/dev/null")
    with pytest.raises(EvalrouterError, match=r"d\.yaml: not a plain file"):
        READERS[reader](path)
    path.unlink()
    path.mkdir()
    with pytest.raises(EvalrouterError, match=r"d\.yaml: Is a directory"):
        READERS[reader](path)


@pytest.mark.parametrize("place", ['"{}": 1', 'name: "{}"', 'tags: ["{}"]'])
@pytest.mark.parametrize("reader", READERS)
def test_half_of_a_surrogate_pair_is_refused(tmp_path, reader, place):
    path = tmp_path / "d.yaml"
    path.write_text(place.format("a\\ud800b"))
    with pytest.raises(EvalrouterError) as caught:
        READERS[reader](path)
    assert "d.yaml" in caught.value.message
    caught.value.message.encode()


def test_a_pair_of_them_is_the_character_that_json_means(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"name": "a😀", "😀": 1}))
    assert parse_run(path).data == {"name": "a😀", "😀": 1}


def test_a_pair_of_them_in_a_task(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text(json.dumps({"description": "a😀", "metrics": ["length"]}))
    assert find(str(path)).description == "a😀"


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("reader", READERS)
def test_values_that_cannot_be_read(tmp_path, reader, value):
    path = tmp_path / "d.yaml"
    path.write_text(f"models: {value}\n")
    with pytest.raises(EvalrouterError) as caught:
        READERS[reader](path)
    assert "d.yaml" in caught.value.message


@pytest.mark.parametrize("value", ENDLESS)
@pytest.mark.parametrize("reader", READERS)
def test_numbers_that_are_not_finite(tmp_path, reader, value):
    path = tmp_path / "d.yaml"
    path.write_text(f"models: {value}\n")
    with pytest.raises(EvalrouterError) as caught:
        READERS[reader](path)
    assert "d.yaml" in caught.value.message
    assert len(caught.value.message) < 500
    assert "is not a finite number" in caught.value.message


def test_texts_that_look_like_them():
    texts = [".inf", ".information", "1" * 400, "v1.0e+999"]
    assert decode(f"['.inf', .information, '{'1' * 400}', v1.0e+999]") == texts


def test_a_number_that_a_variable_makes_infinite(tmp_path):
    with pytest.raises(ConfigError, match=r"x:2: server.drain_seconds is not a finite number"):
        parse("server:\n  drain_seconds: ${SECONDS}\n", "x", {"SECONDS": "1.0e+999"})


def test_aliases_in_moderation(tmp_path):
    text = "base: &base {kind: compatible}\nuses: [*base, *base, {<<: *base, x: 1}]\n"
    base = {"kind": "compatible"}
    assert decode(text) == {"base": base, "uses": [base, base, base | {"x": 1}]}
    assert decode("", dict | None) is None
    path = tmp_path / "d.yaml"
    path.write_text(text)
    assert decode_file(path) == decode(text)
    with pytest.raises(msgspec.DecodeError, match="line 2: nested too deeply, more than 100"):
        decode("\n" + "[" * 200)


def test_a_key_that_is_no_text(tmp_path):
    path = tmp_path / "d.yaml"
    path.write_text("? [a]\n: 1\n")
    with pytest.raises(ConfigError, match=r"d\.yaml:1: : a key must be text|must be text"):
        load_config(path)
