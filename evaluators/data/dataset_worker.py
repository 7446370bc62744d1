"""The process that reads datasets and renders templates, within limits of memory.

`dataset_process.py` starts it, writes jobs to its standard input (a socket) and reads frames from
there: a byte for the kind, four bytes of length, JSON. It may be killed at any moment. A small
area of shared memory holds its position, so that an error can name the row and the template.

It ends when its parent does (on Linux even in the middle of a regular expression).
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from mmap import mmap
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from evaluators.base import Sample
from evaluators.data.columns import Column, describe
from evaluators.data.dataset import (
    Dataset,
    RowEnd,
    compile_messages,
    open_dataset,
    row_ends,
    to_sample,
)
from evaluators.data.rows import Row
from evaluators.data.sampling import Sampling, choose
from evaluators.data.template import check_filled, required_columns
from providers.errors import DatasetError, EvalrouterError

_Item = TypeVar("_Item")

HEADER = struct.Struct(">cI")
ITEMS, LAST, LAST_AND_GONE, AT_WORK, ERROR = b"+", b".", b"x", b"~", b"!"

# The shared memory: the row's number, the length of the text behind it, and that text, which is
# the path of the template that is being rendered; empty while something is read.
PLACE = struct.Struct(">QB")
PLACE_BYTES = 256

MAX_ITEM_BYTES = 64 * 2**20
_FRAME_BYTES = 256 * 1024
_FRAME_ITEMS = 256
_FRAME_S = 0.5
# A process that has grown so much does not give the memory back; another one takes its place.
_MAX_IDLE_BYTES = 300 * 2**20
_IDLE_S = 60.0
_NICENESS = 5
_PR_SET_PDEATHSIG = 1


class _Job(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The fields that every job has.

    Attributes:
        folder: the parent's working directory, from which relative paths start.
        memory: bytes that the process may take for the job, beyond those that it has.
    """

    folder: str
    memory: int


class OpenDataset(_Job, frozen=True, kw_only=True, tag=True):
    """Checks a file, and the templates of a run over it; gives one Dataset.

    Attributes:
        templates: whether `messages` and `prompt` are checked.
    """

    path: str
    columns: dict[str, str]
    name: str
    needs_prompt: bool
    max_line_bytes: int
    delimiter: str
    templates: bool
    messages: tuple[dict[str, Any], ...] | None = None
    prompt: str | None = None


class ReadRows(_Job, frozen=True, kw_only=True, tag=True):
    """Gives `count` Rows after the first `skip`."""

    dataset: Dataset
    count: int | None = None
    skip: int = 0


class ReadSamples(_Job, frozen=True, kw_only=True, tag=True):
    """Gives a Sample for each of the first `count` rows, or of those at the indexes `chosen`."""

    dataset: Dataset
    count: int
    chosen: list[int] | None
    messages: tuple[dict[str, Any], ...] | None
    prompt: str | None


class ChooseRows(_Job, frozen=True, kw_only=True, tag=True):
    """Gives the indexes of the rows that are drawn."""

    dataset: Dataset
    sampling: Sampling


class DescribeColumns(_Job, frozen=True, kw_only=True, tag=True):
    """Gives a Column for each column."""

    dataset: Dataset


class FindRowEnds(_Job, frozen=True, kw_only=True, tag=True):
    """Gives RowEnds, up to a row."""

    dataset: Dataset
    rows: int


DatasetJob = OpenDataset | ReadRows | ReadSamples | ChooseRows | DescribeColumns | FindRowEnds


class Failure(msgspec.Struct, frozen=True):
    """An error on its way to the parent; `kind` names its class in `providers.errors`."""

    kind: str
    message: str
    param: str | None = None


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError


