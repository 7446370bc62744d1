"""`evalrouter demo loop`: from traffic to a promoted model and back, offline, on a real server.

The models are scripted, and so are the people who ask and say whether the answer was right. All
else is what a server does: the program talks to it over HTTP alone, and the rules decide by what
they see.
"""

from __future__ import annotations

import asyncio
import random
import textwrap
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
from rich.console import Console

from evaluators.reports.report import Report
from evaluators.reports.table import to_table
from providers.errors import EvalrouterError
from router.cli.commands import counted, print_text
from router.config.loading import load
from router.datasets.registry import SHOWN_HASH
from router.server import background

CONFIG = """\
server: {{port: 0}}
storage: {{database: "sqlite:///{folder}/evalrouter.db", artifacts: "{folder}/artifacts"}}
providers:
  house:
    kind: scripted
    script:
      # Sends half of what it does not know to billing.
      small:
        - {{match: "invoice|charged", answer: billing}}
        - {{match: "parcel", answer: shipping}}
        - {{match: "sign in", answer: account}}
        - {{answer: billing}}
      # Knows nearly everything.
      large: &large
        - {{match: "invoice|charged", answer: billing}}
        - {{match: "parcel|courier", answer: shipping}}
        - {{match: "sign in", answer: account}}
        - {{match: "crashes|error", answer: technical}}
        - {{answer: shipping}}
      # The same, but it fails with what it finds difficult.
      hasty:
        - {{match: "crashes|error", status: 500}}
        - {{match: "invoice|charged", answer: billing}}
        - {{match: "parcel|courier", answer: shipping}}
        - {{match: "sign in", answer: account}}
        - {{answer: shipping}}
prices:
  house/small: {{input: 1.0, output: 4.0}}
  house/large: {{input: 0.5, output: 2.0}}
  house/hasty: {{input: 0.2, output: 0.8}}
routes:
  support:
    targets: [{{model: house/small}}]
    record: full
    retries: {{attempts: 1}}
    share_bodies_with: [house]
"""
ROUTE = "support"
# What people write, and the team that it is for.
TICKETS = (
    ("My invoice {n} has the wrong address on it", "billing"),
    ("I was charged twice for order {n}", "billing"),
    ("My parcel {n} has not arrived", "shipping"),
    ("The courier left order {n} in the rain", "shipping"),
    ("I cannot sign in as customer {n}", "account"),
    ("Please close the account of customer {n}", "account"),
    ("The app crashes when I open order {n}", "technical"),
    ("Page {n} of the manual shows an error", "technical"),
)
INSTRUCTION = "Which team is this for: billing, shipping, account or technical? Answer in one word."
TEAMS = ("billing", "shipping", "account", "technical")

SERIOUS = 0.95
FIRST, SHADOWED, AT_ONCE = 400, 200, 16
# What has not come to its end by then is shown as it stands.
LONGEST_S = 90.0
# Short, because the traffic here is the same at every moment: a real one has days and nights.
ROLLOUT = {
    "steps": [25, 50, 100],
    "step_seconds": 2,
    "cycle_seconds": 2,
    "unit_seconds": 1,
    "signals": [
        {"measure": "errors"},
        {
            "measure": "feedback:thumb",
            "role": "goal",
            "margin": 0.05,
            "better": "higher",
            "min_requests": 50,
        },
    ],
    "force": True,
}


class Ticket(NamedTuple):
    """What somebody writes, and who should get it."""

    user: str
    text: str
    team: str


