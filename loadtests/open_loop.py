"""Open-loop load: requests leave when they are due, whether or not earlier ones were answered.

    python -m loadtests.open_loop URL --rate 200 --seconds 10 [--header 'authorization: Bearer x']

prints one JSON object (see Measured). Latency counts from the moment a request was due, not from
the moment it was sent, so a gateway that stalls is charged for everything that had to wait for it.
Run it once through a gateway and once straight at the upstream: the difference of the percentiles
is what the gateway adds.
"""

from __future__ import annotations

import argparse
import asyncio
import selectors
from collections.abc import Mapping
from time import perf_counter, process_time
from urllib.parse import urlsplit

import msgspec
import numpy as np

from loadtests.client import (
    NOT_SUSTAINED,
    Connection,
    NotSustained,
    RequestFailed,
    connect,
    parse_header,
    request,
)

# More open requests than this and the gateway is not keeping up; select() ends at 1,024 anyway.
MAX_OPEN = 512


class Measured(msgspec.Struct, frozen=True):
    """What came of a run, without its warm-up.

    Attributes:
        answered: requests answered with 200.
        failures: why the others were not (the first few).
        failed: how many.
        p50_ms, p99_ms: from due to the last byte.
        late_p99_ms: how late this program itself was in sending; part of the two above.
        generator_cpu: this program's CPU time per second.
    """

    answered: int
    failed: int
    failures: list[str]
    p50_ms: float
    p99_ms: float
    late_p99_ms: float
    generator_cpu: float


def measure(
    url: str, headers: Mapping[str, str], *, rate: float, seconds: float, warm_up: float = 0.0
) -> Measured:
    """Send `rate * seconds` requests, after `warm_up` seconds of the same that do not count.

    Raises:
        NotSustained: more than 512 requests were open at once.
        RequestFailed: not one request was answered.
    """

    # uvloop's and epoll's timers are whole milliseconds, longer than what is being measured;
    # select() takes microseconds.
    def make_loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with asyncio.Runner(loop_factory=make_loop) as runner:
        run = _Run(url, headers)
        if warm_up:
            runner.run(run.drive(rate, warm_up))
            run.forget()
        began, used = perf_counter(), process_time()
        runner.run(run.drive(rate, seconds))
        generator_cpu = (process_time() - used) / (perf_counter() - began)
        runner.run(run.hang_up())
    if not run.took:
        raise RequestFailed(run.failures[0])
    p50, p99 = np.percentile(run.took, [50, 99]) * 1000
    late = float(np.percentile(run.late, 99)) * 1000
    return Measured(
        answered=len(run.took),
        failed=len(run.failures),
        failures=run.failures[:3],
        p50_ms=float(p50),
        p99_ms=float(p99),
        late_p99_ms=late,
        generator_cpu=generator_cpu,
    )


class _Run:
    """The requests of one run, and the connections that carry them.

    Attributes:
        took: seconds from due to done, of each answered request.
        late: seconds from due to sent, of each request.
        failures: why, of each that failed.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._parts = urlsplit(url)
        self._request = request(url, headers, stream=False)
        self._idle: list[Connection] = []
        self._open = 0
        self.forget()

    def forget(self) -> None:
        self.took: list[float] = []
        self.late: list[float] = []
        self.failures: list[str] = []

    async def drive(self, rate: float, seconds: float) -> None:
        """Send what is due, when it is due; return when all of it was answered.

        Raises:
            NotSustained: too many requests are open.
        """
        swamped = False
        async with asyncio.TaskGroup() as group:
            first = perf_counter() + 0.01
            for n in range(round(rate * seconds)):
                due = first + n / rate
                wait = due - perf_counter()
                if wait > 0:
                    await asyncio.sleep(wait)
                swamped = self._open >= MAX_OPEN
                if swamped:
                    break
                self._open += 1
                group.create_task(self._send(due))
        if swamped:
            raise NotSustained(f"{MAX_OPEN} requests were open at once at {rate:g} req/s")

    async def _send(self, due: float) -> None:
        connection = None
        try:
            connection = self._idle.pop() if self._idle else await connect(self._parts)
            self.late.append(perf_counter() - due)
            answer = await connection.send(self._request)
        except RequestFailed as failure:
            self.failures.append(str(failure))
            if connection is not None:
                connection.close()
        else:
            self.took.append(answer.done - due)
            if connection.open:
                self._idle.append(connection)
        finally:
            self._open -= 1

    async def hang_up(self) -> None:
        for connection in self._idle:
            connection.close()
        # One turn of the loop lets the transports close before it does.
        await asyncio.sleep(0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Open-loop load, measured from when it was due.")
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, required=True, help="requests per second")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--warm-up", type=float, default=1, help="seconds that do not count")
    parser.add_argument("--header", type=parse_header, action="append", default=[])
    options = parser.parse_args()
    try:
        measured = measure(
            options.url,
            dict(options.header),
            rate=options.rate,
            seconds=options.seconds,
            warm_up=options.warm_up,
        )
    except NotSustained as reason:
        parser.exit(NOT_SUSTAINED, f"not sustained: {reason}\n")
    except RequestFailed as failure:
        parser.exit(1, f"failed: {failure}\n")
    print(msgspec.json.encode(measured).decode())


if __name__ == "__main__":
    main()
