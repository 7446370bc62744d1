"""What a process without Ray and `driver.py` say to each other.

Each frame is four bytes of length (big-endian), then MessagePack. Nothing here imports Ray.
"""

from __future__ import annotations

import struct

import msgspec

from serve.engines.messages import encode

LENGTH = struct.Struct(">I")


class Connect(msgspec.Struct, frozen=True, tag=True):
    """Which cluster; `address` "" starts Ray on this machine, with `cpus` cores if not None."""

    address: str = ""
    cpus: int | None = None


class Crew(msgspec.Struct, frozen=True, tag=True):
    """Make workers. The answer is empty, or says why they cannot work.

    Attributes:
        number: of this message.
        name: by which calls name the crew.
        make: `module:name` of what is called with `argument` in each worker.
        argument: as it is.
        workers: how many.
        cpus, gpus: reserved for each.
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
    """Call `method(payload)`, bytes to bytes, of what a crew's workers made.

    Attributes:
        number: of this message.
        crew: its name.
        method: its name.
        payload: as it is.
        limit_s: a worker that takes longer is ended, and the call done again on another; None
            where the caller watches the time and sends Cancel.
        tries: workers that may die of it before it is given up.
    """

    number: int
    crew: str
    method: str
    payload: bytes
    limit_s: float | None = None
    tries: int = 1


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Nobody waits for the call of this number any more. There is no answer."""

    number: int


class Done(msgspec.Struct, frozen=True):
    """What became of a message.

    Attributes:
        number: the message's.
        payload: what came of it.
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
    """A message as it is written."""
    body = encode(message)
    return LENGTH.pack(len(body)) + body
