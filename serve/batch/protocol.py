"""Messages between a process without Ray and `driver.py`.

Each frame is four bytes of length (big-endian), then MessagePack. Nothing here imports Ray.
"""

from __future__ import annotations

import struct

import msgspec

from serve.engines.messages import encode

LENGTH = struct.Struct(">I")


class Connect(msgspec.Struct, frozen=True, tag=True):
    """Connect to a cluster; `address` "" starts Ray on this machine, with `cpus` cores if given."""

    address: str = ""
    cpus: int | None = None


class Crew(msgspec.Struct, frozen=True, tag=True):
    """Make workers. The payload of the answer is empty, or says why they cannot work.

    Attributes:
        number: the number of this message, which its answer repeats.
        name: the name that calls use for the crew.
        make: `module:name` of what is called with `argument` in each worker.
        argument: bytes that are passed on unchanged.
        workers: how many workers to make.
        cpus, gpus: cores and GPUs to reserve for each.
        at_once: calls that each works on at a time, by methods that are coroutines; None for one
            after another, by plain methods.
    """

    number: int
    name: str
    make: str
    argument: bytes
    workers: int
    cpus: float
    gpus: float
    at_once: int | None = None


class WorkerCall(msgspec.Struct, frozen=True, tag=True):
    """Call a method, bytes to bytes, of what a crew's workers made.

    Attributes:
        number: the number of this message, which its answer repeats.
        crew: the crew's name.
        method: the method's name.
        payload: its argument.
        limit_s: a worker that takes longer is ended, and the call done again on another; None
            where the caller watches the time and sends Cancel.
        tries: workers that may die of the call before it is given up.
    """

    number: int
    crew: str
    method: str
    payload: bytes
    limit_s: float | None = None
    tries: int = 1


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Give the call of this number up, as its result is not needed any more; has no answer."""

    number: int


class Done(msgspec.Struct, frozen=True):
    """The answer to a message.

    Attributes:
        number: the message's.
        payload: the result.
        error: "" when all went well.
        died: whether the error is that so many workers died as the call had tries.
    """

    number: int
    payload: bytes = b""
    error: str = ""
    died: bool = False


DriverMessage = Connect | Crew | WorkerCall | Cancel

decode_message = msgspec.msgpack.Decoder(DriverMessage).decode
decode_done = msgspec.msgpack.Decoder(Done).decode


def framed(message: DriverMessage | Done) -> bytes:
    """Return a message as it is written: its length, then its bytes."""
    body = encode(message)
    return LENGTH.pack(len(body)) + body
