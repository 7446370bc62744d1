"""Who may call what: one table of operations and roles. What is not in it is refused.

The role `viewer` has no column: `reach_of` lets it GET what `admin` may.

    ACCESS["GET /eval"]     # RoleAccess(no_key="no", client="own", reviewer="all", admin="all")

`guard.py` finds out whose key a request presents. Litestar then finds the handler, and
`AccessCheck` looks up the handler's operation here, so that no other reading of a path (encoded,
with slashes) can lead past the table. `own` means that the answer has what belongs to the key:
where the path names a run, `AccessCheck` sees to that; where not, the handler does (`Caller.only`).

The model paths are answered before Litestar; `completions.py` admits every key there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers.base import BaseRouteHandler

from providers.errors import NotFoundError, PermissionDeniedError
from router.api.request_parsing import PATHS
from router.gateway.keys import READ_ONLY
from router.gateway.sessions import SignedIn
from router.store.keys import KeyRow, Role
from router.store.runs import RunStore

Reach = Literal["no", "own", "all"]
# What asks for something, and changes nothing.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class RoleAccess(NamedTuple):
    """How far an operation is open to a request without a key, and to the roles."""

    no_key: Reach
    client: Reach
    reviewer: Reach
    admin: Reach


PUBLIC = RoleAccess("all", "all", "all", "all")
ANY_KEY = RoleAccess("no", "all", "all", "all")
OWN_REQUESTS = RoleAccess("no", "own", "own", "all")
OWN_RUNS = RoleAccess("no", "own", "all", "all")
REVIEWERS = RoleAccess("no", "no", "all", "all")
ADMINS = RoleAccess("no", "no", "no", "all")
CLOSED = RoleAccess("no", "no", "no", "no")

ACCESS: Mapping[str, RoleAccess] = {
    "GET /health/live": PUBLIC,
    "GET /health/ready": PUBLIC,
    "GET /static/{files_version}/{name}": PUBLIC,
    "GET /login": PUBLIC,
    "POST /login": PUBLIC,
    "POST /logout": PUBLIC,
    # models
    **{f"POST {path}": ANY_KEY for path in PATHS},
    "GET /v1/models": ANY_KEY,
    "GET /v1/models/{model}": ANY_KEY,
    "GET /v1/responses/{response_id}": ANY_KEY,
    "DELETE /v1/responses/{response_id}": ANY_KEY,
    "POST /v1/responses/{response_id}/cancel": ANY_KEY,
    "GET /v1/responses/{response_id}/input_items": ANY_KEY,
    "POST /v1/conversations": ANY_KEY,
    "GET /v1/conversations/{conversation_id}": ANY_KEY,
    "POST /v1/conversations/{conversation_id}": ANY_KEY,
    "DELETE /v1/conversations/{conversation_id}": ANY_KEY,
    "GET /v1/conversations/{conversation_id}/items": ANY_KEY,
    "POST /v1/conversations/{conversation_id}/items": ANY_KEY,
    "GET /v1/conversations/{conversation_id}/items/{item_id}": ANY_KEY,
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}": ANY_KEY,
    # what the server can do
    "GET /schema": ANY_KEY,
    "GET /schema/openapi.json": ANY_KEY,
    "GET /schema/openapi.yaml": ANY_KEY,
    "GET /schema/openapi.yml": ANY_KEY,
    "GET /eval/tasks": ANY_KEY,
    "GET /eval/metrics": REVIEWERS,
    # runs
    "GET /eval": OWN_RUNS,
    "POST /eval": ADMINS,
    "GET /eval/compare": REVIEWERS,
    "GET /eval/{run_id}": OWN_RUNS,
    "DELETE /eval/{run_id}": ADMINS,
    "GET /eval/{run_id}/events": OWN_RUNS,
    "GET /eval/{run_id}/samples": OWN_RUNS,
    "GET /eval/{run_id}/samples/{position}/notes": OWN_RUNS,
    "PUT /eval/{run_id}/samples/{position}/notes": REVIEWERS,
    "DELETE /eval/{run_id}/samples/{position}/notes": REVIEWERS,
    "GET /eval/{run_id}/slices": OWN_RUNS,
    "GET /eval/{run_id}/judgements": OWN_RUNS,
    "GET /eval/{run_id}/labels": OWN_RUNS,
    "PUT /eval/{run_id}/labels": REVIEWERS,
    "GET /eval/{run_id}/label-plan": REVIEWERS,
    "POST /eval/{run_id}/pause": ADMINS,
    "POST /eval/{run_id}/cancel": ADMINS,
    "POST /eval/{run_id}/resume": ADMINS,
    "POST /eval/{run_id}/rescore": ADMINS,
    "POST /eval/{run_id}/extend": ADMINS,
    "POST /eval/{run_id}/export": ADMINS,
    "GET /eval/{run_id}/export": OWN_RUNS,
    "GET /eval/{run_id}/export/{name}": OWN_RUNS,
    "GET /eval/{run_id}/rows.csv": OWN_RUNS,
    "GET /eval/{run_id}/rows.jsonl": OWN_RUNS,
    "GET /eval/{run_id}/rows.parquet": OWN_RUNS,
    "GET /eval/{run_id}/logs": OWN_RUNS,
    "POST /eval/{run_id}/track": ADMINS,
    "GET /runs/{run_id}": OWN_RUNS,
    "GET /compare": REVIEWERS,
    "GET /runs/{run_id}/samples": OWN_RUNS,
    "GET /runs/{run_id}/samples/{position}": OWN_RUNS,
    "GET /runs/{run_id}/samples/{position}/text": OWN_RUNS,
    "POST /pages/runs/{run_id}/samples/{position}/note": REVIEWERS,
    # pages
    "GET /": OWN_RUNS,
    "GET /pages/live/home": OWN_RUNS,
    "GET /runs": OWN_RUNS,
    "GET /pages/live/runs": OWN_RUNS,
    "GET /runs/new": ADMINS,
    "POST /pages/runs/new": ADMINS,
    "GET /pages/live/runs/{run_id}": OWN_RUNS,
    "GET /runs/{run_id}/log": OWN_RUNS,
    "GET /pages/live/runs/{run_id}/log": OWN_RUNS,
    "POST /pages/eval/{run_id}/pause": ADMINS,
    "POST /pages/eval/{run_id}/cancel": ADMINS,
    "POST /pages/eval/{run_id}/resume": ADMINS,
    "POST /pages/eval/{run_id}/rescore": ADMINS,
    "POST /pages/eval/{run_id}/extend": ADMINS,
    "POST /pages/eval/{run_id}/delete": ADMINS,
    "GET /pages/routes": ADMINS,
    "GET /pages/routes/{name}": ADMINS,
    "POST /pages/routes/{name}": ADMINS,
    "GET /pages/live/routes/{name}": ADMINS,
    "GET /pages/shadows": ADMINS,
    "GET /pages/routes/{name}/shadow": ADMINS,
    "POST /pages/routes/{name}/shadow": ADMINS,
    "GET /pages/watches": REVIEWERS,
    "GET /pages/watches/{name}": REVIEWERS,
    "POST /pages/watches/{name}": ADMINS,
    "GET /pages/schedules": REVIEWERS,
    "GET /pages/schedules/{name}": REVIEWERS,
    "POST /pages/schedules/{name}": ADMINS,
    "GET /pages/alerts": ADMINS,
    "GET /pages/alerts/{alert_id}": ADMINS,
    "POST /pages/alerts/{alert_id}": ADMINS,
    "GET /pages/rollouts": REVIEWERS,
    "GET /pages/rollouts/{rollout_id}": REVIEWERS,
    "POST /pages/rollouts/{rollout_id}": ADMINS,
    "GET /pages/live/rollouts/{rollout_id}": REVIEWERS,
    "GET /pages/routes/{name}/rollout": REVIEWERS,
    "POST /pages/routes/{name}/rollout": ADMINS,
    "GET /pages/routes/{name}/versions": ADMINS,
    "POST /pages/routes/{name}/versions": ADMINS,
    "GET /pages/experiments": REVIEWERS,
    "GET /pages/datasets": OWN_RUNS,
    "GET /docs": ANY_KEY,
    "GET /pages/traffic": OWN_REQUESTS,
    "GET /pages/live/traffic": OWN_REQUESTS,
    "GET /pages/traffic/totals": OWN_REQUESTS,
    "GET /pages/feedback": OWN_REQUESTS,
    "GET /settings": ADMINS,
    "GET /settings/config": ADMINS,
    "GET /settings/prices": ADMINS,
    "GET /settings/metrics": ADMINS,
    "GET /settings/roles": ADMINS,
    "GET /settings/providers/{name}": ADMINS,
    "POST /pages/settings/providers/{name}/conformance": ADMINS,
    "GET /pages/keys": ADMINS,
    "POST /pages/keys": ADMINS,
    "GET /pages/keys/{key_id}": ADMINS,
    "GET /pages/keys/{key_id}/usage": ADMINS,
    "POST /pages/keys/{key_id}/change": ADMINS,
    "POST /pages/keys/{key_id}/revoke": ADMINS,
    "POST /pages/keys/{key_id}/sign-out": ADMINS,
    "GET /pages/datasets/{name}": OWN_RUNS,
    "POST /pages/datasets/preview": ADMINS,
    "POST /pages/datasets/upload": ADMINS,
    "POST /pages/datasets/register": ADMINS,
    "POST /pages/datasets/{name}/delete": ADMINS,
    "POST /pages/datasets/{name}/label": ADMINS,
    "POST /pages/datasets/{name}/labelled": ADMINS,
    "GET /from-traffic": OWN_RUNS,
    "POST /pages/from-traffic": OWN_RUNS,
    "GET /pages/traffic/{request_id}": OWN_REQUESTS,
    "GET /pages/traffic/{request_id}/bodies/{name}": OWN_REQUESTS,
    "POST /pages/traffic/{request_id}/feedback": OWN_REQUESTS,
    "POST /pages/traffic/{request_id}/feedback/{feedback_id}/delete": OWN_REQUESTS,
    "POST /pages/traffic/{request_id}/dataset": OWN_RUNS,
    "POST /pages/traffic/{request_id}/replay": ADMINS,
    "POST /pages/traffic/{request_id}/delete": ADMINS,
    "GET /pages/review": REVIEWERS,
    "GET /pages/review/{row_id}": REVIEWERS,
    "GET /pages/review/{row_id}/content": REVIEWERS,
    "POST /pages/review/{row_id}/{decision}": REVIEWERS,
    "POST /pages/review/publish": REVIEWERS,
    "GET /playground": ANY_KEY,
    "POST /pages/playground/markdown": ANY_KEY,
    "POST /pages/playground/sample": ADMINS,
    "POST /pages/playground/judge": ADMINS,
    "GET /pages/experiments/{name}": REVIEWERS,
    "GET /pages/experiments/{name}/leaderboard": REVIEWERS,
    "POST /pages/experiments/{name}/change": ADMINS,
    "POST /pages/experiments/{name}/delete": ADMINS,
    "GET /judges": REVIEWERS,
    "GET /judges/studies/{study_id}": REVIEWERS,
    "GET /runs/{run_id}/labels": REVIEWERS,
    "GET /runs/{run_id}/labels/next": REVIEWERS,
    "POST /pages/runs/{run_id}/labels/score": REVIEWERS,
    "POST /pages/runs/{run_id}/labels/undo": REVIEWERS,
    # experiments and judges
    "GET /experiments": REVIEWERS,
    "GET /experiments/{name}": REVIEWERS,
    "PATCH /experiments/{name}": ADMINS,
    "DELETE /experiments/{name}": ADMINS,
    "GET /eval/judges": REVIEWERS,
    "GET /eval/judges/studies/{study_id}": REVIEWERS,
    "GET /eval/judges/studies/{study_id}/fragment": REVIEWERS,
    "GET /eval/judges/{name}/calibration": REVIEWERS,
    "GET /eval/judges/{provider}/{model}/calibration": REVIEWERS,
    # datasets
    "GET /datasets": OWN_RUNS,
    "POST /datasets": ADMINS,
    "GET /datasets/{name}": OWN_RUNS,
    "PUT /datasets/{name}": ADMINS,
    "DELETE /datasets/{name}": ADMINS,
    "GET /datasets/{name}/content": OWN_RUNS,
    "GET /datasets/{name}/rows": OWN_RUNS,
    "POST /datasets/from-traffic": OWN_RUNS,
    "POST /datasets/label": ADMINS,
    "POST /datasets/label/{run_id}": ADMINS,
    # rows to review
    "GET /review": REVIEWERS,
    "POST /review": REVIEWERS,
    "POST /review/publish": REVIEWERS,
    "GET /review/{row_id}": REVIEWERS,
    "PATCH /review/{row_id}": REVIEWERS,
    "POST /review/{row_id}/accept": REVIEWERS,
    "POST /review/{row_id}/reject": REVIEWERS,
    "POST /review/{row_id}/undo": REVIEWERS,
    # requests
    "GET /traffic": OWN_REQUESTS,
    "DELETE /traffic": ADMINS,
    "GET /traffic/totals": OWN_REQUESTS,
    "GET /traffic/{request_id}": OWN_REQUESTS,
    "DELETE /traffic/{request_id}": ADMINS,
    "POST /feedback": OWN_REQUESTS,
    "GET /feedback": OWN_REQUESTS,
    "GET /feedback/{feedback_id}": OWN_REQUESTS,
    "DELETE /feedback/{feedback_id}": OWN_REQUESTS,
    "POST /v1/feedback": OWN_REQUESTS,
    "PUT /v1/feedback/{feedback_id}": OWN_REQUESTS,
    "POST /api/public/scores": OWN_REQUESTS,
    "POST /api/public/ingestion": OWN_REQUESTS,
    # the server itself
    "GET /metrics": ADMINS,
    "GET /key": ANY_KEY,
    "GET /keys": ADMINS,
    "POST /keys": ADMINS,
    "GET /keys/{name}": ADMINS,
    "PATCH /keys/{name}": ADMINS,
    "DELETE /keys/{name}": ADMINS,
    "GET /routes": ADMINS,
    "GET /routes/{name}": ADMINS,
    "PUT /routes/{name}": ADMINS,
    "DELETE /routes/{name}": ADMINS,
    "GET /routes/{name}/versions": ADMINS,
    "GET /targets": ADMINS,
    "GET /shadows": ADMINS,
    "POST /what-if": ADMINS,
    "GET /frontier": ADMINS,
    "GET /routes/{name}/shadow": ADMINS,
    "POST /routes/{name}/shadow": ADMINS,
    "GET /routes/{name}/learned": REVIEWERS,
    "POST /routes/{name}/learned": ADMINS,
    # schedules
    "GET /schedules": REVIEWERS,
    "GET /schedules/{name}": REVIEWERS,
    "POST /schedules/{name}/run": ADMINS,
    "POST /schedules/{name}/pause": ADMINS,
    "POST /schedules/{name}/resume": ADMINS,
    "POST /schedules/{name}/accept": ADMINS,
    # rollouts
    "GET /rollouts": REVIEWERS,
    "GET /routes/{name}/rollout": REVIEWERS,
    "POST /routes/{name}/rollout": ADMINS,
    "POST /routes/{name}/rollout/pause": ADMINS,
    "POST /routes/{name}/rollout/resume": ADMINS,
    "POST /routes/{name}/rollout/promote": ADMINS,
    "POST /routes/{name}/rollout/rollback": ADMINS,
    # watches, alerts, evidence
    "GET /models/versions": REVIEWERS,
    "GET /models/retirements": REVIEWERS,
    "GET /watches": REVIEWERS,
    "GET /watches/{name}": REVIEWERS,
    "POST /watches/{name}/probe": ADMINS,
    "POST /watches/{name}/pin": ADMINS,
    "GET /alerts": ADMINS,
    "GET /alerts/{alert_id}": ADMINS,
    "POST /alerts/{alert_id}/silence": ADMINS,
    "POST /alerts/test": ADMINS,
    "GET /evidence": OWN_RUNS,
    "POST /evidence": ADMINS,
    "GET /evidence/{bundle_id}": OWN_RUNS,
    "DELETE /evidence/{bundle_id}": ADMINS,
    # plugins and providers
    "GET /plugins": ADMINS,
    "GET /providers": ADMINS,
    "GET /providers/{name}/conformance": ADMINS,
    "POST /providers/{name}/conformance": ADMINS,
}
# The paths that need no key, and what those begin with that have a parameter.
PUBLIC_PATHS = frozenset(
    operation.partition(" ")[2] for operation, access in ACCESS.items() if access.no_key == "all"
)
PUBLIC_PREFIXES = tuple(path.partition("{")[0] for path in PUBLIC_PATHS if "{" in path)


class Caller(NamedTuple):
    """Who sent a request, and what they may have of what they requested.

    Attributes:
        key: the key of the request; None while no key is needed, and where none is.
        reach: the cell of the table.
        csrf_token: what forms of the sender's pages carry; "" without a session.
    """

    key: KeyRow | None
    reach: Reach
    csrf_token: str = ""

    @property
    def only(self) -> str | None:
        """The id of the key whose runs or requests the answer may have; None for all."""
        return self.key.id if self.key is not None and self.reach == "own" else None

    @property
    def audience(self) -> tuple[str, str]:
        """The key's role, and its id where it sees only what is its own; the same see the same."""
        return ("", "") if self.key is None else (self.key.role, self.only or "")

    @property
    def key_id(self) -> str:
        """The id of the request's key; "" without one."""
        return "" if self.key is None else self.key.id

    @property
    def key_name(self) -> str:
        """The name of the request's key, and its role; "" without one."""
        return "" if self.key is None else f"{self.key.name} ({self.key.role})"

    def reach_of(self, operation: str) -> Reach:
        """Return what the sender may do with another operation; all where there is no key."""
        return "all" if self.key is None else reach_of(operation, self.key.role)

    @property
    def actor(self) -> str:
        """Who decides, as it is stored with a decision."""
        key = self.key
        return "a client without a key" if key is None else f"key {key.name} ({key.id})"


