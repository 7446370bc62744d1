"""Read datasets and render templates in a process that has limits of time and memory.

    dataset = open_dataset(Path("news.csv"), prompt="Summarize: {{ input }}")
    for sample in samples(dataset, prompt="Summarize: {{ input }}", count=dataset.row_count):
        ...

A template may loop for ever, or ask for more memory than there is; so may a small parquet file.
Neither can be stopped inside a thread, so this code runs where it can be killed. The functions
here block; `await in_thread(function, ...)` runs one beside the event loop, and kills the process
when it is cancelled.

A process is started when it is needed. After its job it waits a minute for the next one.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from mmap import mmap
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import msgspec

from evaluators.base import Sample
from evaluators.data import dataset_worker as worker
from evaluators.data.child_environment import child_environment
from evaluators.data.columns import Column
from evaluators.data.dataset import MAX_LINE_BYTES, Dataset, RowEnd
from evaluators.data.rows import Row
from evaluators.data.sampling import Sampling
from providers import errors
from providers.errors import DatasetError, EvalrouterError, RunDocumentError

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")

# The child has our import path, whatever ours came from, and nothing of ours has begun in it.
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from evaluators.data.dataset_worker import main; main()"
)
_MAX_FRAME = worker.MAX_ITEM_BYTES + 2**20
_FRAME_S = 60.0
# The interval at which the process's position is read.
_POLL_S = 0.25
_MB = 10**6


class DatasetLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The time and memory that one pass over a dataset may take.

    Attributes:
        render_s: seconds for the templates of one row.
        read_s: seconds to read, and for each megabyte of the file `read_s_per_mb` more.
        row_s: seconds that each row adds, on average, where templates are rendered.
        memory: bytes; a file that has to be held while it is read may take twice its size more.
    """

    render_s: float = 10.0
    read_s: float = 60.0
    read_s_per_mb: float = 2.0
    row_s: float = 0.01
    memory: int = 2**30


LIMITS = DatasetLimits()


def open_dataset(
    path: Path,
    *,
    columns: Mapping[str, str] | None = None,
    name: str = "",
    needs_prompt: bool = True,
    messages: Sequence[dict[str, Any]] | None = None,
    prompt: str | None = None,
    templates: bool = False,
    delimiter: str = "",
    limits: DatasetLimits = LIMITS,
) -> Dataset:
    """Read a dataset to its end, as `evaluators.data.dataset.open_dataset` does.

    Args:
        path: as there.
        columns: as there.
        name: as there.
        needs_prompt: as there.
        messages: of the run document.
        prompt: of the run document.
        templates: whether `messages` and `prompt` are to be checked against the columns.
        delimiter: as there.
        limits: see DatasetLimits.

    Raises:
        DatasetError, MissingExtraError: anything wrong with the file, or it takes too much.
        RunDocumentError: anything wrong with a template, or it takes too much.
    """
    size, held = _size(path)
    job = worker.OpenDataset(
        folder=_folder(),
        memory=limits.memory + 2 * held,
        path=str(path),
        columns=dict(columns or {}),
        name=name,
        needs_prompt=needs_prompt,
        max_line_bytes=MAX_LINE_BYTES,
        delimiter=delimiter,
        templates=templates,
        messages=None if messages is None else tuple(messages),
        prompt=prompt,
    )
    [dataset] = _Pass(path, size, 0, limits).items(job, worker.decode_dataset)
    return dataset


def rows(
    dataset: Dataset, *, count: int | None = None, skip: int = 0, limits: DatasetLimits = LIMITS
) -> Iterator[Row]:
    """Yield the rows, as `Dataset.rows` gives them; `count` of them after the first `skip`."""
    size, held = _size(dataset.path)
    job = worker.ReadRows(
        folder=_folder(), memory=limits.memory + 2 * held, dataset=dataset, count=count, skip=skip
    )
    return _Pass(dataset.path, size, 0, limits).items(job, worker.decode_rows)


