"""The processes that tests start by forking behave like those that start from nothing."""

import signal
import subprocess
import sys

import pytest
from router_process import router_command
from servers import process

# Says what a command sees of its surroundings, and how it ends.
CONFIG = "server: {port: 0}\nroutes: {of: {targets: [{model: '${TARGET}'}]}}\n"


def outcome(command, folder, **environ):
    done = subprocess.run(
        [*command, "config", "check", "evalrouter.yaml"],
        cwd=folder,
        env={"TARGET": "baseline/echo", "COLUMNS": "90"} | environ,
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("target", ["baseline/echo", "nobody/nothing"])
def test_folder_environment_output_and_return_code_are_those_of_a_new_process(tmp_path, target):
    (tmp_path / "evalrouter.yaml").write_text(CONFIG)
    new = outcome([sys.executable, "-m", "router"], tmp_path, TARGET=target)
    assert outcome(router_command(), tmp_path, TARGET=target) == new
    assert new[0] == (0 if target == "baseline/echo" else 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_and_the_return_code_says_so(tmp_path, number):
    (tmp_path / "evalrouter.yaml").write_text("server: {port: 0, drain_seconds: 1}\n")
    with process(tmp_path) as (server, _):
        server.send_signal(number)
        assert server.wait() == (-number if number == signal.SIGKILL else 0)
