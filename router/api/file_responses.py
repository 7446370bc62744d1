"""Responses that send a file while it is read."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from litestar.response import Stream


async def file_response(
    chunks: AsyncGenerator[bytes],
    filename: str,
    headers: Mapping[str, str],
    media_type: str = "application/octet-stream",
) -> Stream:
    """Return a response that sends the chunks as a file to save.

    It waits for the first chunk: what goes wrong before the first byte, such as a missing file, is
    raised here and becomes an error with a status of its own.
    """
    first = await anext(chunks, b"")

    async def body() -> AsyncGenerator[bytes]:
        async with aclosing(chunks):
            yield first
            async for chunk in chunks:
                yield chunk

    disposition = {"content-disposition": f'attachment; filename="{filename}"'}
    return Stream(body(), media_type=media_type, headers=disposition | dict(headers))