def row_ends(dataset: Dataset, rows: int, *, limits: DatasetLimits = LIMITS) -> list[RowEnd]:
    """Return where rows end, as `evaluators.data.dataset.row_ends` does."""
    size, held = _size(dataset.path)
    job = worker.FindRowEnds(
        folder=_folder(), memory=limits.memory + 2 * held, dataset=dataset, rows=rows
    )
    return list(_Pass(dataset.path, size, 0, limits).items(job, worker.decode_row_ends))


def samples(
    dataset: Dataset,
    *,
    count: int,
    chosen: list[int] | None = None,
    messages: Sequence[dict[str, Any]] | None = None,
    prompt: str | None = None,
    limits: DatasetLimits = LIMITS,
) -> Iterator[Sample]:
    """Yield the rows with their messages.

    Args:
        dataset: the file.
        count: how many rows.
        chosen: indexes of the rows, from 0, ascending; None for the first `count`.
        messages: of the run document.
        prompt: of the run document.
        limits: see DatasetLimits.

    Raises:
        DatasetError: the file changed since it was checked, or takes too much.
        RunDocumentError: a row that cannot be rendered, or takes too much.
    """
    size, held = _size(dataset.path)
    job = worker.ReadSamples(
        folder=_folder(),
        memory=limits.memory + 2 * held,
        dataset=dataset,
        count=count,
        chosen=chosen,
        messages=None if messages is None else tuple(messages),
        prompt=prompt,
    )
    return _Pass(dataset.path, size, count, limits).items(job, worker.decode_samples)


def choose(sampling: Sampling, dataset: Dataset, *, limits: DatasetLimits = LIMITS) -> list[int]:
    """Return the indexes of the rows drawn, as `evaluators.data.sampling.choose` does."""
    size, held = _size(dataset.path)
    job = worker.ChooseRows(
        folder=_folder(), memory=limits.memory + 2 * held, dataset=dataset, sampling=sampling
    )
    return list(_Pass(dataset.path, size, 0, limits).items(job, worker.decode_row_indexes))


def describe(dataset: Dataset, *, limits: DatasetLimits = LIMITS) -> tuple[Column, ...]:
    """Describe the columns, as `evaluators.data.columns.describe` does."""
    size, held = _size(dataset.path)
    job = worker.DescribeColumns(folder=_folder(), memory=limits.memory + 2 * held, dataset=dataset)
    return tuple(_Pass(dataset.path, size, 0, limits).items(job, worker.decode_columns))


def _folder() -> str:
    """Return the working directory, which may have changed since a process was started."""
    with suppress(OSError):
        return str(Path.cwd())
    return ""


def _size(path: Path) -> tuple[int, int]:
    """Return the dataset's bytes, and how many of them are held while it is read."""
    try:
        files = list(path.iterdir()) if path.is_dir() else [path]
        size = sum(file.stat().st_size for file in files)
    except OSError:
        return 0, 0  # what is wrong with it shows when it is opened
    lines = path.suffix.lower() in (".jsonl", ".ndjson", ".csv", ".tsv")
    return size, 0 if lines else size


# Cancelling


