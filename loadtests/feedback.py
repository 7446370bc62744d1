"""Measure the pages of feedback and of requests with 100,000 and 1,000,000 of them.

    python -m loadtests.feedback                                   # some minutes
    python -m loadtests.feedback --postgres postgresql://user@host/empty

A SQLite file is filled with requests as `loadtests.traffic` makes them, and with feedback about one
in ten. A server gets each page over HTTP, one at a time. With `--postgres`, everything is then
copied into that (empty) database, as `evalrouter store migrate` does, and measured there, too.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlencode

import msgspec

from loadtests.traffic import (
    DAY,
    END,
    KEY_5,
    PageTime,
    conditions,
    fill,
    index,
    measure_in_folder,
    serving,
    write_report,
)
from router.config.storage import Storage
from router.store.copying import copy

LIMIT_MS = 100.0
COLUMNS = (
    "id, at, key_id, user_id, author, name, kind, value, score, weight, comment, metadata, source,"
    " subject, record_id, conversation, x_request_id, response_id, request_key, request_user,"
    " route, target, klass, status, rollout, arm, request_at, sent_along, digest"
)
# About every tenth request; a tenth of it was given twice, so that the first is superseded.
FILL = f"""
INSERT INTO feedback ({COLUMNS})
SELECT printf('%08x-0000-7000-8000-%012x', :turn, number), at + 60 * :turn, key_id,
    'user_' || (number / 10 % 5000), 'user:user_' || (number / 10 % 5000),
    CASE WHEN number % 5000 = 10 THEN 'rare' WHEN number % 100 < 70 THEN 'thumb'
        WHEN number % 100 < 90 THEN 'quality' ELSE 'why' END,
    CASE WHEN number % 100 < 70 THEN 'bool' WHEN number % 100 < 90 THEN 'number' ELSE 'text' END,
    CASE WHEN number % 100 < 70 THEN 'true' WHEN number % 100 < 90 THEN '0.5'
        ELSE '"it was the wrong year, and the tone was rude"' END,
    CASE WHEN number % 100 < 70 THEN 1.0 WHEN number % 100 < 90 THEN 0.5 END,
    1.0, 'because of the second sentence', '{{"page": "checkout"}}', 'evalrouter', 'request:' || id,
    id, '', id, 'chatcmpl-' || number, key_id, '', route, target, klass, status,
    CASE WHEN number % 2000 = 0 THEN 'rollout_1' ELSE '' END,
    CASE WHEN number % 2000 = 0 THEN 'candidate' ELSE '' END, at, 0, ''
FROM traffic WHERE number % (10 * CASE WHEN :turn = 1 THEN 1 ELSE 9 END) = 0
ORDER BY number LIMIT :limit
"""
FEEDBACK: dict[str, dict[str, Any]] = {
    "everything": {},
    "everything, with history": {"history": "true"},
    "a common name": {"name": "thumb"},
    "a rare name": {"name": "rare"},
    "a name that nothing has": {"name": "none"},
    "a common route": {"route": "chat"},
    "a rare route": {"route": "embed"},
    "a common name on a rare route": {"name": "thumb", "route": "embed"},
    "a rare name on a route that never has it": {"name": "rare", "route": "private"},
    "a key": {"key": KEY_5},
    "a key, a name and a kind that never meet": {"key": KEY_5, "name": "why", "kind": "number"},
    "a user": {"user": "user_77"},
    "a kind": {"kind": "text"},
    "a kind that nothing has": {"kind": "correction"},
    "a rollout": {"rollout": "rollout_1"},
    "an hour, two weeks ago": {"since": END - 14 * DAY, "until": END - 14 * DAY + 3600},
    "until before the first": {"until": END - 60 * DAY},
}
TRAFFIC: dict[str, dict[str, Any]] = {
    "everything": {},
    "a common route": {"route": "chat"},
    "a rare key": {"key": "key_rare"},
    "failures": {"status": "error"},
}


def add_feedback(path: Path, count: int) -> int:
    """Fill the table of feedback; return how many rows it has."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for turn, limit in ((1, count * 9 // 10), (2, count - count * 9 // 10)):
            db.execute(FILL, {"turn": turn, "limit": limit})
        rows: int = db.execute("SELECT count(*) FROM feedback").fetchone()[0]
        return rows


