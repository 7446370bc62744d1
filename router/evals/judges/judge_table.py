"""Puts finished studies of judges side by side: agreement with people, memory, speed and cost.

    rows, difference = await tabulate_studies(store, ["cal_01", "cal_02"])
    row_titles(rows), table_sheets(rows)         # for people
    write_judge_rows(rows, file)

A row is one target in one study: a judge that several machines serve has several rows. Everything
in it was measured during the study; what was not is None.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import msgspec

from evaluators.judge.calibration import Calibration
from evaluators.judge.pairwise import PairwiseReport
from evaluators.judge.sheets import Sheet, interval
from evaluators.reports.report import dollars
from evaluators.stats.intervals import Interval
from providers.base import ModelFacts
from providers.errors import ConflictError
from router.evals.hardware_cost import HardwareCost
from router.store.judgements import JudgeUse
from router.store.protocol import Store
from router.store.studies import Study
from router.store.usage import TargetTime

_ABSENT = "-"
_GIB = 2**30


class JudgeTableRow(msgspec.Struct, frozen=True, kw_only=True):
    """A target that judged in a study.

    Attributes:
        study, judge, data: the study's id, its judge and the name of its dataset or run.
        target: `provider/model`, "" where no request of the study was answered.
        file, quantization, parameters, bits_per_weight: the model's weights.
        peak_memory_bytes: the peak resident memory of its server, where evalrouter started it.
        peak_gpu_memory_bytes: the most that PyTorch has reserved on a GPU there.
        pearson, pearson_low, pearson_high: the correlation of the judge's scores with people's and
            its 95% interval, over all of the study's targets; None for studies of pairs.
        n: the number of answers, or of pairs, that have a verdict.
        repeats: the number of verdicts on each answer, whose mean is compared with people's.
        verdicts: the number of verdicts, or of pairs, that the study needed.
        unparsed: how many of those could not be read or were not answered.
        requests: the number of requests that the target answered.
        seconds: the time in which at least one request was under way.
        requests_per_s, tokens_per_s: requests answered and tokens generated in those seconds.
        price_per_hour: US dollars for the machine, at the time of the study.
        machine_cost_usd: what those seconds cost.
        token_cost_usd: what the tokens of the answered requests cost.
        estimated: whether some of those tokens are estimated.
        cost_per_1000_usd: the two costs for 1,000 answered requests.
        note: why the weights are unknown, although they should be known; "" otherwise.
    """

    study: str
    judge: str
    data: str
    target: str
    file: str
    quantization: str
    parameters: int | None
    bits_per_weight: float | None
    peak_memory_bytes: int | None
    peak_gpu_memory_bytes: int | None
    pearson: float | None
    pearson_low: float | None
    pearson_high: float | None
    n: int | None
    repeats: int
    verdicts: int | None
    unparsed: int | None
    requests: int
    seconds: float
    requests_per_s: float | None
    tokens_per_s: float | None
    price_per_hour: float | None
    machine_cost_usd: float | None
    token_cost_usd: float | None
    estimated: bool
    cost_per_1000_usd: float | None
    note: str


async def tabulate_studies(
    store: Store, study_ids: Sequence[str]
) -> tuple[list[JudgeTableRow], str]:
    """Return the rows of finished studies, in their order, and why they cannot be compared, or "".

    Raises:
        NotFoundError: a study does not exist.
        ConflictError: a study is not finished, or is named twice.
    """
    studies: dict[str, Study] = {}
    rows: list[JudgeTableRow] = []
    for study_id in study_ids:
        study = await store.study(study_id)
        if study.state != "completed":
            raise ConflictError(f"{study.id} is {study.state}: evalrouter judge resume {study.id}")
        if study.id in studies:
            raise ConflictError(f"{study.id} is named twice")
        studies[study.id] = study
        rows += _rows(study, await store.served(study.id))
    return rows, _difference(list(studies.values()))


def _difference(studies: Sequence[Study]) -> str:
    """Return what makes the agreement in several studies incomparable, in a sentence; or ""."""
    aspects: dict[str, set[Any]] = {
        "data": {
            (study.name, study.document.get("hash"), study.document.get("limit"))
            for study in studies
        },
        "grading": {study.grading for study in studies},
        "number of repeats": {study.document.get("repeats", 1) for study in studies},
    }
    differing = [name for name, values in aspects.items() if len(values) > 1]
    if not differing:
        return ""
    return (
        f"The studies differ in their {', '.join(differing)}, so a difference between their "
        "correlations need not come from the judges."
    )


def _rows(study: Study, served: Sequence[TargetTime]) -> Iterator[JudgeTableRow]:
    report = study.report
    facts = msgspec.convert(report.get("models", {}), dict[str, ModelFacts])
    hardware = msgspec.convert(report.get("hardware", []), list[HardwareCost])
    machines = {machine.target: machine for machine in hardware}
    uses = msgspec.convert(report.get("use", []), list[JudgeUse])
    shared = {
        "study": study.id,
        "judge": ", ".join(study.judges),
        "data": study.name,
        "repeats": study.document.get("repeats", 1),
        "estimated": any(use.estimated for use in uses),
        **_agreement(study),
    }
    for time in served or [TargetTime(target="", seconds=0.0, requests=0, tokens=0)]:
        model = facts.get(time.target, ModelFacts())
        yield JudgeTableRow(
            **shared,
            **msgspec.structs.asdict(model),
            **_speed_and_cost(time, machines.get(time.target)),
        )


def _agreement(study: Study) -> dict[str, Any]:
    if "calibration" in study.report:
        calibration = msgspec.convert(study.report["calibration"], Calibration)
        verdicts = study.report["verdicts"]
        pearson = calibration.agreement["pearson"]
        return {
            "pearson": pearson.estimate,
            "pearson_low": pearson.low,
            "pearson_high": pearson.high,
            "n": calibration.scored,
            "verdicts": verdicts["wanted"],
            "unparsed": verdicts["wanted"] - verdicts["read"],
        }
    pairs = msgspec.convert(study.report["pairwise"], PairwiseReport)
    return {
        "pearson": None,
        "pearson_low": None,
        "pearson_high": None,
        "n": pairs.pairs - pairs.unparsed,
        "verdicts": pairs.pairs,
        "unparsed": pairs.unparsed,
    }


def _speed_and_cost(time: TargetTime, machine: HardwareCost | None) -> dict[str, Any]:
    by_token = None if time.unpriced or not time.requests else time.cost_usd
    by_hour = None if machine is None else machine.cost_usd
    # A target without a price for tokens may still be paid by the hour.
    costs = [cost for cost in (by_token, by_hour) if cost is not None]
    return {
        "target": time.target,
        "requests": time.requests,
        "seconds": time.seconds,
        "requests_per_s": time.requests / time.seconds if time.seconds else None,
        "tokens_per_s": time.tokens / time.seconds if time.tokens and time.seconds else None,
        "price_per_hour": None if machine is None else machine.price_per_hour,
        "machine_cost_usd": by_hour,
        "token_cost_usd": by_token,
        "cost_per_1000_usd": 1000 * sum(costs) / time.requests if costs else None,
    }


def write_judge_rows(rows: Sequence[JudgeTableRow], file: TextIO) -> None:
    """Write rows as CSV with a head; a missing value is an empty cell."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(JudgeTableRow.__struct_fields__)
    for row in rows:
        writer.writerow(
            str(value).lower() if isinstance(value, bool) else value
            for value in msgspec.structs.astuple(row)
        )