class People:
    """Customers who write, read the answer, and say whether it was right.

    Args:
        http: the server.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._random = random.Random(17)  # noqa: S311 - no secret
        self._count = 0
        self.answered: Counter[str] = Counter()

    def _ticket(self) -> Ticket:
        self._count += 1
        text, team = self._random.choice(TICKETS)
        return Ticket(f"customer {self._count}", text.format(n=1000 + self._count), team)

    async def write(self, count: int) -> None:
        """Send so many tickets, some at a time, each with what its author says of the answer."""
        tickets = iter([self._ticket() for _ in range(count)])

        async def one_after_the_other() -> None:
            for ticket in tickets:
                await self._write(ticket)

        await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Have people write for as long as the block lasts."""

        async def go_on() -> None:
            while True:
                await self._write(self._ticket())

        tasks = [asyncio.create_task(go_on()) for _ in range(AT_ONCE)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result

    async def _write(self, ticket: Ticket) -> None:
        reply = await self._http.post(
            "/v1/chat/completions",
            json={
                "model": ROUTE,
                "user": ticket.user,
                "messages": [
                    {"role": "system", "content": INSTRUCTION},
                    {"role": "user", "content": ticket.text},
                ],
            },
        )
        self.answered[reply.headers.get("x-evalrouter-target", "")] += 1
        if reply.status_code != httpx.codes.OK:
            return
        record = reply.headers["x-evalrouter-record"]
        is_right = reply.json()["choices"][0]["message"]["content"] == ticket.team
        await self._say(record, ticket, {"name": "thumb", "value": is_right})
        # One in three is asked which team it was for; some of them make fun of that.
        if self._random.random() < 1 / 3:
            team = ticket.team if self._random.random() < SERIOUS else "your mother"
            await self._say(record, ticket, {"name": "team", "value": {"correction": team}})

    async def _say(self, record: str, ticket: Ticket, feedback: Mapping[str, Any]) -> None:
        reply = await self._http.post(
            "/feedback", json={"request_id": record, "user": ticket.user, **feedback}
        )
        _checked(reply)


def show(console: Console, folder: Path) -> None:
    """Start a server whose files are all in a folder, and go through the loop on it."""
    began = time.monotonic()
    config = folder / "evalrouter.yaml"
    config.write_text(CONFIG.format(folder=folder), encoding="utf-8")
    with background(load(config), config) as url:
        console.print(
            f"A server is up at {url}; its config is {config}", highlight=False, soft_wrap=True
        )
        asyncio.run(play(console, url))
    console.print(
        f"\nDone in {time.monotonic() - began:.0f} s. See it all again:\n"
        f"  evalrouter rollout list --config {config}\n"
        f"  evalrouter serve --config {config}",
        highlight=False,
        soft_wrap=True,
    )


async def play(console: Console, url: str) -> None:
    """Go through the loop on a running server.

    Raises:
        EvalrouterError: the server refused something.
    """
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        people = People(http)
        loop = _Loop(console, http, people)
        await loop.serve()
        await loop.make_dataset()
        await loop.replay()
        await loop.shadow()
        first = await loop.roll_out("house/large", "the replay and the shadow favour it")
        second = await loop.roll_out("house/hasty", "it costs less than half")
        loop.audit(first, second)


class _Loop:
    """The steps, in their order."""

    def __init__(self, console: Console, http: httpx.AsyncClient, people: People) -> None:
        self._console = console
        self._http = http
        self._people = people

    def _title(self, text: str) -> None:
        self._console.print()
        self._console.rule(f"[bold]{text}", align="left")

    def _say(self, text: str) -> None:
        print_text(text, console=self._console)

    async def _get(self, path: str, **query: Any) -> Any:
        return _checked(await self._http.get(path, params=query))

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return _checked(await self._http.post(path, json=body))

    async def _put(self, path: str, body: Mapping[str, Any]) -> Any:
        return _checked(await self._http.put(path, json=body))

    async def serve(self) -> None:
        """Serve people, and take what they say of the answers."""
        self._title("1. Traffic and feedback")
        await self._people.write(FIRST)
        feedback = await self._all_feedback("thumb")
        good = sum(row["value"] is True for row in feedback)
        self._say(
            f"{FIRST} people wrote to the route {ROUTE}, which house/small answers. Of "
            f"{len(feedback)} who said whether the answer was right, {good} said yes. One in three "
            "said which team it was for."
        )

    async def _all_feedback(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        before = None
        while True:
            query = {"name": name, "limit": 500} | ({} if before is None else {"before": before})
            page = await self._get("/feedback", **query)
            rows += page["data"]
            before = page["next"]
            if before is None:
                return rows

    async def make_dataset(self) -> None:
        """Let a reviewer decide which recorded requests become rows of a dataset."""
        self._title("2. What people wrote becomes a reviewed dataset")
        selection = {"name": "support-traffic", "route": ROUTE, "where": "has feedback.team"}
        made = await self._made(selection)
        rows = await self._rows("support-traffic")
        self._say(f"{counted(len(rows), 'request')} of {made['funnel']['records']} said the team.")
        await self._post(
            "/review",
            {
                "dataset": "support-reviewed",
                "rows": [
                    {
                        "messages": row["messages"],
                        "answer": row["answer"],
                        "reference": _reference(row),
                    }
                    for row in rows
                ],
            },
        )
        decided: Counter[str] = Counter()
        # The server lets corrections wait, too, for the dataset of the config.
        query = {"dataset": "support-reviewed", "limit": 200}
        while waiting := (await self._get("/review", **query))["data"]:
            for row in waiting:
                # A person does this with one key for each row: `evalrouter review`.
                if row["content"]["reference"] in TEAMS:
                    await self._post(f"/review/{row['id']}/accept", {"version": row["version"]})
                    decided["accepted"] += 1
                else:
                    reason = "no team of ours"
                    await self._post(f"/review/{row['id']}/reject", {"reason": reason})
                    decided["rejected"] += 1
        published = await self._post("/review/publish", {"dataset": "support-reviewed"})
        dataset = published["dataset"]
        self._say(
            f"A reviewer accepted {decided['accepted']} of them and rejected "
            f"{decided['rejected']}: "
            f"support-reviewed@{dataset['hash'][:SHOWN_HASH]}"
        )

    async def _made(self, selection: Mapping[str, Any]) -> Any:
        reply = await self._http.post("/datasets/from-traffic", json=selection)
        if not reply.is_success:
            return _checked(reply)
        kind, data = "", ""
        for line in reply.text.splitlines():
            if line.startswith("event:"):
                kind = line.removeprefix("event:").strip()
            elif line.startswith("data:"):
                data = line.removeprefix("data:").strip()
        if kind != "end":
            raise EvalrouterError(f"POST /datasets/from-traffic: {data}")
        return msgspec.json.decode(data)

    async def _rows(self, dataset: str) -> list[dict[str, Any]]:
        reply = await self._http.get(f"/datasets/{dataset}/content")
        if not reply.is_success:
            _checked(reply)
        return [msgspec.json.decode(line) for line in reply.content.splitlines()]

    async def replay(self) -> None:
        """Send what people wrote to the candidate, and compare pair by pair."""
        self._title("3. The candidate replays what people wrote")
        document = {
            "dataset": "support-reviewed",
            "routes": ["dataset/answer", "house/large"],
            "baseline": "dataset/answer",
            "metrics": ["exact_match"],
        }
        run = await self._post("/eval", document)
        while not run["finished_at"]:
            await asyncio.sleep(0.2)
            outcome = await self._get(f"/eval/{run['id']}")
            run = outcome["run"]
        report = msgspec.convert(outcome["report"], Report)
        self._console.print(to_table(report, width=self._console.width))

    async def shadow(self) -> None:
        """Send copies of live requests to the candidate."""
        self._title("4. The candidate answers in the shadow")
        route = await self._get(f"/routes/{ROUTE}")
        shadow = {"targets": ["house/large"], "sample": 1.0, "limits": {"rps": 1000}}
        await self._put(f"/routes/{ROUTE}", {**route["route"], "shadow": shadow})
        async with self._people.writing():
            await self._shadowed(lambda funnel: funnel["scored"] >= SHADOWED)
        shown = await self._shadowed(lambda funnel: not funnel["waiting"])
        funnel = shown["funnel"]
        self._say(
            f"{funnel['scored']} of {funnel['requests']} requests were also answered by "
            "house/large, after their client had an answer. What an answer costs:"
        )
        for row in shown["report"]["routes"]:
            [cost] = [score for score in row["scores"] if score["output"] == "cost_usd"]
            low, high = cost["low"], cost["high"]
            self._say(f"  {row['route']:<14}  ${cost['estimate']:.7f}  [${low:.7f}, ${high:.7f}]")
        self._say(f"More: evalrouter eval show {shown['run']}")
        _checked(await self._http.delete(f"/routes/{ROUTE}"))

    async def _shadowed(self, is_enough: Callable[[Mapping[str, Any]], bool]) -> Any:
        """Wait until the shadow's funnel is as it should be, and return its report."""
        until = time.monotonic() + LONGEST_S
        while True:
            shown = await self._get(f"/routes/{ROUTE}/shadow")
            if is_enough(shown["funnel"]) or time.monotonic() > until:
                return shown
            await asyncio.sleep(0.2)

    async def roll_out(self, candidate: str, reason: str) -> dict[str, Any]:
        """Give a candidate a growing share of the requests until the rules have decided."""
        number = 5 if candidate == "house/large" else 6
        self._title(f"{number}. A rollout of {candidate}")
        self._people.answered.clear()
        body = {**ROLLOUT, "candidate": candidate, "reason": reason}
        await self._post(f"/routes/{ROUTE}/rollout", body)
        began = time.monotonic()
        shown = 0
        async with self._people.writing():
            while True:
                report: dict[str, Any] = await self._get(f"/routes/{ROUTE}/rollout")
                for decision in report["decisions"][shown:]:
                    self._decision(decision)
                shown = len(report["decisions"])
                if report["rollout"]["ended_at"] or time.monotonic() - began > LONGEST_S:
                    break
                await asyncio.sleep(0.3)
        totals = self._people.answered
        self._say(
            f"{report['rollout']['state']} after {time.monotonic() - began:.0f} s and "
            f"{counted(totals.total(), 'request')}, {totals[candidate]} of them answered by "
            f"{candidate}."
        )
        route = await self._get(f"/routes/{ROUTE}")
        targets = ", ".join(
            f"{target['model']} ({target.get('weight', 1):g})"
            for target in route["route"]["targets"]
        )
        self._say(f"The route {ROUTE} is now: {targets}")
        return report

    def _decision(self, decision: Mapping[str, Any]) -> None:
        self._say(
            f"  {decision['from_weight']:4.0%} -> {decision['to_weight']:4.0%}  "
            f"{decision['to_state']:<12} {decision['reason']}"
        )

    def audit(self, *reports: Mapping[str, Any]) -> None:
        """Print every decision, with what it was made of."""
        self._title("7. The audit")
        for report in reports:
            for decision in report["decisions"]:
                for line in _audited(report["rollout"], decision):
                    self._say(line)


def _audited(rollout: Mapping[str, Any], decision: Mapping[str, Any]) -> Iterator[str]:
    """Return the lines of a decision: what changed, what it was made of, and who decided."""
    yield (
        f"{rollout['candidate']} {decision['revision']:>2}  "
        f"{datetime.fromtimestamp(decision['at'], UTC).astimezone():%H:%M:%S}  "
        f"{decision['from_weight']:4.0%} -> {decision['to_weight']:4.0%}  "
        f"{decision['to_state']:<12} {decision['rule']}"
    )
    if decision["signal"]:
        evidence = "" if decision["e_value"] is None else f": e-value {decision['e_value']:.3g}"
        yield from _indented(f"{decision['signal']}{evidence}{_interval(decision)}")
    yield from _indented(f"by {decision['actor']}; route {decision['route_version']}")


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, 80, initial_indent="    ", subsequent_indent="      ")


def _interval(decision: Mapping[str, Any]) -> str:
    if decision["low"] is None:
        return ""
    first = decision["signal"].partition(", ")[0]
    scales = {signal["signal"]: signal["scale"] for signal in decision["seen"]["signals"]}
    # The e-value of harm is about the whole rollout, so the interval of one step may be too wide to
    # show it.
    if scales[first] == "ratio":
        return f"; in this step {decision['low']:.3g} to {decision['high']:.3g} times the control's"
    return f"; difference in this step {decision['low']:+.3f} to {decision['high']:+.3f}"


def _reference(row: Mapping[str, Any]) -> str:
    reference = row["reference"]
    return str(reference if isinstance(reference, str) else reference[0])


def _checked(reply: httpx.Response) -> Any:
    """Return what a reply says.

    Raises:
        EvalrouterError: it is an error.
    """
    if reply.is_success:
        return reply.json() if reply.content else None
    raise EvalrouterError(f"{reply.request.method} {reply.request.url.path}: {reply.text}")
