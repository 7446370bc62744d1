"""What many follow is read once for all of them, and ends for all of them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress

import pytest

from providers.errors import NotFoundError, RateLimitError
from router.api import feeds
from router.api.feeds import Feeds


class Source:
    """Gives these values one after the other, then the last one for ever; raises exceptions."""

    def __init__(self, *values):
        self.values = list(values)
        self.reads = 0

    async def read(self):
        self.reads += 1
        value = self.values.pop(0) if len(self.values) > 1 else self.values[0]
        if isinstance(value, Exception):
            raise value
        return value


async def taken(some, source, key="k"):
    """All values of a feed up to its end."""
    async with some.follow(key, source.read) as values:
        return [value async for value in values]


def up_to(last):
    return Feeds("numbers", poll_s=0.001, is_last=lambda value: value == last)


async def test_values_come_when_they_change_up_to_the_last():
    assert await taken(up_to(3), Source(1, 1, 2, 2, 3)) == [1, 2, 3]


async def test_what_counts_as_news_is_said_by_whoever_makes_the_feed():
    some = Feeds(
        "numbers", poll_s=0.001, is_last=lambda value: value > 3, differs=lambda new, old: new > old
    )
    assert await taken(some, Source(2, 1, 2, 4)) == [2, 4]


async def test_many_followers_of_one_key_are_one_reader():
    some, source = up_to(3), Source(1, 2, 3)
    assert await asyncio.gather(*(taken(some, source) for _ in range(20))) == [[1, 2, 3]] * 20
    assert source.reads == 3
    # One that begins after the end reads again.
    assert await taken(some, Source(3)) == [3]


async def test_other_keys_are_read_apart():
    some, first, second = up_to(3), Source(1, 3), Source(2, 3)
    both = await asyncio.gather(taken(some, first, "a"), taken(some, second, "b"))
    assert both == [[1, 3], [2, 3]]


@pytest.mark.parametrize("error", [NotFoundError("It is gone."), ValueError("a fault of ours")])
async def test_an_error_ends_it_for_all_who_follow_and_the_next_one_reads_again(error):
    some, source = up_to(3), Source(1, error)
    ends = await asyncio.gather(*(taken(some, source) for _ in range(3)), return_exceptions=True)
    assert ends == [error] * 3
    assert await taken(some, Source(3)) == [3]


async def test_nothing_is_read_once_no_one_follows_and_others_go_on():
    some, source = Feeds("numbers", poll_s=0.001), Source(1)
    async with some.follow("k", source.read) as staying:
        assert await anext(staying) == 1
        async with some.follow("k", source.read) as leaving:
            assert await anext(leaving) == 1
        source.values = [2]
        assert await anext(staying) == 2
    reads = source.reads
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert source.reads <= reads + 1


async def test_so_many_follow_at_most():
    some, source = Feeds("numbers", poll_s=0.001), Source(1)

    async def follow():
        async with some.follow("k", source.read) as values:
            async for _ in values:
                pass

    tasks = [asyncio.create_task(follow()) for _ in range(feeds.MAX_FOLLOWERS)]
    await asyncio.sleep(0)
    with pytest.raises(RateLimitError, match="follow numbers of this server already"):
        await taken(some, source)
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task


async def test_clients_of_one_key_leave_room_for_those_of_others():
    some, source = Feeds("numbers", poll_s=0.001), Source(1)

    async def most(holder, stack):
        """Return how many clients of a key are let in."""
        for number in range(feeds.MAX_FOLLOWERS + 1):
            try:
                await stack.enter_async_context(some.follow("k", source.read, holder=holder))
            except RateLimitError:
                return number
        return None

    async with AsyncExitStack() as everyone:
        async with AsyncExitStack() as first:
            assert await most("key_1", first) == feeds.MAX_FOLLOWERS // 2
            with pytest.raises(RateLimitError, match="500 clients with this key"):
                some.check_room("key_1")
            assert await most("key_2", everyone) == feeds.MAX_FOLLOWERS // 4
            some.check_room("key_3")
        # The first key's clients have left: the second may have half of all again.
        assert await most("key_2", everyone) == feeds.MAX_FOLLOWERS // 4
        # While no key is needed, no place has to stay free for other keys.
        assert await most("", everyone) == feeds.MAX_FOLLOWERS // 2
