"""`evalrouter judge`: measure how far judges can be trusted, and let them compare."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, get_args

import click
import msgspec
from rich.table import Column, Table

from evaluators.data.dataset_process import in_thread
from evaluators.data.sampling import MAX_ROWS
from evaluators.judge.metrics import Template, UseReference
from evaluators.judge.prometheus import Style
from evaluators.judge.sheets import change_sheets, interval, table
from evaluators.reports.report import dollars
from providers.errors import EvalrouterError, RunDocumentError
from router.cli.commands import (
    Commands,
    config_option,
    err,
    json_option,
    out,
    print_json,
    print_table,
    with_services,
)
from router.cli.completion import complete_runs
from router.config.loading import load
from router.config.schema import Config
from router.datasets.registry import parse_columns
from router.evals.hardware_cost import HardwareCost
from router.evals.judges.judge_table import (
    JudgeTableRow,
    row_titles,
    table_sheets,
    tabulate_studies,
    write_judge_rows,
)
from router.evals.judges.label_plans import (
    NEXT,
    SCORES,
    PlannedLabels,
    label_plan,
    plan_run_labels,
)
from router.evals.judges.people_labels import (
    LabelledAnswers,
    StoredLabels,
    keep_run_labels,
    read_labels,
)
from router.evals.judges.report import JudgeReport
from router.evals.judges.rubric_use import rubric_marks
from router.evals.judges.studies import CalibrationPlan, PairwisePlan, StudyProgress, calibration_of
from router.evals.judges.study_export import (
    StudyJudgement,
    exported_judgements,
    write_csv,
    write_parquet,
)
from router.evals.judges.study_report import compared, html, sheets, title, warnings
from router.evals.tables import FORMATS, Format, write_table
from router.store.judgements import JudgeUse
from router.store.studies import Study
from router.store.usage import EmbeddingUse

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services

html_option = click.option(
    "--html",
    "html_path",
    type=click.Path(path_type=Path),
    help="Also write the report as a fragment of HTML.",
)
rubric_option = click.option(
    "--rubric", help="A stock rubric or a YAML file. Default: the rows' own, else helpfulness."
)
style_option = click.option(
    "--style", type=click.Choice(get_args(Style)), default="prometheus-2", show_default=True
)
template_option = click.option(
    "--template",
    type=click.Choice(get_args(Template)),
    default="chat",
    show_default=True,
    help="raw: for a completions endpoint that applies no template.",
)
retries_option = click.option(
    "--retries",
    type=click.IntRange(0, 10),
    default=2,
    show_default=True,
    help="Repeat a request so often when its verdict cannot be read.",
)
concurrency_option = click.option(
    "--concurrency", type=click.IntRange(1, 1024), default=16, show_default=True
)
limit_option = click.option("--limit", type=click.IntRange(1, MAX_ROWS), help="Only so many rows.")


@click.group("judge", cls=Commands)
def judge() -> None:
    """Measure how far judges can be trusted, and let them compare."""


@judge.command("calibrate")
@click.option("--judge", "route", required=True, help="The route that judges.")
@click.option(
    "--dataset", required=True, help="Answers with people's scores, or pairs with their labels."
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="COLUMN=KNOWN",
    help="A column of the file and the name it is known by: instruction, response, score, ...",
)
@rubric_option
@click.option("--kind", default="", help="Another judge than Prometheus, groundedness for example.")
@style_option
@template_option
@click.option(
    "--reference",
    type=click.Choice(get_args(UseReference)),
    default="auto",
    show_default=True,
    help="Whether the judge sees the reference answer.",
)
@click.option("--repeats", type=click.IntRange(1, 100), default=1, show_default=True)
@retries_option
@concurrency_option
@limit_option
@html_option
@config_option
@json_option
def judge_calibrate(
    *,
    route: str,
    dataset: str,
    columns: tuple[str, ...],
    rubric: str | None,
    kind: str,
    style: Style,
    template: Template,
    reference: UseReference,
    repeats: int,
    retries: int,
    concurrency: int,
    limit: int | None,
    html_path: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Measure a judge's agreement with people, with itself, and its biases."""
    plan = CalibrationPlan(
        judge=route,
        dataset=dataset,
        columns=parse_columns(columns),
        rubric=rubric,
        kind=kind,
        style=style,
        template=template,
        reference=reference,
        repeats=repeats,
        retries=retries,
        concurrency=concurrency,
        limit=limit,
    )

    async def begin(services: Services) -> Study:
        return await services.studies.calibration(plan)

    _execute(load(config_path), begin, as_json=as_json, html_path=html_path)


