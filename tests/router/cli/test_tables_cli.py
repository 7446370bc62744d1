"""Tables that a command prints into a pipe: whole, a line for each row."""

from click.testing import CliRunner

from router.cli import main


def printed(*args):
    done = CliRunner().invoke(main, [*args])
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_a_list_is_not_cut_to_a_width_when_it_is_piped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ("long-" * 30)
    folder.mkdir()
    path = folder / "rows.jsonl"
    path.write_text('{"input": "a"}\n')
    name = "a-name-of-eighty-characters-" * 3
    printed("dataset", "add", str(path), "--name", name)
    key = name[:60]
    printed("key", "create", key)
    [row] = [line for line in printed("dataset", "list") if name in line]
    assert str(path) in row
    [row] = [line for line in printed("key", "list") if key in line]
    assert row.count("│") > 2
