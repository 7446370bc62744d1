"""Results as flat rows, for pandas or for a loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from providers.errors import MissingExtraError
from router.client.types import JudgementRow, Leaderboard, Outcome, SampleRow

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T", bound=Mapping[str, Any])


class Rows(list[T]):
    """A list of dicts that pandas can take.

    rows = client.runs.scores(run_id)
    rows[0]["estimate"], rows.to_pandas()
    """

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with a column for each key; a dict inside a row becomes `key.inner`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return frame(self)


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows as a DataFrame. Raises MissingExtraError without pandas."""
    try:
        import pandas  # noqa: PLC0415 - an extra, and it takes a second to import
    except ImportError:
        raise MissingExtraError("A DataFrame", "pandas") from None
    return pandas.json_normalize([dict(row) for row in rows])


def score_rows(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Yield a row for each route and output, with its difference from the baseline."""
    run, report = outcome["run"], outcome["report"]
    compared = {(row["route"], row["output"]): row for row in report["comparisons"]}
    for route in report["routes"]:
        for score in route["scores"]:
            against = compared.get((route["route"], score["output"]))
            yield {
                "run_id": run["id"],
                "run": run["name"],
                "route": route["route"],
                **{key: score[key] for key in ("output", "estimate", "low", "high", "n")},
                "coverage": score["coverage"],
                "baseline": report["baseline"] if against else None,
                "difference": against["difference"] if against else None,
                "difference_low": against["low"] if against else None,
                "difference_high": against["high"] if against else None,
                "p_holm": against["p_holm"] if against else None,
                "verdict": against["verdict"] if against else None,
            }


def entry_rows(board: Leaderboard) -> Iterator[dict[str, Any]]:
    """Yield a row for each entry of each table of an experiment."""
    for table in board["boards"]:
        shared = {
            "output": table["output"]["name"],
            "dataset": table["dataset"],
            "dataset_hash": table["dataset_hash"],
            "samples": table["samples"],
            "signature": table["signature"],
            "apart": table["apart"],
        }
        for entry in table["entries"]:
            yield {**shared, **entry}


def flat_sample(row: SampleRow) -> dict[str, Any]:
    """Return a sample's row with its columns as `row.NAME` and its scores as `score.OUTPUT`.

    A judge's score of a repeat is `score.OUTPUT.JUDGE.REPEAT`.
    """
    answer: Mapping[str, Any] = row["answer"] or {}
    usage = answer.get("usage") or {}
    return {
        "sample": row["sample"]["id"],
        "route": row["route"],
        "repeat": row["repeat"],
        "text": answer.get("text"),
        "thinking": answer.get("thinking"),
        "shortfall": answer.get("shortfall"),
        "error": answer.get("error"),
        "error_code": answer.get("error_code"),
        "target": answer.get("target"),
        "model": answer.get("model"),
        "finish_reason": answer.get("finish_reason"),
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "cost_usd": answer.get("cost_usd"),
        "estimated": answer.get("estimated"),
        "first_byte_s": answer.get("first_byte_s"),
        "total_s": answer.get("total_s"),
        "cached": answer.get("cached"),
        "cached_from": answer.get("cached_from"),
        **{f"score.{score['output']}": score["value"] for score in row["scores"]},
        **{
            f"score.{score['output']}.{verdict['judge']}.{verdict['repeat']}": verdict["value"]
            for score in row["scores"]
            # In the order of the attempts, of which the last one counts.
            for verdict in score.get("verdicts", ())
        },
        **{f"row.{name}": value for name, value in row["sample"]["fields"].items()},
    }


def flat_judgement(row: JudgementRow) -> dict[str, Any]:
    """Return what a judge answered, with the columns of its answer."""
    values: Mapping[str, object] = row
    answer: Mapping[str, Any] = row["judgement"]["answer"]
    usage = answer.get("usage") or {}
    shared = ("metric", "judge", "sample_id", "repeat", "attempt", "request_hash", "at", "reused")
    of_answer = ("error", "finish_reason", "target", "model", "cost_usd")
    return {
        **{name: values[name] for name in shared},
        "feedback": answer.get("text"),
        **{name: answer.get(name) for name in of_answer},
        "seconds": answer.get("total_s"),
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
    }