class _Stop:
    """Ends whatever process a thread is waiting for, from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._stopped = False

    def watch(self, process: _Process | None) -> None:
        """Note the process that the thread waits for."""
        with self._lock:
            self._process = process
            if self._stopped and process is not None:
                process.kill()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()


_stop: contextvars.ContextVar[_Stop | None] = contextvars.ContextVar("_stop", default=None)


async def in_thread(
    function: Callable[_Args, _Result], /, *args: _Args.args, **kwargs: _Args.kwargs
) -> _Result:
    """Run a function on a thread; cancelling kills the process that it waits for."""
    stop = _Stop()

    def run() -> _Result:
        _stop.set(stop)
        return function(*args, **kwargs)

    # The thread has a copy of the context, so what it sets is its own.
    task = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.stop()
        with suppress(Exception):
            await task
        raise


# Processes


class _Pass:
    """One job at a process, and the error when it takes too much."""

    def __init__(self, path: Path, size: int, rendered: int, limits: DatasetLimits) -> None:
        self._path = path
        self._limits = limits
        self._read_s = limits.read_s + limits.read_s_per_mb * size / _MB
        self._all_s = 2 * self._read_s + limits.row_s * rendered

    def items(
        self, job: worker.DatasetJob, decode: Callable[[bytes], Sequence[_Item]]
    ) -> Iterator[_Item]:
        """Yield the job's items. At the end the process is free again, or killed."""
        data = worker.encode(job)
        process, kind, body = self._begin(data)
        done = False
        try:
            left = self._all_s
            while True:
                if kind == worker.ERROR:
                    raise self._error(worker.decode_failure(body))
                done = kind in (worker.LAST, worker.LAST_AND_GONE)
                if done:
                    # Before the items are given out, as those of a small dataset are all here.
                    process.release(gone=kind == worker.LAST_AND_GONE)
                if kind != worker.AT_WORK:
                    yield from decode(body)
                if done:
                    return
                started = time.monotonic()
                kind, body = self._receive(process, left)
                left -= time.monotonic() - started
        finally:
            if not done:
                process.end()

    def _begin(self, data: bytes) -> tuple[_Process, bytes, bytes]:
        """Give the job to a process; return the process and its first frame."""
        process = _idle.take()
        if process is not None:
            try:
                process.send(data)
                return process, *self._receive(process, self._all_s, lost=False)
            except (EOFError, OSError):
                # It had ended before, or dies of the job and will do so again.
                process.end()
            except BaseException:
                process.end()
                raise
        process = _Process.start()
        try:
            process.send(data)
            return process, *self._receive(process, self._all_s)
        except BaseException:
            process.end()
            raise

    def _receive(self, process: _Process, left: float, *, lost: bool = True) -> tuple[bytes, bytes]:
        """Return the next frame.

        Raises:
            DatasetError, RunDocumentError: no frame came in time, or the process has ended.
            EOFError, OSError: the process has ended, and `lost` is False.
        """
        started = since = time.monotonic()
        seen = process.place()
        stop = _stop.get()
        if stop is not None:
            stop.watch(process)
        try:
            while True:
                now, place = time.monotonic(), process.place()
                if place != seen:
                    seen, since = place, now
                allowed = min(left, self._read_s) - (now - started)
                if place[0]:
                    allowed = min(allowed, self._limits.render_s - (now - since))
                if allowed <= 0:
                    raise self._too_long(*place, now - (since if place[0] else started))
                with suppress(TimeoutError):
                    return process.receive(min(allowed, _POLL_S))
        except (EOFError, OSError) as error:
            if not lost:
                raise
            raise self._died(process, *process.place()) from error
        finally:
            if stop is not None:
                stop.watch(None)

    def _too_long(self, place: str, row: int, seconds: float) -> EvalrouterError:
        seconds = round(seconds, 1)
        if place:
            at = f"row {row}: " if row else ""
            return RunDocumentError(
                f"{place}: {at}rendering the template took longer than {seconds:g} s, which is "
                "the limit; it may loop over too much",
                param=place,
            )
        return DatasetError(
            f"{self._path}: reading it took longer than {seconds:g} s, which is the limit; split it"
        )

    def _died(self, process: _Process, place: str, row: int) -> EvalrouterError:
        how = process.end()
        if place:
            at = f"row {row}: " if row else ""
            return RunDocumentError(
                f"{place}: {at}the process that rendered the template died of it "
                f"({how}); it may have needed more memory than the limit",
                param=place,
            )
        return DatasetError(
            f"{self._path}: the process that read it died of it ({how}); it may have needed more "
            "memory than the limit"
        )

    def _error(self, failure: worker.Failure) -> Exception:
        if failure.kind == "MemoryError":
            return DatasetError(
                f"{self._path}: reading it takes more than {failure.message} of memory, which is "
                "the limit; write it with smaller rows or row groups"
            )
        kind = getattr(errors, failure.kind)
        error: EvalrouterError = kind.__new__(kind)
        EvalrouterError.__init__(error, failure.message, param=failure.param)
        return error


