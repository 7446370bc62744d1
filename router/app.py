"""The server, composed in one visible place. START READING HERE.

    create_app(Services(config))  ->  an ASGI app

`api/front.py` sends a request for one of the model paths straight to `api/completions.py` (keys,
plan, dispatch, relay). Everything else goes by `api/guard.py`, which checks the key where one is
needed, to Litestar: the lists below are all there is, `api/access.py` says who may call what, and
`api/query_parameters.py` refuses parameters that no handler has. `/mcp` is answered by
`api/mcp_requests.py`, whose tools call the server in the same way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from litestar import Litestar
from litestar.di import Provide
from litestar.types import ASGIApp

from providers.errors import EvalrouterError
from router.api import (
    access,
    alert_page,
    alerts,
    compare,
    compare_page,
    completions,
    conversations,
    dataset_page,
    datasets,
    datasets_page,
    documentation_page,
    errors,
    evals,
    evidence,
    experiment_page,
    experiments,
    export,
    feedback,
    feedback_page,
    following,
    from_traffic_page,
    front,
    frontier,
    guard,
    health,
    home_page,
    judges,
    judges_page,
    keys,
    keys_page,
    labels_page,
    learned,
    live,
    mcp_requests,
    metrics,
    models,
    new_run_page,
    openapi,
    page_layout,
    pages,
    playground_page,
    plugins,
    preparation,
    providers,
    query_parameters,
    request_page,
    responses,
    review,
    review_page,
    rollout_page,
    rollouts,
    route_page,
    routes,
    run_actions,
    run_log_page,
    run_logs,
    run_page,
    runs_page,
    sample_notes,
    sample_page,
    samples_page,
    schedule_page,
    schedules,
    sent_forms,
    settings_page,
    shadow_page,
    shadows,
    sign_in,
    slices,
    static_files,
    targets,
    tasks,
    tracking,
    traffic,
    traffic_page,
    versions,
    watch_page,
    watches,
    what_if,
)
from router.api.origins import Hosts, Origins
from router.api.recent_totals import RecentTotals
from router.config.shown import ShownConfig
from router.evals.lease import this_owner
from router.evals.plugins import report
from router.gateway.sessions import FailedSignIns, Sessions
from router.services import Services

log = logging.getLogger("evalrouter")


class _Part(Protocol):
    """What a server does beside answering requests."""

    async def open(self) -> None:
        """Begin."""
        ...

    async def close(self) -> None:
        """Stop."""
        ...


# Seconds. What cannot be written by then, such as that a lease is free, is not needed: leases end.
CLOSING_S = 3.0


async def _close_all(parts: Sequence[_Part]) -> None:
    """Close parts at the same time, and leave those that a database in trouble holds up."""
    closing = [asyncio.create_task(part.close()) for part in parts]
    _, late = await asyncio.wait(closing, timeout=CLOSING_S)
    for task in late:
        task.cancel()
    for result in await asyncio.gather(*closing, return_exceptions=True):
        if isinstance(result, Exception):
            log.error("a part of the server could not be closed: %s", result)


def create_app(services: Services) -> ASGIApp:
    """Return the ASGI app over a process's parts, which its lifespan opens and closes."""
    config = services.config
    examinations = providers.Examinations()
    forms = sent_forms.SentForms(services.store, this_owner())
    shown_config = ShownConfig(config, services.source)
    followers = following.Followers(services.store)
    live_parts = live.LiveParts()
    recent = RecentTotals(services.recorded, services.store)
    downloads = export.Downloads()
    sessions = Sessions(services.store, services.keys)
    failures = FailedSignIns()

    # What a server does beside answering requests, and can stop at any time.
    background: tuple[_Part, ...] = (
        services.review,
        services.feedback_review,
        services.rollout_judging,
        services.toxicity_review,
        services.rollout_controller,
        services.watches,
        services.retirements,
        services.schedule_controller,
        services.learned_routes,
        services.alert_controller,
        preparation.PagePreparation(),
        services.expired_responses,
    )
    start = front.StartFailure()

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await asyncio.to_thread(report)
            try:
                await stack.enter_async_context(services)
                await services.key_sync.load()
            except EvalrouterError as error:
                start.error = error
                raise
            try:
                await services.schedules.check()
                services.jobs.serve()
                await services.sealing.open()
                await services.shadows.open()
                for part in background:
                    await part.open()
                yield
            finally:
                await _close_all(background)
                services.shadows.drain()
                await services.jobs.close()
                await services.shadows.close()
                await services.sealing.close()
                await services.key_sync.close()

    # Everything but the paths under /schema and the model paths.
    schema = openapi.SchemaDocument(
        route_handlers=[
            models.list_models,
            models.show_model,
            responses.show_response,
            responses.delete_response,
            responses.cancel_response,
            responses.list_input_items,
            conversations.create_conversation,
            conversations.show_conversation,
            conversations.change_conversation,
            conversations.delete_conversation,
            conversations.list_conversation_items,
            conversations.add_conversation_items,
            conversations.show_conversation_item,
            conversations.delete_conversation_item,
            health.live,
            health.ready,
            routes.list_routes,
            routes.show_route,
            routes.put_route,
            routes.delete_route,
            routes.list_route_versions,
            targets.list_targets,
            shadows.list_shadows,
            shadows.show_shadow,
            shadows.change_shadow,
            learned.show_learned,
            learned.learn_route,
            what_if.estimate_policy,
            frontier.show_frontier,
            rollouts.list_rollouts,
            rollouts.start_rollout,
            rollouts.show_rollout,
            rollouts.pause_rollout,
            rollouts.resume_rollout,
            rollouts.promote_rollout,
            rollouts.rollback_rollout,
            evidence.list_evidence,
            evidence.create_evidence,
            evidence.download_evidence,
            evidence.delete_evidence,
            versions.list_versions,
            versions.list_retirements,
            watches.list_watches,
            watches.show_watch,
            watches.probe_watch,
            watches.pin_watch,
            schedules.list_schedules,
            schedules.show_schedule,
            schedules.run_schedule,
            schedules.pause_schedule,
            schedules.resume_schedule,
            schedules.accept_scheduled_run,
            alerts.list_alerts,
            alerts.show_alert,
            alerts.silence_alert,
            alerts.test_receiver,
            evals.create_run,
            tasks.list_tasks,
            plugins.list_metrics,
            plugins.list_plugins,
            evals.list_runs,
            evals.show_run,
            evals.delete_run,
            evals.pause_run,
            evals.cancel_run,
            evals.resume_run,
            evals.rescore_run,
            tracking.track_run,
            evals.extend_run,
            compare.compare,
            evals.follow_run,
            evals.list_samples,
            sample_notes.list_notes,
            sample_notes.put_note,
            sample_notes.remove_note,
            slices.show_slices,
            export.export,
            export.show_export,
            export.download_export,
            export.rows_as_csv,
            export.rows_as_jsonl,
            export.rows_as_parquet,
            run_logs.list_log,
            datasets.list_datasets,
            datasets.register_dataset,
            datasets.make_from_traffic,
            datasets.begin_labels,
            datasets.register_labels,
            datasets.upload_dataset,
            datasets.show_dataset,
            datasets.list_rows,
            datasets.download_dataset,
            datasets.delete_dataset,
            review.list_review,
            review.add_review,
            review.show_review,
            review.edit_review,
            review.accept_review,
            review.reject_review,
            review.undo_review,
            review.publish_review,
            experiments.list_experiments,
            experiments.show_experiment,
            experiments.change_experiment,
            experiments.delete_experiment,
            judges.list_studies,
            judges.show_study,
            judges.study_fragment,
            judges.judge_calibration,
            judges.model_calibration,
            judges.list_judgements,
            judges.list_labels,
            judges.keep_labels,
            judges.show_label_plan,
            traffic.list_traffic,
            traffic.add_up_traffic,
            traffic.show_traffic,
            traffic.delete_traffic,
            traffic.delete_request,
            feedback.give_feedback,
            feedback.list_feedback,
            feedback.show_feedback,
            feedback.delete_feedback,
            feedback.give_portkey_feedback,
            feedback.change_portkey_feedback,
            feedback.give_langfuse_score,
            feedback.take_langfuse_batch,
            metrics.metrics,
            keys.show_own_key,
            keys.list_keys,
            keys.create_key,
            keys.show_key,
            keys.change_key,
            keys.revoke_key,
            providers.list_providers,
            providers.conformance,
            providers.examine,
            home_page.home,
            home_page.home_part,
            pages.route_list,
            route_page.route_page,
            route_page.route_part,
            route_page.change_route,
            route_page.route_versions,
            route_page.restore_route,
            rollout_page.rollout_list,
            rollout_page.rollout_page,
            rollout_page.rollout_part,
            rollout_page.change_rollout,
            rollout_page.new_rollout,
            rollout_page.start_rollout,
            shadow_page.shadow_list,
            shadow_page.shadow_page,
            shadow_page.change_shadow,
            watch_page.watch_list,
            watch_page.watch_page,
            watch_page.change_watch,
            schedule_page.schedule_list,
            schedule_page.schedule_page,
            schedule_page.change_schedule,
            alert_page.alert_list,
            alert_page.alert_page,
            alert_page.silence_alert,
            runs_page.run_list,
            runs_page.runs_part,
            new_run_page.new_run,
            new_run_page.begin_run,
            run_page.run_page,
            samples_page.samples_page,
            compare_page.compare_page,
            sample_page.sample_page,
            sample_page.sample_text,
            sample_page.keep_note,
            run_page.run_part,
            run_log_page.run_log,
            run_log_page.run_log_part,
            run_actions.pause,
            run_actions.cancel,
            run_actions.resume,
            run_actions.rescore,
            run_actions.extend,
            run_actions.delete,
            pages.experiment_list,
            documentation_page.documentation,
            traffic_page.request_list,
            traffic_page.live_requests,
            traffic_page.request_totals,
            feedback_page.feedback_list,
            keys_page.key_list,
            keys_page.create_key,
            keys_page.key_page,
            keys_page.key_usage,
            keys_page.change_key,
            keys_page.revoke_key,
            keys_page.sign_out_browsers,
            datasets_page.dataset_list,
            datasets_page.preview_file,
            datasets_page.store_file,
            datasets_page.register_address,
            dataset_page.dataset_page,
            dataset_page.delete_version,
            dataset_page.begin_labels,
            dataset_page.register_labels,
            from_traffic_page.traffic_form,
            from_traffic_page.make_dataset,
            request_page.request_page,
            request_page.request_body,
            request_page.say,
            request_page.take_back,
            request_page.copy_to_dataset,
            request_page.replay,
            request_page.remove,
            review_page.review_list,
            review_page.review_page,
            review_page.review_content,
            review_page.decide,
            review_page.publish,
            settings_page.server_settings,
            settings_page.config_settings,
            settings_page.price_settings,
            settings_page.metric_settings,
            settings_page.role_settings,
            settings_page.provider_settings,
            settings_page.examine_provider,
            playground_page.playground,
            playground_page.answer_as_markdown,
            playground_page.keep_sample,
            playground_page.judge_answers,
            experiment_page.experiment_page,
            experiment_page.leaderboard_part,
            experiment_page.change_experiment,
            experiment_page.delete_experiment,
            judges_page.judge_list,
            judges_page.study_page,
            labels_page.labels_page,
            labels_page.next_answer,
            labels_page.give_score,
            labels_page.undo_score,
            sign_in.show_login,
            sign_in.sign_in,
            sign_in.sign_out,
            static_files.static_file,
        ],
        dependencies={
            "services": Provide(lambda: services, sync_to_thread=False),
            "caller": Provide(access.caller, sync_to_thread=False),
            "followers": Provide(lambda: followers, sync_to_thread=False),
            "recent": Provide(lambda: recent, sync_to_thread=False),
            "parts": Provide(lambda: live_parts, sync_to_thread=False),
            "downloads": Provide(lambda: downloads, sync_to_thread=False),
            "shown_config": Provide(lambda: shown_config, sync_to_thread=False),
            "examinations": Provide(lambda: examinations, sync_to_thread=False),
            "forms": Provide(lambda: forms, sync_to_thread=False),
            "sessions": Provide(lambda: sessions, sync_to_thread=False),
            "failures": Provide(lambda: failures, sync_to_thread=False),
        },
    )
    app = Litestar(
        route_handlers=[*schema.route_handlers, openapi.schema_as_json, openapi.schema_as_yaml],
        dependencies={
            **schema.dependencies,
            "schema": Provide(lambda: schema, sync_to_thread=False),
        },
        guards=[
            access.AccessCheck(services.store),
            sign_in.CsrfCheck(),
            query_parameters.QueryCheck(),
        ],
        exception_handlers={Exception: errors.handle},
        lifespan=[lifespan],
        request_max_body_size=config.server.max_body_bytes,
        # Litestar would make the document at the start, or hold up other requests to make it.
        openapi_config=None,
        # Logging belongs to whoever runs the app.
        logging_config=None,
        # Litestar would answer errors in its own shape in debug mode.
        debug=False,
    )
    hosts = Hosts(config.server)
    origins = Origins(config.server.allow_origins)
    guarded = guard.Guard(
        app,
        keys=services.keys,
        sessions=sessions,
        pages=page_layout.Pages(schema.route_handlers),
        server=config.server,
        hosts=hosts,
        origins=origins,
    )
    server = front.Front(
        completions.Completions(
            services, hosts, origins, sign_in.ModelSessions(sessions, services.keys, origins)
        ),
        mcp_requests.McpRequests(
            guarded,
            keys=services.keys,
            hosts=hosts,
            origins=origins,
            max_body_bytes=config.server.max_body_bytes,
        ),
        origins,
        config.server.max_body_bytes,
        start,
    )
    return origins.exposing(server) if origins.configured else server
