"""The bodies that operations take, as the OpenAPI document describes them.

Handlers read their bodies themselves, because a mistake in one is answered with its place in the
document. `BODIES` says what they read; a test compares it with the handlers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from evaluators.document import RunDocument
from router.api.bodies import NoOptions
from router.api.datasets import LabelName, Registration
from router.api.evals import Extended, Rescored, Resumed
from router.api.keys import KeyEdit, NewKey
from router.api.multipart import FORM
from router.api.review import ImportedRows, Publication, Rejection
from router.config.rollouts import RouteRollout
from router.config.routes import Route
from router.evals.experiments import ExperimentChange
from router.evals.judges.people_labels import LabelledAnswers
from router.evals.labelling import LabelRequest
from router.evals.sample_notes import NoteRequest
from router.loop.alert_administration import AlertTest, SilenceRequest
from router.loop.bundles.exported import EvidenceRequest
from router.loop.feedback_forms import (
    GivenFeedback,
    LangfuseBatch,
    LangfuseScore,
    PortkeyChange,
    PortkeyFeedback,
)
from router.loop.review import ReviewEdit
from router.loop.rollouts import RolloutAction
from router.loop.schedules import ScheduleAcceptance, ScheduleRequest, ScheduleRunRequest
from router.loop.shadow import ShadowChange
from router.loop.traffic_dataset import TrafficSelection
from router.loop.watches import WatchPin
from router.loop.what_if import WhatIfRequest
from router.openai.conversations import NewConversation, NewItems, NewMetadata

Described = dict[str, Any]


class RequestBodyKind(NamedTuple):
    """What the body of an operation is.

    Attributes:
        kind: the type that it is read as; None for an empty body, or `{}`.
        required: whether there must be one.
    """

    kind: type[msgspec.Struct] | None
    required: bool = True


_EMPTY = RequestBodyKind(None, required=False)
BODIES: Mapping[str, RequestBodyKind] = {
    "POST /eval": RequestBodyKind(RunDocument),
    "POST /eval/{run_id}/pause": _EMPTY,
    "POST /eval/{run_id}/cancel": _EMPTY,
    "POST /eval/{run_id}/resume": RequestBodyKind(Resumed, required=False),
    "POST /eval/{run_id}/rescore": RequestBodyKind(Rescored, required=False),
    "POST /eval/{run_id}/extend": RequestBodyKind(Extended),
    "POST /eval/{run_id}/export": _EMPTY,
    "POST /eval/{run_id}/track": _EMPTY,
    "PUT /eval/{run_id}/labels": RequestBodyKind(LabelledAnswers),
    "PUT /eval/{run_id}/samples/{position}/notes": RequestBodyKind(NoteRequest),
    "PATCH /experiments/{name}": RequestBodyKind(ExperimentChange),
    "POST /datasets": RequestBodyKind(Registration),
    "POST /datasets/from-traffic": RequestBodyKind(TrafficSelection),
    "POST /what-if": RequestBodyKind(WhatIfRequest),
    "POST /datasets/label": RequestBodyKind(LabelRequest),
    "POST /datasets/label/{run_id}": RequestBodyKind(LabelName, required=False),
    "POST /review": RequestBodyKind(ImportedRows),
    "POST /review/publish": RequestBodyKind(Publication, required=False),
    "PATCH /review/{row_id}": RequestBodyKind(ReviewEdit, required=False),
    "POST /review/{row_id}/accept": RequestBodyKind(ReviewEdit, required=False),
    "POST /review/{row_id}/reject": RequestBodyKind(Rejection, required=False),
    "POST /review/{row_id}/undo": _EMPTY,
    "POST /keys": RequestBodyKind(NewKey),
    "PATCH /keys/{name}": RequestBodyKind(KeyEdit),
    "PUT /routes/{name}": RequestBodyKind(Route),
    "POST /routes/{name}/shadow": RequestBodyKind(ShadowChange),
    "POST /routes/{name}/learned": _EMPTY,
    "POST /routes/{name}/rollout": RequestBodyKind(RouteRollout),
    "POST /evidence": RequestBodyKind(EvidenceRequest),
    **{
        f"POST /routes/{{name}}/rollout/{action}": RequestBodyKind(RolloutAction)
        for action in ("pause", "resume", "promote", "rollback")
    },
    "POST /watches/{name}/probe": _EMPTY,
    "POST /watches/{name}/pin": RequestBodyKind(WatchPin),
    "POST /schedules/{name}/run": RequestBodyKind(ScheduleRunRequest, required=False),
    "POST /schedules/{name}/pause": RequestBodyKind(ScheduleRequest),
    "POST /schedules/{name}/resume": RequestBodyKind(ScheduleRequest),
    "POST /schedules/{name}/accept": RequestBodyKind(ScheduleAcceptance),
    "POST /alerts/{alert_id}/silence": RequestBodyKind(SilenceRequest),
    "POST /alerts/test": RequestBodyKind(AlertTest),
    "POST /feedback": RequestBodyKind(GivenFeedback),
    "POST /v1/feedback": RequestBodyKind(PortkeyFeedback),
    "PUT /v1/feedback/{feedback_id}": RequestBodyKind(PortkeyChange),
    "POST /api/public/scores": RequestBodyKind(LangfuseScore),
    "POST /api/public/ingestion": RequestBodyKind(LangfuseBatch),
    "POST /providers/{name}/conformance": _EMPTY,
    "POST /v1/responses/{response_id}/cancel": _EMPTY,
    "POST /v1/conversations": RequestBodyKind(NewConversation, required=False),
    "POST /v1/conversations/{conversation_id}": RequestBodyKind(NewMetadata),
    "POST /v1/conversations/{conversation_id}/items": RequestBodyKind(NewItems),
}
# The type is not JSON.
_BINARY: Described = {"type": "string", "format": "binary"}
_FORM: Described = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": _BINARY | {"description": "The file; its name ends in its format."},
        "name": {"type": "string", "description": "The dataset's name; the file's by default."},
        "column": {
            "type": "array",
            "items": {"type": "string"},
            "description": "`own=known` for each column that has another name.",
        },
        "delimiter": {"type": "string", "maxLength": 16},
    },
}
_UPLOAD: Described = {
    "required": True,
    "content": {"application/octet-stream": {"schema": _BINARY}},
}


def add_bodies(document: Described) -> None:
    """Put the bodies, and the schemas that they refer to, into an OpenAPI document."""
    kinds = [body.kind or NoOptions for body in BODIES.values()]
    schemas, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}Body"
    )
    # What a task fills in may be left out of the document that names it.
    components["RunDocument"]["required"] = ["dataset", "routes"]
    # An answer may have an object of the same name, which has all of its fields.
    document["components"]["schemas"] |= {
        f"{name}Body": component | {"title": f"{name}Body"}
        for name, component in components.items()
    }
    for (operation, body), schema in zip(BODIES.items(), schemas, strict=True):
        method, path = operation.lower().split(" ", 1)[0], operation.split(" ", 1)[1]
        document["paths"][path][method]["requestBody"] = {
            "required": body.required,
            "content": {"application/json": {"schema": schema}},
        }
    document["paths"]["/datasets"]["post"]["requestBody"]["content"][FORM] = {"schema": _FORM}
    document["paths"]["/datasets/{name}"]["put"]["requestBody"] = _UPLOAD