class _Process:
    """A process, our end of the socket to it, and the shared memory with its position."""

    def __init__(
        self, process: subprocess.Popen[bytes], channel: socket.socket, place: mmap
    ) -> None:
        self._process = process
        self._channel = channel
        self._place = place

    @classmethod
    def start(cls) -> _Process:
        """Start a process; this takes a fifth of a second."""
        return _spawner().submit(cls._start).result()

    @classmethod
    def _start(cls) -> _Process:
        ours, its = socket.socketpair()
        with its, tempfile.TemporaryFile() as shared:
            shared.truncate(worker.PLACE_BYTES)
            command = (
                sys.executable,
                "-c",
                _PROGRAM,
                str(os.getpid()),
                str(shared.fileno()),
                *sys.path,
            )
            try:
                process = subprocess.Popen(  # noqa: S603  # all of it is ours
                    command,
                    stdin=its.fileno(),
                    stdout=subprocess.DEVNULL,
                    pass_fds=(shared.fileno(),),
                    # Threads and pools that reserve addresses would use up the limit of memory.
                    env=child_environment()
                    | {
                        "MALLOC_ARENA_MAX": "1",
                        "ARROW_DEFAULT_MEMORY_POOL": "system",
                    },
                    # Ctrl-C reaches every process of the terminal's group; the parent decides.
                    process_group=0,
                )
            except BaseException:
                ours.close()
                raise
            place = mmap(shared.fileno(), worker.PLACE_BYTES)
        return cls(process, ours, place)

    def send(self, data: bytes) -> None:
        """Send it a job. Raises OSError when it has ended."""
        self._channel.settimeout(None)
        self._channel.sendall(worker.HEADER.pack(worker.ITEMS, len(data)) + data)

    def receive(self, seconds: float) -> tuple[bytes, bytes]:
        """Return its next frame. Raises TimeoutError before a byte came, EOFError, OSError."""
        self._channel.settimeout(seconds)
        first = self._channel.recv(worker.HEADER.size)
        # What has begun to come is on its way: the process writes a frame at once.
        self._channel.settimeout(_FRAME_S)
        try:
            header = first + self._exactly(worker.HEADER.size - len(first), ended=not first)
            kind, size = worker.HEADER.unpack(header)
            return kind, self._exactly(size, ended=size > _MAX_FRAME)
        except TimeoutError:
            raise EOFError from None

    def _exactly(self, size: int, *, ended: bool) -> bytes:
        if ended:
            raise EOFError
        data = bytearray()
        while len(data) < size:
            more = self._channel.recv(min(size - len(data), 2**20))
            if not more:
                raise EOFError
            data += more
        return bytes(data)

    def place(self) -> tuple[str, int]:
        """Return the template that it renders ("" while it does something else), and the row."""
        row, length = worker.PLACE.unpack(self._place[: worker.PLACE.size])
        text = self._place[worker.PLACE.size : worker.PLACE.size + length]
        return text.decode("utf-8", "replace"), row

    def release(self, *, gone: bool) -> None:
        """Let it wait for the next job, unless another process waits already."""
        if gone or not _idle.put(self):
            self.end()

    def kill(self) -> None:
        """Kill it, from any thread; a thread that waits for it sees it end."""
        with suppress(ProcessLookupError):
            self._process.kill()

    def end(self) -> str:
        """Kill it, wait for its end, and say how it ended."""
        self._channel.close()
        code = self._process.poll()
        if code is None:
            try:
                # One that dies by itself closes its socket a moment before it has a status.
                code = self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                self._process.kill()
                code = self._process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


class _Idle:
    """Holds at most one idle process: all that the passes of a program share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._owner = 0

    def take(self) -> _Process | None:
        with self._lock:
            process, self._process = self._process, None
            # After a fork it belongs to the other process.
            return process if self._owner == os.getpid() else None

    def put(self, process: _Process) -> bool:
        with self._lock:
            if self._process is not None and self._owner == os.getpid():
                return False
            self._process, self._owner = process, os.getpid()
            return True

    def close(self) -> None:
        process = self.take()
        if process is not None:
            process.end()


_idle = _Idle()
atexit.register(_idle.close)

_spawners: dict[int, ThreadPoolExecutor] = {}


def _spawner() -> ThreadPoolExecutor:
    """Return the thread that starts processes: Linux kills them when their starter ends."""
    executor = _spawners.get(os.getpid())
    if executor is None:
        executor = ThreadPoolExecutor(1, thread_name_prefix="evalrouter-spawn")
        executor = _spawners.setdefault(os.getpid(), executor)
    return executor