def row_titles(rows: Sequence[JudgeTableRow]) -> Iterator[str]:
    """Yield what each number at the left of the tables stands for."""
    for number, row in enumerate(rows, 1):
        weights = f" ({row.file})" if row.file else ""
        yield f"{number}: {row.target or row.judge}{weights} on {row.data}, {row.study}"


def table_sheets(rows: Sequence[JudgeTableRow]) -> list[Sheet]:
    """Return the two tables for people: agreement with the weights, then speed and cost."""
    return [
        Sheet(
            "Agreement with people",
            (
                "",
                "weights",
                "bits",
                "peak memory",
                "Pearson [95% interval]",
                "n",
                "unparsed",
            ),
            [
                (
                    f"{number}",
                    row.quantization or _ABSENT,
                    _number(row.bits_per_weight, 2),
                    _memory(row),
                    interval(_pearson(row)),
                    _count(row.n),
                    f"{_count(row.unparsed)} of {_count(row.verdicts)}",
                )
                for number, row in enumerate(rows, 1)
            ],
        ),
        Sheet(
            "Speed and cost",
            (
                "",
                "requests",
                "minutes",
                "tokens/s",
                "per hour",
                "cost",
                "per 1,000 judgements",
            ),
            [
                (
                    f"{number}",
                    f"{row.requests:,}",
                    f"{row.seconds / 60:,.1f}",
                    _number(row.tokens_per_s, 0),
                    _dollars(row.price_per_hour),
                    _dollars(_cost(row), estimated=_is_estimated(row)),
                    _dollars(row.cost_per_1000_usd, estimated=_is_estimated(row)),
                )
                for number, row in enumerate(rows, 1)
            ],
        ),
    ]


def _pearson(row: JudgeTableRow) -> Interval:
    return Interval(estimate=row.pearson, low=row.pearson_low, high=row.pearson_high, n=row.n or 0)


def _cost(row: JudgeTableRow) -> float | None:
    costs = [cost for cost in (row.token_cost_usd, row.machine_cost_usd) if cost is not None]
    return sum(costs) if costs else None


def _is_estimated(row: JudgeTableRow) -> bool:
    return row.estimated and bool(row.token_cost_usd)


def _dollars(amount: float | None, *, estimated: bool = False) -> str:
    return _ABSENT if amount is None else dollars(amount, estimated=estimated)


def _memory(row: JudgeTableRow) -> str:
    sizes = [("", row.peak_memory_bytes), ("GPU ", row.peak_gpu_memory_bytes)]
    known = [f"{kind}{size / _GIB:,.2f} GiB" for kind, size in sizes if size is not None]
    return ", ".join(known) or _ABSENT


def _number(value: float | None, digits: int) -> str:
    return _ABSENT if value is None else f"{value:,.{digits}f}"


def _count(value: int | None) -> str:
    return _ABSENT if value is None else f"{value:,}"
