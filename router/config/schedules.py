"""`schedules:` of the config: run documents that are executed at their times."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from router.config.cron import CronLine, cron_problems
from router.config.documents import Problem, convert_or_collect
from router.config.section import Section, SectionReader

# It is part of a tag, which ends up in shells and addresses.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Schedule(Section, frozen=True, kw_only=True):
    """A run document that is executed again and again.

    Attributes:
        run: the run document: its path, or the document itself. It is read, and its routes and its
            dataset are looked up, whenever it is due. Every answer is requested anew: the run cache
            is not used.
        cron: when it is due: minute, hour, day of the month, month and day of the week, such as
            `30 2 * * *` for 02:30 every day.
        timezone: where these are read, such as `Europe/Berlin`.
        gates: more gates, which may name `last`: the last accepted run, such as
            `rougeL non_inferior last by 0.02`.
        accept: which runs become the last accepted one without a person: the `first` that completes
            and passes, or every one that `passed`.
        enabled: whether it is executed at its times.
        catch_up: whether the last time that passed while no server ran is made up for. Times before
            that one are recorded as missed.
        keep: how many of its runs are kept, beside the last accepted one; older ones are deleted,
            and their scores stay in its history. None for all.
    """

    run: str | dict[str, Any]
    cron: Annotated[str, msgspec.Meta(max_length=200)]
    timezone: Annotated[str, msgspec.Meta(max_length=100)] = "UTC"
    gates: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    accept: Literal["first", "passed"] = "first"
    enabled: bool = True
    catch_up: bool = True
    keep: Annotated[int, msgspec.Meta(ge=1, le=10_000)] | None = None

    @property
    def line(self) -> CronLine:
        """When it is due."""
        return CronLine(self.cron, self.timezone)


def schedule_problems(
    reader: SectionReader, schedules: Mapping[str, Schedule]
) -> Iterator[Problem]:
    """Yield names that cannot be, lines and time zones that cannot be read, and wrong documents.

    What only the routes and metrics can say is checked by
    `router.loop.schedule_documents.check_schedules`.
    """
    document = reader.document
    for name, schedule in schedules.items():
        place = ("schedules", name)
        if not _NAME.fullmatch(name):
            yield document.problem(
                place,
                "a schedule's name has letters, digits, '.', '_' and '-' only, 64 at most, and "
                "begins with a letter or digit",
            )
        yield from cron_problems(document, place, schedule.cron, schedule.timezone)
        if isinstance(schedule.run, str):
            if not schedule.run:
                yield document.problem((*place, "run"), "name the run document, or write it here")
        elif "task" not in schedule.run:
            # Only where it is needed: NumPy and the rest take a tenth of a second to import.
            from evaluators.document import RunDocument  # noqa: PLC0415

            problems: list[Problem] = []
            convert_or_collect(document, RunDocument, problems, place=(*place, "run"))
            yield from problems
