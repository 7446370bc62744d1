"""What the methods of `SqliteStore` about judges say to SQLite; see `sqlite_rows.py`."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlite_utils import Database

from evaluators.base import Answer, Judgement
from providers.errors import NotFoundError
from router.store.judgements import JudgementRow, JudgeUse
from router.store.studies import Study

PAGE = 500

_encode = msgspec.json.Encoder().encode
_answer = msgspec.json.Decoder(Answer).decode
_tokens = msgspec.json.Decoder(tuple[tuple[str, dict[str, float]], ...]).decode
_object = msgspec.json.Decoder(dict[str, Any]).decode

_COLUMNS = (
    "owner, metric, judge, sample_id, repeat, attempt, request_hash, at, answered, reused,"
    " cost_usd, prompt_tokens, completion_tokens, total_s, answer, tokens"
)
_INSERT = f"INSERT OR REPLACE INTO judgements ({_COLUMNS}) VALUES ({', '.join('?' * 16)})"  # noqa: S608 - constants
_ROW = "owner, metric, judge, sample_id, repeat, attempt, request_hash, at, reused, answer, tokens"


def keep(db: Database, row: JudgementRow) -> None:
    """A judgement; one that failed before is replaced."""
    answer = row.judgement.answer
    tokens = row.judgement.tokens
    db.execute(
        _INSERT,
        (
            row.owner,
            row.metric,
            row.judge,
            row.sample_id,
            row.repeat,
            row.attempt,
            row.request_hash,
            row.at,
            answer.text is not None,
            row.reused,
            answer.cost_usd,
            answer.usage.prompt_tokens,
            answer.usage.completion_tokens,
            answer.total_s,
            _encode(answer).decode(),
            _encode(tokens).decode() if tokens else None,
        ),
    )


def find(
    db: Database, owner: str, request_hash: str, repeat: int, attempt: int, *, anybody: bool
) -> JudgementRow | None:
    """The owner's judgement, else with `anybody` the newest one; never a failure."""
    found = db.execute(
        f"SELECT {_ROW} FROM judgements"  # noqa: S608 - constants
        " WHERE request_hash = ? AND repeat = ? AND attempt = ? AND answered"
        " AND (? OR owner = ?) ORDER BY owner = ? DESC, at DESC LIMIT 1",
        (request_hash, repeat, attempt, anybody, owner, owner),
    ).fetchone()
    return _row(found) if found else None


def page(
    db: Database, owner: str, sample_id: str | None, limit: int, after: int
) -> list[tuple[int, JudgementRow]]:
    """The owner's judgements in the order they came, each with its number."""
    return [
        (number, _row(rest))
        for number, *rest in db.execute(
            f"SELECT number, {_ROW} FROM judgements"  # noqa: S608 - constants
            " WHERE owner = ? AND number > ? AND (? IS NULL OR sample_id = ?)"
            " ORDER BY number LIMIT ?",
            (owner, after, sample_id, sample_id, limit),
        )
    ]


def use(db: Database, owner: str) -> list[JudgeUse]:
    """What the owner's judges took, by metric and judge."""
    return [
        JudgeUse(
            metric=metric,
            judge=judge,
            calls=calls,
            asked_again=again,
            failed=failed,
            reused=reused,
            cost_usd=cost,
            unpriced=unpriced,
            tokens=tokens,
            mean_s=seconds,
            target=target or "",
            model=model or "",
            first_at=first,
            last_at=last,
            estimated=estimated,
        )
        for (
            metric,
            judge,
            calls,
            again,
            failed,
            reused,
            cost,
            unpriced,
            tokens,
            seconds,
            target,
            model,
            first,
            last,
            estimated,
        ) in db.execute(
            "SELECT metric, judge, count(*), sum(attempt > 0), sum(NOT answered), sum(reused),"
            " coalesce(sum(CASE WHEN reused THEN 0 ELSE cost_usd END), 0),"
            " sum(answered AND NOT reused AND cost_usd IS NULL),"
            # Not sum(), which fails where it leaves 64 bits.
            " CAST(total(CASE WHEN reused THEN 0"
            "  ELSE coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0) END) AS INTEGER),"
            " avg(CASE WHEN reused THEN NULL ELSE total_s END),"
            " max(json_extract(answer, '$.target')), max(json_extract(answer, '$.model')),"
            " min(at), max(at),"
            # Older ones do not say.
            " sum(NOT reused AND coalesce(json_extract(answer, '$.estimated'), 0))"
            " FROM judgements WHERE owner = ? GROUP BY metric, judge ORDER BY metric, judge",
            (owner,),
        )
    ]


