"""Files that a user names, and what is no such file."""

import errno
import os
import socket
from pathlib import Path

import pytest

from providers.plain_files import open_plain_file, read_plain_file


def test_a_plain_file_and_a_link_to_one(tmp_path):
    path, link = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"12345")
    link.symlink_to(path)
    assert read_plain_file(path, 5) == b"12345" == read_plain_file(link, 6)
    with open_plain_file(link) as file:
        assert list(file) == [b"12345"]


def test_a_file_that_is_too_large(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    with pytest.raises(OSError, match="it has more than 4 bytes") as caught:
        read_plain_file(path, 4)
    assert caught.value.errno == errno.EFBIG


def test_what_is_something_else(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name in ("pipe", "link", "socket", ".", "/dev/zero", "/dev/tty", "absent", "a\0b"):
            with pytest.raises(OSError) as caught:  # noqa: PT011  # each its own words
                read_plain_file(tmp_path / name, 10)
            assert caught.value.strerror, name


def test_nothing_stays_open_of_what_is_refused(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(IsADirectoryError):
            open_plain_file(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
