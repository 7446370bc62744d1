"""Measure the pages of a review queue with 100,000 rows that wait.

    python -m loadtests.review                                     # a minute

A SQLite file is filled with rows through the store, without their checks. A server gets each page
over HTTP, one at a time; the same pages are then read from the store in this process, whose CPU
time depends less on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from loadtests.feedback import LIMIT_MS, page_time, report_pages
from loadtests.traffic import PageTime, conditions, serving
from router.config.storage import Storage
from router.store.review import NewReviewRow, ReviewContent, ReviewFilter, ReviewRow, ReviewSource
from router.store.selection import open_store

AT_ONCE = 1000
# No row expires while it is measured.
FAR = 4e9


def a_row(number: int) -> ReviewRow:
    """Return a row of 1,200 bytes; one in fifty is of a rare route and dataset."""
    is_rare = number % 50 == 0
    words = f"Where is the parcel {number} that I have ordered? " * 10
    return ReviewRow(
        id=f"rv_{number:032}",
        at=float(number),
        expires_at=FAR,
        dataset="rare" if is_rare else "reviewed",
        origin="traffic" if number % 10 else "feedback",
        source=ReviewSource(
            id=f"req_{number}",
            at=float(number),
            user=f"user_{number % 5000}",
            route="rare" if is_rare else "chat",
            target="up/model",
            status=200,
        ),
        content=ReviewContent(
            messages=[{"role": "user", "content": words}], answer=words, reference="Here it is."
        ),
        findings=({"kind": "email", "action": "placeholder", "place": "messages[0].content"},),
    )


async def fill(path: Path, count: int) -> None:
    """Add rows to the queue of a new database."""
    async with open_store(Storage(database=f"sqlite:///{path}")) as store:
        for start in range(0, count, AT_ONCE):
            some = [a_row(n) for n in range(start, min(start + AT_ONCE, count))]
            rows = [
                NewReviewRow(row, bands=[f"{row.source.id}-{band}" for band in range(16)])
                for row in some
            ]
            await store.add_review_rows(rows, max_waiting=count)


def queries_of(count: int) -> dict[str, dict[str, Any]]:
    """Return the queries of the pages by what they show."""
    return {
        "the first": {},
        "the first 200": {"limit": 200},
        "in the middle": {"after": count // 2},
        "the last": {"after": count - 50},
        "a common dataset": {"dataset": "reviewed"},
        "a rare dataset": {"dataset": "rare"},
        "a rare route": {"route": "rare"},
        "a dataset and a route that never meet": {"dataset": "rare", "route": "chat"},
        "an origin": {"origin": "feedback"},
        "accepted rows, of which there are none": {"state": "accepted"},
        "all states": {"state": "all"},
    }


def measure(url: str, count: int, times: int) -> dict[str, PageTime]:
    """Time all pages of a server."""
    return {
        name: page_time(f"{url}/review?{urlencode(query)}", times)
        for name, query in queries_of(count).items()
    }


async def cpu_times(path: Path, count: int, times: int) -> dict[str, float]:
    """Return the CPU time that the store takes for each page, in ms."""
    taken: dict[str, float] = {}
    async with open_store(Storage(database=f"sqlite:///{path}"), create=False) as store:
        for name, query in queries_of(count).items():
            fields = {"state": "waiting"} | query
            limit, after = fields.pop("limit", 50), fields.pop("after", 0)
            if fields["state"] == "all":
                del fields["state"]
            matching = ReviewFilter(**fields)
            began = time.process_time()
            for _ in range(times):
                await store.review_rows(matching, limit=limit, after=after)
                await store.count_review_rows(matching)
            taken[name] = (time.process_time() - began) * 1000 / times
    return taken


def report(args: argparse.Namespace, folder: Path) -> tuple[str, bool]:
    """Measure everything; return the report, and whether every page was quick enough."""
    path = folder / "review.db"
    asyncio.run(fill(path, args.rows))
    with serving(path) as (url, _):
        pages = measure(url, args.rows, args.times)
    cpu = asyncio.run(cpu_times(path, args.rows, args.times))
    lines = [
        f"# Review queue: {args.rows:,} rows that wait",
        "",
        conditions("review"),
        "",
        f"Over HTTP, one at a time: the median of {args.times} in ms, the longest in brackets. A "
        f"page has the rows and the number of all rows; none may take more than {LIMIT_MS:.0f} ms.",
        "",
        "| page | rows | ms | CPU ms of the store |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {page.rows} | {page.ms:.1f} ({page.longest_ms:.0f}) | {cpu[name]:.1f} |"
            for name, page in pages.items()
        ),
        "",
    ]
    return "\n".join(lines), all(page.ms < LIMIT_MS for page in pages.values())


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the pages of the review queue.")
    parser.add_argument("--rows", type=int, default=100_000)
    report_pages(parser, report, "review")


if __name__ == "__main__":
    main()
