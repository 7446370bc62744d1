"""`/eval/tasks`: what a run document's `task` may name."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import get

from evaluators.tasks.registry import Broken, Task, known


class TaskList(msgspec.Struct):
    """The tasks that have a name, and the installed ones that cannot be used."""

    data: list[Task]
    broken: list[Broken]
    object: str = "list"


@get("/eval/tasks", tags=["eval"], summary="List tasks")
async def list_tasks() -> TaskList:
    """Tasks fill in what a run document does not say; a file's task is not listed."""
    found = await asyncio.to_thread(lambda: list(known()))
    return TaskList(
        [one for one in found if isinstance(one, Task)],
        [one for one in found if isinstance(one, Broken)],
    )
