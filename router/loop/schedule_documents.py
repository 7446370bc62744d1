"""The run documents of schedules: as they are written, and as they are executed.

    documents = ScheduleDocuments(config.schedules, requester, config.evaluation)
    await documents.check()                          # ConfigError names everything that is wrong
    scheduled = await documents.read("nightly")      # as it is now

What is executed has the schedule's gates as well, but for those that compare with the last accepted
run, and does not use the run cache.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from evaluators.document import RunDocument
from evaluators.reports import gates as gate_rules
from evaluators.reports.gates import Gate
from providers.errors import ConfigError, EvalrouterError, NotFoundError, RunDocumentError, closest
from router.config.documents import Document, DocumentPath
from router.config.evaluation import Evaluation
from router.config.schedules import Schedule
from router.evals.confinement import confine
from router.evals.requests import EvalRequester
from router.evals.run_document import complete_run, parse_run
from router.evals.validation import (
    build_metrics,
    check_document,
    check_names,
    decidable,
    resolve_metrics,
)

# One of a schedule's own gates; those of its document are `run.gates[...]`.
_GATE = re.compile(r"gates\[(\d+)\]")


class ScheduledDocument(NamedTuple):
    """What a schedule executes.

    Attributes:
        document: with all gates that do not name `last`, and without the run cache.
        base: the folder that relative paths start from.
        gates: all gates, those that name `last` as well.
    """

    document: RunDocument
    base: Path
    gates: tuple[Gate, ...]


class ScheduleDocuments:
    """Reads the documents of schedules, and checks them.

    Args:
        schedules: by name.
        requester: knows the routes.
        allowed: the config's section `evaluation`: what servers may open, load and connect to.

    Attributes:
        schedules: as given.
    """

    def __init__(
        self, schedules: Mapping[str, Schedule], requester: EvalRequester, allowed: Evaluation
    ) -> None:
        self.schedules = schedules
        self._requester = requester
        self._allowed = allowed

    def find(self, name: str) -> Schedule:
        """Return a schedule. Raises NotFoundError."""
        if name not in self.schedules:
            raise NotFoundError(
                f"There is no schedule {name!r}.{closest(name, self.schedules)}", param="name"
            )
        return self.schedules[name]

    async def check(self, written: Document | None = None) -> None:
        """Check what can be checked without the datasets, which may come later.

        Args:
            written: the config file, which says on which lines the schedules are.

        Raises:
            ConfigError: what is wrong, of all schedules.
        """
        problems = []
        for name in self.schedules:
            try:
                await self._check(name)
            except EvalrouterError as error:
                where = "" if written is None else _where(written, name, error.param)
                problems.append(f"{where}schedules.{name}: {error.message}")
        if problems:
            raise ConfigError("\n".join(problems), param="schedules")

    async def _check(self, name: str) -> None:
        scheduled = await self.read(name)
        document = resolve_metrics(scheduled.document, scheduled.base)
        metrics = build_metrics(document)
        check_document(self._requester.for_run(document), document, metrics)

    async def read(self, name: str) -> ScheduledDocument:
        """Return a schedule's document as it is now, with its gates.

        Raises:
            NotFoundError: no such schedule.
            RunDocumentError: the document cannot be read, or names what a server may not open, or
                a gate is wrong.
        """
        schedule = self.find(name)
        document, base = await asyncio.to_thread(self._written, schedule)
        check_names(document)
        # Before its metrics are built, which may be programs.
        document = await confine(document, self._allowed, datasets=None)
        if document.cache:
            raise RunDocumentError(
                "cache: what is scheduled is measured anew each time; leave it out", param="cache"
            )
        outputs = decidable(build_metrics(resolve_metrics(document, base)))
        has_baseline = document.baseline is not None
        given = [
            gate_rules.parse(
                text, outputs, has_baseline=has_baseline, has_last=True, param=f"gates[{n}]"
            )
            for n, text in enumerate(schedule.gates)
        ]
        written_gates = [
            gate_rules.parse(text, outputs, has_baseline=has_baseline, param=f"run.gates[{n}]")
            for n, text in enumerate(document.gates)
        ]
        plain = tuple(gate.text for gate in given if not gate.last)
        tag = tag_of(name)
        document = msgspec.structs.replace(
            document,
            name=document.name or name,
            cache=False,
            gates=tuple(dict.fromkeys((*document.gates, *plain))),
            tags=tuple(dict.fromkeys((*document.tags, tag))),
        )
        return ScheduledDocument(document, base, (*written_gates, *given))

    def _written(self, schedule: Schedule) -> tuple[RunDocument, Path]:
        """Return a schedule's document, and the folder that its relative paths start from."""
        if isinstance(schedule.run, str):
            path = Path(schedule.run)
            written, base = parse_run(path), path.parent
        else:
            written, base = Document.of(schedule.run), Path()
        return complete_run(written, base=base, within=self._allowed.roots), base


def _where(written: Document, name: str, param: str | None) -> str:
    """Return the file and the line of what is wrong with a schedule, as far as it is in there."""
    place: DocumentPath = ("schedules", name)
    if param and (gate := _GATE.fullmatch(param)):
        place = (*place, "gates", int(gate[1]))
    elif param:
        place = (*place, "run", param.removeprefix("run.").partition("[")[0])
    line = written.line(place)
    return f"{written.source}:{line}: " if line else f"{written.source}: "


def tag_of(name: str) -> str:
    """Return the tag that the runs of a schedule have."""
    return f"schedule:{name}"
