"""`evalrouter feedback`: give feedback about requests, and list it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec
from rich.table import Column, Table

from providers.errors import InputError
from router.cli.commands import (
    Commands,
    config_option,
    escape,
    json_option,
    local_time,
    out,
    print_json,
    print_table,
    with_services,
)
from router.config.loading import load
from router.loop.feedback import Giver
from router.loop.feedback_forms import Correction, GivenFeedback
from router.records import stored_name
from router.store.feedback import FeedbackFilter, FeedbackKind, FeedbackRow, StoredFeedback

if TYPE_CHECKING:  # see `commands.with_services`
    from router.services import Services

# Who has the database may see and do everything.
_OPERATOR = Giver(key_id="", only=None)


@click.group(cls=Commands)
def feedback() -> None:
    """Give feedback about requests, and list it."""


@feedback.command("add")
@click.argument("request_id", required=False)
@click.option("--conversation", help="What it is about in place of a request.")
@click.option("--name", required=True, help="What it says something about, for example thumb.")
@click.option("--value", help="true, false, a number, or a text.")
@click.option("--correction", help="The answer that should have been given, in place of a value.")
@click.option("--comment", default="", help="Why.")
@click.option(
    "--user", default="", help="Who gives it; later feedback of the same one supersedes it."
)
@config_option
@json_option
def feedback_add(
    *,
    request_id: str | None,
    conversation: str | None,
    name: str,
    value: str | None,
    correction: str | None,
    comment: str,
    user: str,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Give feedback about the request REQUEST_ID (its x-evalrouter-record), or a conversation."""
    if (value is None) == (correction is None):
        raise InputError("say what the feedback is: --value or --correction, one of them")
    given = GivenFeedback(
        name=name,
        value=_value(value) if value is not None else Correction(correction or ""),
        request_id=request_id,
        conversation=conversation,
        comment=comment,
        user=user,
    )
    draft = given.draft()

    async def add(services: Services) -> StoredFeedback:
        [stored] = await services.feedback.add([draft], _OPERATOR)
        return stored

    row = with_services(load(config_path), add).row
    if as_json:
        print_json(row)
    else:
        out.print(row.id, highlight=False)


@feedback.command("list")
@click.option("--request", "request_id", help="About a request: its x-evalrouter-record.")
@click.option("--conversation", help="About a conversation, or a request that belongs to it.")
@click.option("--name", help="Of a name.")
@click.option("--kind", type=click.Choice(get_args(FeedbackKind)), help="Of a kind.")
@click.option("--user", help="Given by a user.")
@click.option("--key", "key_id", help="Given with a key, by its id.")
@click.option("--route", help="About requests of a route.")
@click.option("--rollout", help="About requests of a rollout.")
@click.option("--history", is_flag=True, help="Also what its author has superseded.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@config_option
@json_option
def feedback_list(
    *,
    user: str | None,
    conversation: str | None,
    history: bool,
    limit: int,
    config_path: Path | None,
    as_json: bool,
    **selected: Any,
) -> None:
    """List feedback, newest first."""

    async def read(services: Services) -> list[FeedbackRow]:
        request_id = selected.pop("request_id")
        if request_id is not None:
            request_id = await services.feedback.record_id(request_id, _OPERATOR)
        matching = FeedbackFilter(
            record_id=request_id,
            user=None if user is None else stored_name(user),
            conversation=None if conversation is None else stored_name(conversation),
            history=history,
            **selected,
        )
        return await services.store.feedback(matching, limit=limit)

    rows = with_services(load(config_path), read)
    if as_json:
        print_json(rows)
        return
    names = ("at", "name", "value", "about", "route", "by", "comment")
    table = Table(
        Column("feedback", no_wrap=True), *(Column(name, overflow="fold") for name in names)
    )
    for row in rows:
        table.add_row(*map(escape, _cells(row)))
    print_table(table, empty="No feedback yet.")


def _cells(row: FeedbackRow) -> tuple[str, ...]:
    value = row.value if isinstance(row.value, str) else msgspec.json.encode(row.value).decode()
    about = row.record_id or row.conversation or "a text that was sent along"
    by = row.user or row.key_id
    mark = " (superseded)" if row.superseded else ""
    return row.id, local_time(row.at), row.name, value + mark, about, row.route, by, row.comment


def _value(text: str) -> bool | float | str:
    if text in {"true", "false"}:
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text
