"""Opens files that a user names: plain files only, and no more of them than is wanted.

A name may lead to anything: a device without an end (`/dev/zero`), a pipe without a writer, a
folder. Each is refused with an OSError whose `strerror` says what is wrong, like a missing file.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_plain_file(path: Path) -> BinaryIO:
    """Open a plain file, or what a link leads to, to be read.

    Raises:
        OSError: it is missing, cannot be read, or is something else.
    """
    try:
        # Without waiting: the other end of a pipe may never come.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:
        raise OSError(errno.EINVAL, "a null character cannot be part of a name") from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "not a plain file, but a device, a pipe or a socket")


def read_plain_file(path: Path, max_bytes: int) -> bytes:
    """Return what is in a plain file, of which no more than the limit is ever read.

    Raises:
        OSError: as `open_plain_file`, or it has more bytes than `max_bytes`.
    """
    with open_plain_file(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes")
    return data
