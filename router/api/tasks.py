"""`/eval/tasks`: lists the names that a run document's `task` may have."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import get

from evaluators.tasks.registry import BrokenTask, Task, known


class TaskList(msgspec.Struct):
    """The tasks that have a name, and the installed ones that cannot be used."""

    data: list[Task]
    broken: list[BrokenTask]
    object: str = "list"


@get("/eval/tasks", tags=["eval"], summary="List tasks")
async def list_tasks() -> TaskList:
    """List tasks, which fill in what a run document leaves out; a file's task is not listed."""
    tasks = await asyncio.to_thread(lambda: list(known()))
    return TaskList(
        [task for task in tasks if isinstance(task, Task)],
        [task for task in tasks if isinstance(task, BrokenTask)],
    )