InjectedCaller = NamedDependency[Caller]


def caller(request: Request[Any, Any, Any]) -> Caller:
    """Return who sent a request, as `AccessCheck` found out."""
    sender: Caller = request.scope["auth"]
    return sender


def known_sender(request: Request[Any, Any, Any]) -> Caller | None:
    """Return who sent a request, also one that `AccessCheck` refused or never saw.

    None where that is not known: a path that needs no key, or a key that is missing.
    """
    presented: PresentedKey | None = request.scope.get(PRESENTED)  # type: ignore[assignment]
    if presented is None or (presented.required and presented.key is None):
        return None
    return _sender(presented, "all")


def _sender(presented: PresentedKey, reach: Reach) -> Caller:
    signed_in = presented.signed_in
    token = "" if signed_in is None else signed_in.session.csrf_token
    return Caller(presented.key, reach, token)


class AccessCheck:
    """Litestar's guard of every handler: refuses what the table does not allow.

    Args:
        runs: says whose a run is.
    """

    def __init__(self, runs: RunStore) -> None:
        self._runs = runs

    async def __call__(
        self, connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler
    ) -> None:
        """Let the request through, and leave a Caller for its handler.

        Raises:
            PermissionDeniedError: 403, the key's role may not.
            NotFoundError: the run is another key's.
        """
        scope: Any = connection.scope
        presented: PresentedKey = scope[PRESENTED]
        if not presented.required:
            scope["auth"] = Caller(None, "all")
            return
        row, path = presented.key, scope["path_template"]
        role = None if row is None else row.role
        if scope["method"] == "OPTIONS":
            operations = [name for name in ACCESS if name.partition(" ")[2] == path]
        else:
            operations = [f"{scope['method']} {path}"]
        reaches = {reach_of(operation, role) for operation in operations} - {"no"}
        if not reaches:
            raise _refusal(operations, role)
        scope["auth"] = caller = _sender(presented, "own" if "own" in reaches else "all")
        run_id = scope["path_params"].get("run_id")
        if caller.only is not None and run_id is not None:
            await self._check_run(run_id, caller.only)

    async def _check_run(self, run_id: str, key_id: str) -> None:
        """Refuse a run of another key as if it did not exist, and so a part of its id."""
        run = None
        # The store's message names runs of others whose ids begin so.
        with contextlib.suppress(NotFoundError):
            run = await self._runs.run(run_id)
        if run is None or run.id != run_id or run.key_id != key_id:
            raise NotFoundError(f"There is no run {run_id!r}.")