def _built(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError


# JSON and not MessagePack, which has no numbers above 64 bits; a dataset may.
encode = msgspec.json.Encoder(enc_hook=_plain).encode
_jobs: msgspec.json.Decoder[DatasetJob] = msgspec.json.Decoder(DatasetJob, dec_hook=_built)
decode_dataset = msgspec.json.Decoder(list[Dataset], dec_hook=_built).decode
decode_failure = msgspec.json.Decoder(Failure).decode
decode_rows = msgspec.json.Decoder(list[Row]).decode
decode_samples = msgspec.json.Decoder(list[Sample]).decode
decode_columns = msgspec.json.Decoder(list[Column]).decode
decode_row_ends = msgspec.json.Decoder(list[RowEnd]).decode
decode_row_indexes = msgspec.json.Decoder(list[int]).decode


class WorkerPosition:
    """The process's position, in memory that the parent reads."""

    def __init__(self, fd: int) -> None:
        self._shared = mmap(fd, PLACE_BYTES)
        self._row = 0

    def reading(self, row: int) -> None:
        """Note that a row is about to be read or rendered."""
        self._row = row
        self._shared[: PLACE.size] = PLACE.pack(row, 0)

    def rendering(self, param: str) -> None:
        """Note that a template is about to be rendered for that row."""
        text = param.encode("utf-8", "replace")[: PLACE_BYTES - PLACE.size - 1]
        data = PLACE.pack(self._row, len(text)) + text
        self._shared[: len(data)] = data


class _Output:
    """Gathers a job's items, and sends them often enough for the parent to see progress."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._items: list[bytes] = []
        self._size = 0
        self._sent_at = time.monotonic()

    def add(self, item: Any) -> None:
        data = encode(item)
        if len(data) > MAX_ITEM_BYTES:
            raise DatasetError(
                f"a row with its messages takes {len(data)} bytes, more than {MAX_ITEM_BYTES}"
            )
        self._items.append(data)
        self._size += len(data)
        if self._size > _FRAME_BYTES or len(self._items) == _FRAME_ITEMS:
            self.send(ITEMS)
        else:
            self.tick()

    def tick(self) -> None:
        """Send the items so far, even none, where the last frame was a while ago."""
        if time.monotonic() - self._sent_at > _FRAME_S:
            self.send(ITEMS if self._items else AT_WORK)

    def send(self, kind: bytes) -> None:
        body = b"[" + b",".join(self._items) + b"]"
        self._items, self._size = [], 0
        self.frame(kind, body)

    def frame(self, kind: bytes, body: bytes) -> None:
        self._channel.sendall(HEADER.pack(kind, len(body)))
        self._channel.sendall(body)
        self._sent_at = time.monotonic()


def main() -> None:
    """Serve jobs until the parent closes its end, or none has come for a minute."""
    parent, place_fd = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    os.nice(_NICENESS)
    channel = socket.socket(fileno=os.dup(0))
    place = WorkerPosition(place_fd)
    while True:
        channel.settimeout(_IDLE_S)
        job = _receive(channel)
        channel.settimeout(None)
        if job is None:
            return
        output = _Output(channel)
        place.reading(0)
        try:
            with suppress(OSError):
                os.chdir(job.folder)
            _limit_memory(job.memory)
            _execute(job, output, place)
        except EvalrouterError as error:
            failure = Failure(type(error).__name__, error.message, error.param)
            output.frame(ERROR, encode(failure))
            return
        except MemoryError:
            _lift_memory_limit()
            failure = Failure("MemoryError", f"{job.memory // 2**20} MiB")
            output.frame(ERROR, encode(failure))
            return
        except ConnectionError:
            return  # the parent has stopped waiting
        _lift_memory_limit()
        grown = _resident_bytes() > _MAX_IDLE_BYTES
        with suppress(ConnectionError):
            # The parent may have closed before the end.
            output.send(LAST_AND_GONE if grown else LAST)
        if grown:
            return


def _execute(job: DatasetJob, output: _Output, place: WorkerPosition) -> None:
    match job:
        case OpenDataset():
            _open(job, output, place)
        case ReadRows():
            end = None if job.count is None else job.skip + job.count
            for row in islice(_ticking(job.dataset.rows(), output), job.skip, end):
                output.add(row)
        case ReadSamples():
            _samples(job, output, place)
        case ChooseRows():
            for index in choose(job.sampling, _ticking(job.dataset.rows(), output)):
                output.add(index)
        case FindRowEnds():
            for row_end in _ticking(row_ends(job.dataset, job.rows), output):
                output.add(row_end)
        case DescribeColumns():
            for column in describe(job.dataset):
                output.add(column)


def _open(job: OpenDataset, output: _Output, place: WorkerPosition) -> None:
    dataset = open_dataset(
        Path(job.path),
        columns=job.columns,
        name=job.name,
        needs_prompt=job.needs_prompt,
        max_line_bytes=job.max_line_bytes,
        delimiter=job.delimiter,
    )
    if job.templates:
        output.send(AT_WORK)
        compile_messages(job.messages, job.prompt, dataset.columns, at=place.rendering)
    output.add(dataset)


def _samples(job: ReadSamples, output: _Output, place: WorkerPosition) -> None:
    output.send(AT_WORK)
    render = compile_messages(job.messages, job.prompt, job.dataset.columns, at=place.rendering)
    required = required_columns(job.messages, job.prompt)
    place.reading(0)
    rows = _ticking(job.dataset.rows(), output)
    for row in _picked(rows, job):
        place.reading(row.number)
        check_filled(row, required)
        output.add(to_sample(row, render))
        place.reading(row.number)


def _picked(rows: Iterator[Row], job: ReadSamples) -> Iterator[Row]:
    if job.chosen is None:
        # All rows are read to the end: a changed file shows only there.
        yield from rows if job.count == job.dataset.row_count else islice(rows, job.count)
        return
    at = 0
    for place in job.chosen:
        row = next(islice(rows, place - at, None), None)
        if row is None:
            return
        at = place + 1
        yield row


def _ticking(items: Iterator[_Item], output: _Output) -> Iterator[_Item]:
    for item in items:
        output.tick()
        yield item


def _receive(channel: socket.socket) -> DatasetJob | None:
    """Return the next job; None when the parent has closed or is silent."""
    try:
        header = _exactly(channel, HEADER.size)
        body = _exactly(channel, HEADER.unpack(header)[1])
    except (TimeoutError, EOFError, ConnectionError):
        return None
    return _jobs.decode(body)


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = channel.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return bytes(data)


def _limit_memory(more: int) -> None:
    """Limit this process's address space to what it has and `more` bytes."""
    with suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415  # not on Windows

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = pages * resource.getpagesize() + more
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _lift_memory_limit() -> None:
    with suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415  # not on Windows

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _resident_bytes() -> int:
    with suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _die_with(parent: int) -> None:
    """On Linux, end with the parent, and be killed first where memory runs out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "linux":
        return
    prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