def page_time(url: str, times: int) -> PageTime:
    """Time one address."""
    measured = []
    for _ in range(times):
        began = time.perf_counter()
        body = urllib.request.urlopen(url, timeout=60).read()
        measured.append((time.perf_counter() - began) * 1000)
    decoded = msgspec.json.decode(body)
    return PageTime(median(measured), max(measured), 0.0, len(decoded.get("data", [decoded])))


def measure(url: str, record_id: str, times: int) -> dict[str, PageTime]:
    """Time all pages of a server."""
    addresses = {
        **{
            f"`/feedback`: {name}": f"/feedback?{urlencode(query)}"
            for name, query in FEEDBACK.items()
        },
        "`/feedback`: a request": f"/feedback?request_id={record_id}",
        **{
            f"`/traffic`: {name}": f"/traffic?{urlencode(query)}" for name, query in TRAFFIC.items()
        },
        "`/traffic/{id}`": f"/traffic/{record_id}",
    }
    return {name: page_time(url + address, times) for name, address in addresses.items()}


def report(args: argparse.Namespace, folder: Path) -> tuple[str, bool]:
    """Measure everything; return the report, and whether every page was quick enough."""
    path = folder / "feedback.db"
    asyncio.run(fill(path, args.records))
    rows = add_feedback(path, args.feedback)
    asyncio.run(index(path))
    with closing(sqlite3.connect(path)) as db:
        record_id = db.execute(
            "SELECT record_id FROM feedback ORDER BY number DESC LIMIT 1"
        ).fetchone()[0]
    measured = {}
    with serving(path) as (url, _):
        measured["SQLite"] = measure(url, record_id, args.times)
    if args.postgres:
        source, target = Storage(database=f"sqlite:///{path}"), Storage(database=args.postgres)
        copy(source, target, lambda *_: None, lambda _: 30.0)
        with serving(path, database=args.postgres) as (url, _):
            measured["PostgreSQL"] = measure(url, record_id, args.times)
    lines = [
        f"# Feedback: {rows:,} rows and {args.records:,} requests",
        "",
        conditions("feedback"),
        "",
        f"Over HTTP, one at a time: the median of {args.times} in ms, the longest in brackets. "
        f"A page has 50 rows; none may take more than {LIMIT_MS:.0f} ms.",
        "",
        f"| page | rows | {' | '.join(measured)} |",
        f"|---|---:|{'---:|' * len(measured)}",
    ]
    for name, first in next(iter(measured.values())).items():
        times = (
            f"{pages[name].ms:.1f} ({pages[name].longest_ms:.0f})" for pages in measured.values()
        )
        lines.append(f"| {name} | {first.rows} | {' | '.join(times)} |")
    quick = all(page.ms < LIMIT_MS for pages in measured.values() for page in pages.values())
    return "\n".join([*lines, ""]), quick


def report_pages(
    parser: argparse.ArgumentParser,
    report: Callable[[argparse.Namespace, Path], tuple[str, bool]],
    name: str,
) -> None:
    """Measure pages and write the report; exit with an error where one was too slow.

    Args:
        parser: of the command line, to which the options of all such reports are added.
        report: makes it in a folder; returns it, and whether every page was quick enough.
        name: the report's.
    """
    parser.add_argument("--times", type=int, default=20, help="of each page")
    args, (text, quick) = measure_in_folder(parser, report)
    write_report(text, args.out, name)
    if not quick:
        raise SystemExit(f"a page took more than {LIMIT_MS:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the pages of feedback.")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--feedback", type=int, default=100_000)
    parser.add_argument("--postgres", help="the address of an empty database")
    report_pages(parser, report, "feedback")


if __name__ == "__main__":
    main()
