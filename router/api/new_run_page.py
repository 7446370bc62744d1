"""The page that begins a run: a form, what its run would take, and the run itself.

The form stands for a run document (`run_form.py`), which is checked, estimated and begun as
`POST /eval` does. A form with a mistake comes back as it was typed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import msgspec
from litestar import Request, Response
from litestar.params import FromQuery

from evaluators.judge.kinds import BUILT_IN
from evaluators.judge.rubrics import STOCK
from evaluators.reports.cells import plural
from evaluators.tasks.registry import Task, known
from providers.errors import EvalrouterError, InputError
from router.api.access import Caller, InjectedCaller
from router.api.evals import created_run, estimated_run
from router.api.injection import Injected
from router.api.page_layout import action, done, form_again, page, rendered, utc
from router.api.run_form import (
    RunForm,
    as_yaml,
    document_of_form,
    errors_by_field,
    form_of,
    read_form,
)
from router.api.sent_forms import InjectedSentForms, new_form_id
from router.api.sign_in import read_field_lists
from router.config.documents import Document
from router.datasets.registry import SHOWN_HASH, version_name
from router.datasets.shipped import SHIPPED
from router.evals import estimate_text
from router.evals.estimate import Detectable, Estimate
from router.evals.plugins import MetricEntry, metrics
from router.services import Services
from router.store.datasets import DatasetPage

# Of what a server has any number of, the form lists so many; others are typed.
_LISTED_DATASETS = 100
_LISTED_ROUTES = 60
_LISTED_MODELS = 40
# The metrics that come first, and what for; the others are folded away.
_RECOMMENDED = {
    "rouge": "for summaries: the words and phrases that are also in the reference",
    "chrf": "for translations and other texts: letters in common with the reference",
    "exact_match": "for short answers that are right or wrong",
    "f1": "for short answers that can be right in part",
    "json_valid": "for answers that are to be JSON; needs no reference",
    "length": "counts words and characters; needs no reference",
}


class MetricChoice(NamedTuple):
    """A metric that the form lists.

    Attributes:
        name: its name.
        hint: what it measures, or why it cannot be used.
        can_use: whether it can be used here.
    """

    name: str
    hint: str
    can_use: bool = True


class DatasetChoice(NamedTuple):
    """A dataset that the form lists.

    Attributes:
        name: as a document names it.
        title: as the form shows it.
    """

    name: str
    title: str


class FormChoices(NamedTuple):
    """What the form lists.

    Attributes:
        datasets: those that are registered, newest first, then those that ship.
        registered: whether any is registered.
        routes: the names of routes.
        more_routes: how many routes are not listed.
        models: provider to some of its models, as `provider/model`.
        tasks: the tasks that have a name.
        recommended: a few of the metrics that need no option, for a beginning.
        metrics: the others.
        with_options: the names of those that do.
        judges: what a judge may judge by, by metric.
    """

    datasets: list[DatasetChoice]
    registered: bool
    routes: list[str]
    more_routes: int
    models: Mapping[str, list[str]]
    tasks: list[Task]
    recommended: list[MetricChoice]
    metrics: list[MetricChoice]
    with_options: list[str]
    judges: Mapping[str, tuple[str, ...]]


class EstimateView(NamedTuple):
    """An estimate in words.

    Attributes:
        estimate: what the run would take.
        cost, time: of all targets, and of judges.
        rows: by target.
        sources: where their numbers are from, each with the names of the rows.
        promise: what the differences are.
        differences: by output: the smallest difference, and what it is computed from.
        smallest: the smallest difference of the primary or first output; "" without one, or where
            the run tests none.
        smallest_of: the name of that output; "" without one.
    """

    estimate: Estimate
    cost: str
    time: str
    rows: list[estimate_text.EstimateRow]
    sources: dict[str, list[str]]
    promise: str
    differences: list[tuple[str, str, str]]
    smallest: str
    smallest_of: str


@page("/runs/new")
async def new_run(
    *,
    services: Injected,
    caller: InjectedCaller,
    dataset: FromQuery[str] = "",
    like: FromQuery[str] = "",
    experiment: FromQuery[str] = "",
    route: FromQuery[list[str] | None] = None,
) -> Response[str]:
    """Show the form; `like` is a run whose document it has, the others fill it in."""
    form = RunForm()
    if like:
        form = form_of((await services.runs.find(like)).document)
    if dataset:
        form = msgspec.structs.replace(form, dataset=dataset, other_dataset="")
    if experiment:
        form = msgspec.structs.replace(form, experiment=experiment)
    if route:
        form = msgspec.structs.replace(form, models="\n".join(route))
    return await _form(services, caller, form)


@action("/pages/runs/new")
async def begin_run(
    services: Injected,
    caller: InjectedCaller,
    forms: InjectedSentForms,
    request: Request[Any, Any, Any],
) -> Response[Any]:
    """Estimate the form's run, begin it, or show the form as a document or in fields.

    The button's name is `do`: `estimate`, `start`, `document`, `fields`.
    """
    fields = await read_field_lists(request)
    do = fields.get("do", ["estimate"])[0]
    form = read_form(fields)
    try:
        written = await asyncio.to_thread(document_of_form, form)
        if do == "start":

            async def start() -> Response[Any]:
                run = await created_run(services, written, key_id=caller.key_id)
                return done(f"/runs/{run.id}")

            return await forms.once(caller.key_id, fields, start)
        if do in {"document", "fields"}:
            changed = await asyncio.to_thread(_changed, written, do == "document")
            return form_again(await _form(services, caller, changed))
        estimate = await estimated_run(services, written)
    except EvalrouterError as error:
        if error.status >= 500:
            raise
        return form_again(await _form(services, caller, form, error=error), error.status)
    return form_again(await _form(services, caller, form, estimate=estimate))


def _changed(written: Document, whole: bool) -> RunForm:
    if whole:
        return RunForm(rest=as_yaml(written.data) if written.data else "", whole=True)
    return form_of(written.data)


async def _form(
    services: Services,
    caller: Caller,
    form: RunForm,
    *,
    error: EvalrouterError | None = None,
    estimate: Estimate | None = None,
) -> Response[str]:
    choices = await _choices(services)
    form = _ticked(form, choices)
    problems: Mapping[str, str] = {}
    if error is not None:
        written = error.problems if isinstance(error, InputError) else {}
        problems = written or {error.param or "": error.message}
    errors = errors_by_field(problems, form)
    return await rendered(
        "new_run.html",
        caller,
        title="Start a run",
        current="/runs",
        form=form,
        choices=choices,
        errors=errors,
        error="" if error is None else error.message,
        view=None if estimate is None else _view(estimate),
        form_id=new_form_id(),
        may_start=caller.reach_of("POST /eval") != "no",
    )


def _ticked(form: RunForm, choices: FormChoices) -> RunForm:
    """Return the form with what it lists ticked or chosen instead of typed."""
    listed = {*choices.routes, *(model for models in choices.models.values() for model in models)}
    typed = form.models.splitlines()
    routes = [*form.routes, *(name.strip() for name in typed if name.strip() in listed)]
    models = "\n".join(name for name in typed if name.strip() not in listed)
    dataset, other = form.dataset, form.other_dataset.strip()
    names = [choice.name for choice in choices.datasets]
    if other in names:
        dataset, other = other, ""
    elif dataset and dataset not in names:
        newest = next((name for name in names if name.partition("@")[0] == dataset), "")
        dataset, other = newest, other or ("" if newest else dataset)
    known = {entry.name for entry in (*choices.recommended, *choices.metrics)}
    unlisted = [name for name in form.metrics if name not in known]
    return msgspec.structs.replace(
        form,
        routes=tuple(dict.fromkeys(routes)),
        models=models,
        dataset=dataset,
        other_dataset=other,
        metrics=tuple(name for name in form.metrics if name in known),
        other_metrics="\n".join([*unlisted, *form.other_metrics.splitlines()]),
    )


async def _choices(services: Services) -> FormChoices:
    versions, listings, entries, tasks = await asyncio.gather(
        services.store.dataset_page(DatasetPage(limit=_LISTED_DATASETS)),
        services.model_lists.of(services.providers),
        asyncio.to_thread(_metric_entries),
        asyncio.to_thread(lambda: [task for task in known() if isinstance(task, Task)]),
    )
    datasets = [
        DatasetChoice(
            version_name(row),
            f"{row.name} ({row.rows:,} {plural('row', row.rows)}, {row.hash[:SHOWN_HASH]}, "
            f"{utc(row.created_at)} UTC)",
        )
        for row in versions
    ]
    shipped = [DatasetChoice(name, f"{name} (comes with evalrouter)") for name in SHIPPED]
    names = list(services.routes.table.names)
    plain = {entry.name: entry for entry in entries if not _needs_options(entry)}
    return FormChoices(
        datasets=[*datasets, *shipped],
        registered=bool(versions),
        routes=names[:_LISTED_ROUTES],
        more_routes=max(0, len(names) - _LISTED_ROUTES),
        models={
            provider: [f"{provider}/{model}" for model in listing.models[:_LISTED_MODELS]]
            for provider, listing in listings.items()
            if listing.models
        },
        tasks=tasks,
        recommended=[
            MetricChoice(name, hint) for name, hint in _RECOMMENDED.items() if name in plain
        ],
        metrics=[
            MetricChoice(name, _hint(entry), not entry.error)
            for name, entry in plain.items()
            if name not in _RECOMMENDED
        ],
        with_options=[entry.name for entry in entries if entry.name not in plain],
        judges={"prometheus": STOCK, "judge": BUILT_IN},
    )


def _needs_options(entry: MetricEntry) -> bool:
    """Return whether a metric needs an option, or one of several."""
    option = _reason(entry).partition(":")[0]
    return bool(entry.required) or option in entry.options


def _reason(entry: MetricEntry) -> str:
    return entry.error.removeprefix(f"metrics: {entry.name}: ")


def _hint(entry: MetricEntry) -> str:
    return _reason(entry) or entry.description.replace("`", "")


@cache
def _metric_entries() -> tuple[MetricEntry, ...]:
    """Return the metrics; what is installed does not change while a server runs."""
    return tuple(metrics())


def _view(estimate: Estimate) -> EstimateView:
    effects = estimate.detectable
    first = _first(effects) if effects and estimate.baseline else None
    return EstimateView(
        estimate,
        estimate_text.money(estimate.cost_usd, is_limit=estimate.at_most),
        estimate_text.total_time(estimate),
        list(map(estimate_text.in_words, estimate.targets)),
        estimate_text.sources(estimate.targets),
        estimate_text.promise(estimate) if effects else "",
        [(effect.output, estimate_text.size(effect), effect.sd_from) for effect in effects],
        "" if first is None else estimate_text.size(first),
        "" if first is None else first.output,
    )


def _first(effects: list[Detectable]) -> Detectable:
    """Return the difference in the output that decides, else in the first."""
    return next((effect for effect in effects if not effect.after_primary), effects[0])
