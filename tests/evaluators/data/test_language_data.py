"""WordNet and punkt's data in the user's data folder."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from evaluators.data import language_data
from evaluators.metrics.registry import build
from providers.errors import InputError, RunDocumentError
from router.cli import main

LINES = {
    "data.noun": "  1 WordNet 3.0 Copyright 2006\n00000000 04 n 02 cat 0 house_cat 1 000 | meow\n",
    "index.noun": "cat n 1 0 1 0 00000031\n",
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "evalrouter" / "nltk_data"


@pytest.fixture
def small(tmp_path):
    """A WordNet of one word, as far down as a distribution might have it."""
    folder = tmp_path / "from" / "share" / "wordnet"
    folder.mkdir(parents=True)
    for part in ("adj", "adv", "noun", "verb"):
        for name in (f"data.{part}", f"index.{part}", f"{part}.exc"):
            (folder / name).write_text(LINES.get(name, ""))
    (folder / "index.sense").write_text("")
    return folder


def test_wordnet_is_copied_and_lexnames_is_built(home, small):
    (small / "noun.exc").unlink()
    (small.parent / "elsewhere").write_text("cats cat\n")
    (small / "noun.exc").symlink_to(small.parent / "elsewhere")
    assert language_data.wordnet() is None
    target = language_data.install("wordnet", small.parents[1])
    assert target == home / "corpora" / "wordnet" == language_data.wordnet()
    assert not (target / "noun.exc").is_symlink()
    assert (target / "noun.exc").read_text() == "cats cat\n"
    lines = (target / "lexnames").read_text().splitlines()
    assert len(lines) == 45
    assert lines[0] == "00\tadj.all\t3"
    assert lines[15] == "15\tnoun.location\t1"
    assert lines[44] == "44\tadj.ppl\t3"
    assert [path.name for path in target.parent.iterdir()] == ["wordnet"]


def test_installing_again_replaces_and_a_failure_changes_nothing(home, small):
    target = language_data.install("wordnet", small)
    (target / "left-over").touch()
    language_data.install("wordnet", small)
    assert not (target / "left-over").exists()
    (small / "index.sense").unlink()
    with pytest.raises(InputError, match=r"there is no folder with .*index\.sense"):
        language_data.install("wordnet", small)
    assert language_data.wordnet() == target
    with pytest.raises(InputError, match="there is no folder"):
        language_data.install("wordnet", small / "nowhere")


def test_a_data_folder_that_cannot_be_written(home, small):
    home.parents[1].mkdir()
    home.parent.write_text("a file")
    with pytest.raises(InputError, match="evalrouter"):
        language_data.install("wordnet", small)


def test_the_data_folder():
    assert language_data.folder({"XDG_DATA_HOME": "/data"}) == Path("/data/evalrouter")
    default = Path.home() / ".local" / "share" / "evalrouter"
    assert language_data.folder({}) == default
    # The specification says to ignore a relative one.
    assert language_data.folder({"XDG_DATA_HOME": "here"}) == default


def test_from_the_command_line(home, small):
    run = CliRunner().invoke
    done = run(main, ["data", "install", "wordnet", "--from", str(small)])
    assert done.exit_code == 0
    assert str(home) in done.output.replace("\n", "")
    assert run(main, ["data", "install", "punkt", "--from", str(small)]).exit_code == 2
    assert run(main, ["data", "install", "other"]).exit_code == 2


def test_the_signature_says_whether_there_were_synonyms(home, small):
    pytest.importorskip("nltk")
    assert "synonyms:none" in build("meteor").signature
    with pytest.raises(RunDocumentError, match="evalrouter data install wordnet"):
        build({"name": "meteor", "synonyms": "wordnet"})
    with pytest.raises(RunDocumentError, match="evalrouter data install punkt"):
        build({"name": "meteor", "tokenizer": "punkt"})
    language_data.install("wordnet", small)
    assert "synonyms:wordnet-3.0" in build("meteor").signature
    assert "synonyms:none" in build({"name": "meteor", "synonyms": "none"}).signature
    (home / "corpora" / "wordnet" / "verb.exc").unlink()
    assert "synonyms:none" in build("meteor").signature


def test_punkt_is_found_by_its_language(home, tmp_path):
    pytest.importorskip("nltk")
    for language in ("czech", "english"):
        folder = tmp_path / "punkt_tab" / language
        folder.mkdir(parents=True)
        for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt"):
            (folder / name).write_text("dr\n" if name == "abbrev_types.txt" else "")
        (folder / "ortho_context.tab").write_text("")
    target = language_data.install("punkt", tmp_path / "punkt_tab")
    assert target == home / "tokenizers" / "punkt_tab" / "english"
    assert language_data.sentences()("It rains. Dr. Who stays in.") == [
        "It rains.",
        "Dr. Who stays in.",
    ]
