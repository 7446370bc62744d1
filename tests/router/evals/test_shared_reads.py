"""What several callers read at once is read once, and cached in its newest version."""

import asyncio

import pytest

from router.evals.shared_reads import Lasting, SharedReads


class Counted:
    """Reads a value, once it may; counts how often."""

    def __init__(self, value, seconds=float("inf")):
        self.result = Lasting(value, seconds)
        self.times = 0
        self.may = asyncio.Event()
        self.may.set()

    async def __call__(self):
        self.times += 1
        await self.may.wait()
        return self.result


async def test_callers_at_once_share_a_reading_that_outlives_one_of_them():
    reads, read = SharedReads(max_cached=2), Counted("value")
    read.may.clear()
    first, second = (asyncio.create_task(reads.of("a", 1, read)) for _ in range(2))
    while not read.times:
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    read.may.set()
    assert await second == await reads.of("a", 1, read) == "value"
    assert read.times == 1


async def test_one_version_of_each_key_is_cached_and_the_oldest_key_makes_room():
    reads = SharedReads(max_cached=2)

    async def read(key, version):
        value = f"{key}{version}"
        assert await reads.of(key, version, Counted(value)) == value

    await read("a", 1)
    await read("b", 1)
    await read("b", 2)
    assert (reads.cached("a", 1), reads.cached("b", 1), reads.cached("b", 2)) == ("a1", None, "b2")
    await read("a", 2)
    await read("c", 1)
    assert (reads.cached("a", 2), reads.cached("b", 2), reads.cached("c", 1)) == ("a2", None, "c1")


@pytest.mark.parametrize("seconds", [0.0, 1e-9])
async def test_a_value_that_is_not_good_any_more_is_read_again(seconds):
    reads, read = SharedReads(max_cached=2), Counted("value", seconds)
    await reads.of("a", 1, read)
    loop = asyncio.get_running_loop()
    read_at = loop.time()
    while loop.time() < read_at + seconds:
        await asyncio.sleep(0)
    assert reads.cached("a", 1) is None
    await reads.of("a", 1, read)
    assert read.times == 2


async def test_an_error_reaches_the_callers_and_is_not_cached():
    async def fails():
        raise LookupError("gone")

    reads = SharedReads(max_cached=2)
    with pytest.raises(LookupError, match="gone"):
        await reads.of("a", 1, fails)
    assert await reads.of("a", 1, Counted("value")) == "value"
