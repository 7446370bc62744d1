"""Tools that bring rows: to the review, or as a dataset."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from router.mcp.answers import ArrivalLine, ProposalLine, ProposalsReply, ProposedReply, StoredReply
from router.mcp.catalogue import version
from router.mcp.fencing import Fence
from router.mcp.tool import (
    NOTE,
    SHORT_TEXT,
    Arguments,
    MaxChars,
    Tool,
    ToolCall,
    counted,
    fitting,
    rest,
)

_MAX_ROWS = 200
_MAX_STORED_ROWS = 2_000
_MAX_FINDINGS = 10


class ProposedRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row to be reviewed: the messages, and what was and should have been answered."""

    messages: list[dict[str, Any]]
    answer: str | None = None
    reference: str | None = None
    metadata: dict[str, Any] = {}


class ProposeRows(Arguments, frozen=True, kw_only=True):
    """Which rows, and for which dataset."""

    dataset: Annotated[str, msgspec.Meta(description="What they are to become rows of.")]
    rows: Annotated[list[ProposedRow], msgspec.Meta(min_length=1, max_length=_MAX_ROWS)]


async def propose_rows(call: ToolCall, arguments: ProposeRows) -> ProposedReply:
    """Let rows wait for a person."""
    arrivals = await call.client.review.add(
        [msgspec.structs.asdict(row) for row in arguments.rows], dataset=arguments.dataset
    )
    waiting = sum(arrival["id"] is not None for arrival in arrivals)
    return ProposedReply(
        summary=f"{counted(waiting, 'row')} of {len(arrivals)} wait for a person, who decides on "
        "the server's page /review; list_proposals shows what was decided.",
        rows=[
            ArrivalLine(id=arrival["id"], findings=_findings(call.fence, arrival["findings"]))
            for arrival in arrivals
        ],
    )


def _findings(fence: Fence, findings: list[dict[str, Any]]) -> list[str]:
    """Return what checks noticed; a place may have the name of a column in it."""
    return [
        f"{finding.get('kind')}: {finding.get('action')} "
        f"{fence.text(str(finding.get('place', '')), NOTE)}".rstrip()
        for finding in findings[:_MAX_FINDINGS]
    ]


class ListProposals(Arguments, frozen=True, kw_only=True):
    """Which rows."""

    state: Literal["waiting", "accepted", "rejected", "all"] = "waiting"
    dataset: str | None = None
    after: Annotated[int, msgspec.Meta(ge=0, description="The `next` of the page before.")] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=50)] = 10
    max_chars: MaxChars = SHORT_TEXT


async def list_proposals(call: ToolCall, arguments: ListProposals) -> ProposalsReply:
    """Return rows to review, oldest first."""
    rows = await call.client.review.list(
        state=arguments.state,
        dataset=arguments.dataset,
        after=arguments.after,
        limit=arguments.limit + 1,
    )
    fence = call.fence
    page = list(
        fitting(
            ProposalLine(
                id=row["id"],
                dataset=fence.name(row["dataset"]),
                state=row["state"],
                messages=fence.value(row["content"]["messages"], arguments.max_chars),
                reference=fence.text(row["content"].get("reference") or "", arguments.max_chars),
                findings=_findings(fence, row["findings"]),
                reason=fence.text(row["reason"], NOTE),
            )
            for row in rows[: arguments.limit]
        )
    )
    more = rows[len(page) - 1]["number"] if len(page) < len(rows) else None
    return ProposalsReply(
        summary=f"{counted(len(page), 'row')}{rest(more, 'after')}", proposals=page, next=more
    )


class CreateDataset(Arguments, frozen=True, kw_only=True):
    """Which dataset, and its rows."""

    name: Annotated[str, msgspec.Meta(description="The dataset's name.")]
    rows: Annotated[
        list[dict[str, Any]],
        msgspec.Meta(
            min_length=1,
            max_length=_MAX_STORED_ROWS,
            description="Objects with `input`, `prompt` or `messages`, and where there is one "
            "`reference`.",
        ),
    ]


async def create_dataset(call: ToolCall, arguments: CreateDataset) -> StoredReply:
    """Store rows as a dataset."""
    stored = version(call, await call.client.datasets.add(arguments.name, arguments.rows))
    return StoredReply(
        summary=f"Stored {stored.name} with {counted(stored.rows, 'row')}; a run document names it "
        f"as `dataset: {stored.name}`.",
        dataset=stored,
    )


TOOLS = (
    Tool(
        "list_proposals",
        "List proposed rows",
        "List rows that wait for a person's decision before they become part of a dataset, or that "
        "were decided.",
        ("GET /review",),
        ListProposals,
        ProposalsReply,
        list_proposals,
    ),
    Tool(
        "propose_rows",
        "Propose rows for a dataset",
        "Propose rows for a dataset. They are checked (secrets and personal data are taken out), "
        "and wait until a person accepts them; nothing becomes part of the dataset before.",
        ("POST /review",),
        ProposeRows,
        ProposedReply,
        propose_rows,
        reads=False,
        repeatable=False,
    ),
    Tool(
        "create_dataset",
        "Create a dataset",
        "Store rows as a dataset at once, without a review; other rows under a name that exists "
        "become its new version, and the old one stays.",
        ("PUT /datasets/{name}",),
        CreateDataset,
        StoredReply,
        create_dataset,
        reads=False,
    ),
)