@judge.command("compare")
@click.argument("run_id", shell_complete=complete_runs)
@click.argument("first")
@click.argument("second")
@click.option("--judge", "route", required=True, help="The route that judges.")
@rubric_option
@style_option
@template_option
@retries_option
@concurrency_option
@limit_option
@html_option
@config_option
@json_option
def judge_compare(
    *,
    run_id: str,
    first: str,
    second: str,
    html_path: Path | None,
    config_path: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Let a judge compare two routes' answers of a run, in both orders."""
    _compare_in_pairs(
        "comparison",
        (first, second),
        {"run": run_id, **options},
        load(config_path),
        as_json=as_json,
        html_path=html_path,
    )


@judge.command("tournament")
@click.argument("run_id", shell_complete=complete_runs)
@click.argument("routes", nargs=-1)
@click.option("--judge", "route", required=True, help="The route that judges.")
@click.option("--full", is_flag=True, help="All pairs on every sample, instead of a ring.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="The seed of the schedule.",
)
@rubric_option
@style_option
@template_option
@retries_option
@concurrency_option
@limit_option
@html_option
@config_option
@json_option
def judge_tournament(
    *,
    run_id: str,
    routes: tuple[str, ...],
    html_path: Path | None,
    config_path: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Rate the ROUTES of a run (all without any) by a judge's comparisons."""
    config = load(config_path)
    if not routes:

        async def read(services: Services) -> tuple[str, ...]:
            return tuple((await services.runs.find(run_id)).document["routes"])

        routes = with_services(config, read)
    _compare_in_pairs(
        "tournament",
        routes,
        {"run": run_id, **options},
        config,
        as_json=as_json,
        html_path=html_path,
    )


@judge.command("resume")
@click.argument("study_id")
@html_option
@config_option
@json_option
def judge_resume(
    study_id: str, html_path: Path | None, config_path: Path | None, as_json: bool
) -> None:
    """Continue a study that was stopped; no finished judgement is paid for again."""

    async def find(services: Services) -> Study:
        return await services.store.study(study_id)

    _execute(load(config_path), find, as_json=as_json, html_path=html_path)


@judge.command("list")
@click.option("--judge", "route", help="Only this judge's.")
@click.option("--rubric", help="Only those that used it: a stock rubric, a file, or its 12 digits.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@config_option
@json_option
def judge_list(
    route: str | None, rubric: str | None, limit: int, config_path: Path | None, as_json: bool
) -> None:
    """List studies, newest first, with their results."""
    graded = () if rubric is None else rubric_marks(rubric, files=True)

    async def read(services: Services) -> list[Study]:
        return await services.store.studies(judge=route, graded=graded, limit=limit)

    studies = with_services(load(config_path), read)
    if as_json:
        print_json(studies)
        return
    rows = Table(Column("study", no_wrap=True), "state", "judge", "of", "Pearson", "kappa (quad.)")
    for study in studies:
        pearson = quadratic = "-"
        if "calibration" in study.report:
            agreement = calibration_of(study).agreement
            pearson = interval(agreement["pearson"], 2)
            quadratic = interval(agreement["kappa_quadratic"], 2)
        rows.add_row(study.id, study.state, ", ".join(study.judges), study.name, pearson, quadratic)
    print_table(rows, empty="No studies of judges yet.")


@judge.command("show")
@click.argument("study_id")
@html_option
@config_option
@json_option
def judge_show(
    study_id: str, html_path: Path | None, config_path: Path | None, as_json: bool
) -> None:
    """Show a study's report."""

    async def read(services: Services) -> Study:
        return await services.store.study(study_id)

    study = with_services(load(config_path), read)
    if as_json:
        _write_html(study, html_path)
        print_json(study)
        return
    _print(study, as_json=False, html_path=html_path)


@judge.command("table")
@click.argument("study_ids", nargs=-1, required=True, metavar="STUDY...")
@click.option("--csv", "as_csv", is_flag=True, help="Write all columns as CSV.")
@config_option
@json_option
def judge_table(
    study_ids: tuple[str, ...], as_csv: bool, config_path: Path | None, as_json: bool
) -> None:
    """Compare finished studies: correlation with people, bits, memory, speed and cost."""
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other.")

    async def read(services: Services) -> tuple[list[JudgeTableRow], str]:
        return await tabulate_studies(services.store, study_ids)

    rows, difference = with_services(load(config_path), read)
    if as_csv:
        write_judge_rows(rows, sys.stdout)
        return
    if as_json:
        print_json(rows)
        return
    for line in row_titles(rows):
        out.print(line, highlight=False, soft_wrap=True, markup=False)
    for sheet in table_sheets(rows):
        out.print(table(sheet))
    notes = [f"{row.target}: {row.note}" for row in rows if row.note]
    for warning in [*dict.fromkeys(notes), *filter(None, [difference])]:
        out.print(f"! {warning}", highlight=False, soft_wrap=True, markup=False)


@judge.command("export")
@click.argument("study_id")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(FORMATS),
    help="Default: by the ending of --output, else jsonl. parquet needs --output.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="A file. Default: the standard output."
)
@config_option
def judge_export(
    study_id: str, file_format: Format | None, output: Path | None, config_path: Path | None
) -> None:
    """Export a study's judgements: the judge's feedback and the verdict of every request."""

    async def read(services: Services) -> list[StudyJudgement]:
        study = await services.store.study(study_id)
        rows = exported_judgements(services.studies, services.store, study)
        return [row async for row in rows]

    kind = file_format or (output.suffix[1:].lower() if output else "")
    if kind == "parquet" and output is None:
        raise click.UsageError("parquet is not text: name a file with --output.")
    rows = with_services(load(config_path), read)
    as_csv = kind == "csv"
    if output is None:
        _write(rows, sys.stdout, as_csv=as_csv)
        return
    try:
        if kind == "parquet":
            write_parquet(rows, output)
            return
        with output.open("w", encoding="utf-8", newline="") as file:
            _write(rows, file, as_csv=as_csv)
    except OSError as error:
        raise RunDocumentError(f"{output}: {error.strerror}") from None


def _write(rows: Iterable[StudyJudgement], file: TextIO, *, as_csv: bool) -> None:
    if as_csv:
        write_csv(rows, file)
        return
    for row in rows:
        file.write(msgspec.json.encode(row).decode() + "\n")


@judge.command("label-plan")
@click.argument("run_id", shell_complete=complete_runs)
@click.option(
    "--width",
    type=float,
    required=True,
    help="Of the corrected interval, from end to end.",
)
@click.option("--output-name", help="The judge's score to correct, where the run has several.")
@click.option("--route", help="The route whose answers to label, where the run has several.")
@click.option("--people", help="The column with people's scores so far. Default: the metric's own.")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the draw."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Write the answers as a dataset to label: CSV if the name ends in .csv, else JSON lines.",
)
@config_option
@json_option
def judge_label_plan(
    *,
    run_id: str,
    width: float,
    output_name: str | None,
    route: str | None,
    people: str | None,
    seed: int,
    output: Path | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Choose the answers of a run that people should score, so that its judge can be corrected."""

    async def read(services: Services) -> PlannedLabels:
        return await plan_run_labels(
            services.store,
            run_id,
            width=width,
            output=output_name,
            route=route,
            people=people,
            seed=seed,
        )

    planned = with_services(load(config_path), read)
    if output is not None:
        try:
            _write_rows(planned.rows, output)
        except OSError as error:
            raise RunDocumentError(f"{output}: {error.strerror}") from None
    if as_json:
        print_json(label_plan(planned))
        return
    _print_plan(planned, output)


def _write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    ending = path.suffix.lower()
    if ending == ".csv":
        columns = dict.fromkeys(name for row in rows for name in row)
        write_table(path, "csv", dict.fromkeys(columns, "string"), [rows])
        return
    if ending in {".parquet", ".tsv"}:
        raise RunDocumentError(f"{path}: people fill in .csv or .jsonl; name such a file")
    lines = [msgspec.json.encode(row).decode() + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


@judge.command("labels")
@click.argument("run_id", shell_complete=complete_runs)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--output-name", help="The judge's score that people gave, where the run has several."
)
@click.option("--route", help="The route whose answers people scored, where the run has several.")
@click.option("--replace", is_flag=True, help="Drop earlier labels that the file does not have.")
@config_option
@json_option
def judge_labels(
    *,
    run_id: str,
    file: Path,
    output_name: str | None,
    route: str | None,
    replace: bool,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Correct a run's judge by people's scores of its answers.

    FILE is that of `judge label-plan --output` with people's scores in the column `human`, in any
    format that datasets have. Labels of other texts than the run's answers are refused.
    """

    async def keep(services: Services) -> StoredLabels:
        labels = LabelledAnswers(
            labels=await in_thread(read_labels, file),
            route=route,
            output=output_name,
            replace=replace,
        )
        return await keep_run_labels(services.store, run_id, labels)

    stored = with_services(load(config_path), keep)
    if as_json:
        print_json(stored)
        return
    out.print(
        f"{stored.output} of {stored.route}: {stored.labels:,} of {stored.answers:,} answers have "
        f"people's scores; see evalrouter eval show {stored.run}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def _print_plan(planned: PlannedLabels, output: Path | None) -> None:
    for line in _plan_lines(planned, output):
        out.print(line, highlight=False, soft_wrap=True, markup=False)


def _plan_lines(planned: PlannedLabels, output: Path | None) -> Iterator[str]:
    plan, width = planned.plan, planned.width
    source = (
        "that of the labels so far" if plan.measured else "taken as large as the scores' spread"
    )
    enough = f"about {plan.needed:,} are needed for an interval {width:g} wide"
    # The width that so many labels give is found by a search and a little off.
    if plan.expected_width > 1.01 * width:
        enough = (
            f"even all of them would make the interval {plan.expected_width:.3g} wide, not "
            f"{width:g}; the run needs more samples for that"
        )
    yield (
        f"{planned.output} of {planned.route}: {planned.labelled:,} of {len(planned.rows):,} "
        f"answers have people's scores; {enough} (the judge's error, {source}: {plan.error:.3g})"
    )
    ids = [str(planned.rows[place]["id"]) for place in plan.chosen]
    if not ids:
        yield "No further labels are needed."
    elif output is None:
        yield (
            f"label next ({len(ids):,}, each answer was drawn by its own chance): {', '.join(ids)}"
        )
    else:
        yield (
            f"label next ({len(ids):,}, each answer was drawn by its own chance): the rows of "
            f"{output} whose `{NEXT}` is true, in the column `{SCORES}`; then: evalrouter judge "
            f"labels {planned.run} {output} --route {planned.route}"
        )


@judge.command("diff")
@click.argument("first")
@click.argument("second")
@config_option
@json_option
def judge_diff(first: str, second: str, config_path: Path | None, as_json: bool) -> None:
    """Compare two calibrations: a judge on two dates, or two judges."""

    async def read(services: Services) -> tuple[Study, Study]:
        return await services.store.study(first), await services.store.study(second)

    studies = with_services(load(config_path), read)
    changes = compared(*studies)
    if as_json:
        print_json(changes)
        return
    for name, study in zip(("first: ", "second:"), studies, strict=True):
        out.print(f"{name} {title(study)}", highlight=False, soft_wrap=True)
    for sheet in change_sheets(changes):
        out.print(table(sheet))


def judge_line(judge: JudgeReport) -> str:
    """Return what a judge took in a run, in one line."""
    parts = [f"judge {judge.judge} ({judge.metric}): {judge.calls:,} requests"]
    if judge.reused:
        parts.append(f"{judge.reused:,} paid for before")
    parts.append(f"{judge.tokens:,} tokens")
    parts.append(money_of(judge))
    if judge.requests_per_s is not None:
        parts.append(f"{judge.requests_per_s:.1f} requests/s")
    if judge.pearson is not None:
        parts.append(f"Pearson with people {judge.pearson:.2f} ({judge.calibration})")
    else:
        parts.append("calibrated" if judge.calibrated else "uncalibrated")
    return ", ".join(parts)


def money_of(use: JudgeUse | EmbeddingUse) -> str:
    """Return what requests of a run cost, as far as that is known."""
    if use.unpriced:
        return "price unknown"
    return dollars(use.cost_usd, estimated=bool(use.estimated and use.cost_usd))


def embedding_line(use: EmbeddingUse) -> str:
    """Return what embeddings took in a run, in one line."""
    failed = f" ({use.failed:,} failed)" if use.failed else ""
    target = f" by {use.target}" if use.target not in ("", use.route) else ""
    return (
        f"embeddings {use.route}{target}: {use.requests:,} requests{failed}, "
        f"{use.tokens:,} tokens, {money_of(use)}"
    )


def machine_line(machine: HardwareCost) -> str:
    """Return what a machine that is paid by the hour took, in one line."""
    rate = f", {machine.tokens_per_s:,.0f} tokens/s" if machine.tokens_per_s else ""
    return (
        f"machine of {machine.target}: {machine.seconds / 60:,.1f} min at "
        f"{dollars(machine.price_per_hour)}/h = {dollars(machine.cost_usd)}, "
        f"{machine.requests:,} requests, {dollars(machine.cost_per_request_usd)} each{rate}"
    )


def _compare_in_pairs(
    kind: Literal["comparison", "tournament"],
    routes: tuple[str, ...],
    options: dict[str, Any],
    config: Config,
    *,
    as_json: bool,
    html_path: Path | None,
) -> None:
    options["judge"] = options.pop("route")
    plan = PairwisePlan(routes=routes, **options)

    async def begin(services: Services) -> Study:
        return await services.studies.pairwise(plan, kind)

    _execute(config, begin, as_json=as_json, html_path=html_path)


def _execute(
    config: Config,
    begin: Callable[[Services], Awaitable[Study]],
    *,
    as_json: bool,
    html_path: Path | None,
) -> None:
    """Execute a study in this process, with progress on stderr."""
    started: list[str] = []

    async def execute(services: Services) -> Study:
        study = await begin(services)
        started.append(study.id)
        live = StudyProgress()
        task = asyncio.create_task(services.studies.execute(study.id, live=live))
        try:
            await _watch(study.id, live, task)
            return await task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, EvalrouterError):
                await task

    try:
        study: Study = with_services(config, execute)
    except BaseException:
        for study_id in started:
            err.print(f"continue with: evalrouter judge resume {study_id}", highlight=False)
        raise
    _print(study, as_json=as_json, html_path=html_path)


async def _watch(study_id: str, live: StudyProgress, task: asyncio.Task[Study]) -> None:
    """Print a line at the start, then one for each tenth of the study."""
    printed = -1
    while not task.done():
        await asyncio.wait({task}, timeout=0.1)
        tenth = 10 * live.done // live.cases if live.cases else -1
        if tenth > printed:
            printed = tenth
            cost = f", {dollars(live.cost_usd)}" if live.cost_usd else ""
            err.print(f"{study_id}: {live.done}/{live.cases}{cost}", highlight=False)


def _write_html(study: Study, html_path: Path | None) -> None:
    if html_path is None:
        return
    try:
        html_path.write_text(html(study), encoding="utf-8")
    except OSError as error:
        raise RunDocumentError(f"{html_path}: {error.strerror}") from None


def _print(study: Study, *, as_json: bool, html_path: Path | None) -> None:
    _write_html(study, html_path)
    if as_json:
        print_json(msgspec.structs.replace(study, detail={}))
        return
    out.print(title(study), highlight=False, soft_wrap=True)
    for sheet in sheets(study):
        out.print(table(sheet))
    for warning in warnings(study):
        out.print(f"! {warning}", highlight=False, soft_wrap=True, markup=False)
    if not study.report:
        out.print(f"It is {study.state}: evalrouter judge resume {study.id}", highlight=False)
