"""Reads a form with one file in it, `multipart/form-data`, without holding the file in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from litestar import Request
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser
from multipart import parse_options_header as options_of

from providers.errors import ArtifactError, RequestError
from router.datasets.sources import too_large

FORM = "multipart/form-data"
# A form has names of columns in it, besides its file.
MAX_PARTS = 512
MAX_FIELD_BYTES = 64 * 1024


class Form(NamedTuple):
    """A form that was read.

    Attributes:
        fields: the values of each field, in their order.
        filename: the file's name at the client.
        path: where the file is.
    """

    fields: dict[str, list[str]]
    filename: str
    path: Path


def is_form(request: Request[Any, Any, Any]) -> bool:
    """Return whether the body of a request is such a form."""
    kind: str = request.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower() == FORM


async def read_form(
    request: Request[Any, Any, Any], folder: Path, *, file_field: str, max_bytes: int
) -> Form:
    """Read a form, and write the file in it into a folder.

    Args:
        request: its body has not been read.
        folder: of this request alone.
        file_field: the name of the field that is the file.
        max_bytes: the size that the file may have.

    Raises:
        RequestError: it is no form, or not one with one such file.
        BodyTooLargeError: a part is too large, or there are too many.
    """
    _, options = options_of(request.headers.get("content-type", ""))
    path = folder / "upload"
    reader = _FormReader(file_field, max_bytes)
    try:
        with await asyncio.to_thread(path.open, "wb") as file:
            parser = PushMultipartParser(
                options.get("boundary", ""), max_segment_count=MAX_PARTS, strict=True
            )
            async for chunk in _bounded(request, max_bytes + MAX_PARTS * MAX_FIELD_BYTES):
                await asyncio.to_thread(reader.take, parser, chunk, file)
            parser.close()
    except ParserLimitReached as error:
        raise RequestError(f"The form has too many parts, or too long names: {error}") from error
    except MultipartError as error:
        raise RequestError(f"The body is no form: {error}", code="bad_form") from error
    except OSError as error:
        raise ArtifactError(f"the upload cannot be stored: {error.strerror}") from error
    if reader.filename is None:
        raise RequestError(f"The form has no file; send it as {file_field!r}.", param=file_field)
    return Form(reader.fields, reader.filename, path)


async def _bounded(request: Request[Any, Any, Any], max_bytes: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise too_large("the form", max_bytes)
        yield chunk


class _FormReader:
    """Takes the parts of a form as they come."""

    def __init__(self, file_field: str, max_bytes: int) -> None:
        self._file_field = file_field
        self._max_bytes = max_bytes
        self.fields: dict[str, list[str]] = {}
        self.filename: str | None = None
        self._part: MultipartSegment | None = None
        self._value = bytearray()

    def take(self, parser: PushMultipartParser, chunk: bytes, file: BinaryIO) -> None:
        for event in parser.parse(chunk):
            if isinstance(event, MultipartSegment):
                self._begin(event)
            elif event is None:
                self._end()
            elif self._is_file():
                file.write(event)
            else:
                self._value += event
            self._check_size()

    def _is_file(self) -> bool:
        return self._part is not None and self._part.name == self._file_field

    def _begin(self, part: MultipartSegment) -> None:
        self._part, self._value = part, bytearray()
        if not self._is_file():
            if part.filename is not None:
                raise RequestError(
                    f"The form's file must be its field {self._file_field!r}, and it has one "
                    f"as {part.name!r}.",
                    param=part.name,
                )
            return
        if self.filename is not None:
            raise RequestError("The form has several files; send one.", param=part.name)
        if not part.filename:
            raise RequestError(
                "The form's file has no filename, whose ending says what format it has.",
                param="filename",
            )
        self.filename = part.filename

    def _end(self) -> None:
        if self._part is not None and not self._is_file():
            name = self._part.name or ""
            try:
                value = self._value.decode()
            except UnicodeDecodeError:
                raise RequestError(f"The field {name!r} is not UTF-8.", param=name) from None
            self.fields.setdefault(name, []).append(value)
        self._part = None

    def _check_size(self) -> None:
        if self._part is None:
            return
        if self._is_file():
            if self._part.bytes_received > self._max_bytes:
                raise too_large(self.filename or "the file", self._max_bytes)
        elif self._part.bytes_received > MAX_FIELD_BYTES:
            raise RequestError(
                f"The field {self._part.name!r} is larger than {MAX_FIELD_BYTES} bytes.",
                param=self._part.name,
            )