def tokens_of(db: Database, judge: str, metric: str) -> tuple[float, float] | None:
    """Means over the last ones that were counted; None where none was."""
    prompt, completion = db.execute(
        "SELECT avg(prompt_tokens), avg(completion_tokens) FROM (SELECT prompt_tokens,"
        " completion_tokens FROM judgements WHERE judge = ? AND metric = ? AND answered"
        " AND prompt_tokens IS NOT NULL AND completion_tokens IS NOT NULL"
        " ORDER BY number DESC LIMIT 200)",
        (judge, metric),
    ).fetchone()
    return None if prompt is None else (prompt, completion)


# calibrations, comparisons and tournaments

_STUDY = (
    "id, kind, judges, grading, name, state, document, created_at, finished_at, error, report,"
    " detail"
)
_PLACES = ", ".join("?" * 12)
_SET_STUDY = f"INSERT OR REPLACE INTO judge_studies ({_STUDY}) VALUES ({_PLACES})"  # noqa: S608


def set_study(db: Database, study: Study) -> None:
    """Add it, or write it anew."""
    db.execute(
        _SET_STUDY,
        (
            study.id,
            study.kind,
            _encode(study.judges).decode(),
            study.grading,
            study.name,
            study.state,
            _encode(study.document).decode(),
            study.created_at,
            study.finished_at,
            study.error,
            _encode(study.report).decode(),
            _encode(study.detail).decode(),
        ),
    )


def study(db: Database, study_id: str) -> Study:
    """By id, or by the beginning of one. Raises NotFoundError."""
    found = db.execute(
        f"SELECT {_STUDY} FROM judge_studies"  # noqa: S608 - constants
        " WHERE substr(id, 1, length(?)) = ? AND ? <> '' ORDER BY id LIMIT 2",
        (study_id, study_id, study_id),
    ).fetchall()
    if len(found) != 1 and not (found and found[0][0] == study_id):
        many = f"several begin with {study_id!r}" if found else f"there is no {study_id!r}"
        raise NotFoundError(f"{many} among the calibrations, comparisons and tournaments")
    return _study(found[0])


def studies(db: Database, kind: str | None, judge: str | None, limit: int) -> list[Study]:
    """Newest first, without their detail."""
    return [
        _study((*row, "{}"))
        for row in db.execute(
            f"SELECT {_STUDY.removesuffix(', detail')} FROM judge_studies"  # noqa: S608 - constants
            " WHERE (? IS NULL OR kind = ?)"
            " AND (? IS NULL OR EXISTS (SELECT 1 FROM json_each(judges) WHERE value = ?))"
            " ORDER BY created_at DESC, id DESC LIMIT ?",
            (kind, kind, judge, judge, limit),
        )
    ]


def _study(row: tuple[Any, ...]) -> Study:
    values = dict(zip(_STUDY.split(", "), row, strict=True))
    for name in ("document", "report", "detail"):
        values[name] = _object(values[name])
    values["judges"] = msgspec.json.decode(values["judges"])
    return msgspec.convert(values, Study)


def _row(row: Any) -> JudgementRow:
    owner, metric, judge, sample_id, repeat, attempt, request_hash, at, reused, answer, tokens = row
    return JudgementRow(
        owner=owner,
        metric=metric,
        judge=judge,
        sample_id=sample_id,
        repeat=repeat,
        attempt=attempt,
        request_hash=request_hash,
        at=at,
        reused=bool(reused),
        judgement=Judgement(answer=_answer(answer), tokens=_tokens(tokens) if tokens else ()),
    )