class PresentedKey(NamedTuple):
    """What `guard.py` leaves for the checks of Litestar's handlers.

    Attributes:
        key: the key of the request.
        required: whether one is needed.
        signed_in: the browser's session, where its cookie names the key.
    """

    key: KeyRow | None
    required: bool
    signed_in: SignedIn | None = None


# Where it is in the scope.
PRESENTED = "evalrouter_key"


def reach_of(operation: str, role: Role | None) -> Reach:
    """Return the cell of the table; "no" for an operation that is not in it.

    A viewer sees what an administrator sees, and changes nothing.
    """
    access = ACCESS.get(operation, CLOSED)
    if role == "viewer":
        return access.admin if operation.startswith("GET ") else access.no_key
    return access.no_key if role is None else getattr(access, role)


def _refusal(operations: list[str], role: Role | None) -> PermissionDeniedError:
    if role == "viewer":
        return PermissionDeniedError(READ_ONLY, code="read_only")
    accesses = [ACCESS.get(operation, CLOSED) for operation in operations]
    if any(access.reviewer != "no" for access in accesses):
        return PermissionDeniedError(
            f"This key's role is {role}; this request needs a key created with "
            "'evalrouter key create NAME --role reviewer', or admin.",
            code="reviewer_required",
        )
    return PermissionDeniedError(
        f"This key's role is {role}; this request needs a key created with "
        "'evalrouter key create NAME --role admin'.",
        code="admin_required",
    )
