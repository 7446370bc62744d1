"""Which tests hold which module: the only place that knows where either is."""

from __future__ import annotations

from typing import NamedTuple


class Module(NamedTuple):
    """A pure module and the tests that its mutants have to survive.

    Attributes:
        name: the module's dotted name.
        tests: files; all of them together should take seconds.
    """

    name: str
    tests: tuple[str, ...]


MODULES = {
    "routing": Module("router.gateway.routing", ("tests/router/gateway/test_routing.py",)),
    "targets": Module("router.gateway.targets", ("tests/router/gateway/test_targets.py",)),
    "limits": Module("router.gateway.limits", ("tests/router/gateway/test_limits.py",)),
    "sse": Module("providers.http.sse", ("tests/providers/http/test_sse.py",)),
    "gates": Module(
        "evaluators.reports.gates",
        (
            "tests/evaluators/reports/test_gates.py",
            "tests/evaluators/reports/test_corrected_gates.py",
        ),
    ),
    "messages_requests": Module(
        "providers.translation.messages_requests",
        ("tests/providers/translation/test_messages_requests.py",),
    ),
    "messages_input": Module(
        "providers.translation.messages_input",
        ("tests/providers/translation/test_messages_requests.py",),
    ),
    "messages_answers": Module(
        "providers.translation.messages_answers",
        ("tests/providers/translation/test_messages_answers.py",),
    ),
    "pacing": Module("router.evals.concurrency", ("tests/router/evals/test_concurrency.py",)),
    "lanes": Module(
        "evaluators.execution.scheduler", ("tests/evaluators/execution/test_scheduler.py",)
    ),
    "target_lanes": Module("router.evals.lanes", ("tests/router/evals/test_target_lanes.py",)),
    "verdicts": Module("evaluators.judge.verdicts", ("tests/evaluators/judge/test_verdicts.py",)),
    "differences": Module(
        "evaluators.stats.differences", ("tests/evaluators/stats/test_differences.py",)
    ),
    "intervals": Module(
        "evaluators.stats.intervals", ("tests/evaluators/stats/test_intervals.py",)
    ),
    "unpaired": Module(
        "evaluators.stats.unpaired",
        ("tests/evaluators/stats/test_unpaired.py", "tests/evaluators/stats/test_differences.py"),
    ),
    "randomised": Module(
        "evaluators.stats.randomised", ("tests/evaluators/stats/test_randomised.py",)
    ),
    "recent_quantile": Module(
        "evaluators.stats.recent_quantile", ("tests/evaluators/stats/test_randomised.py",)
    ),
    "rollout_rules": Module(
        "router.loop.rollout_rules", ("tests/router/loop/test_rollout_rules.py",)
    ),
    "rollout_forecast": Module(
        "router.loop.rollout_forecast", ("tests/router/loop/test_rollout_forecast.py",)
    ),
    "field_checks": Module(
        "providers.translation.field_checks",
        ("tests/providers/translation/test_responses_requests.py",),
    ),
    "responses_input": Module(
        "providers.translation.responses_input",
        ("tests/providers/translation/test_responses_requests.py",),
    ),
    "responses_parts": Module(
        "providers.translation.responses_parts",
        ("tests/providers/translation/test_responses_requests.py",),
    ),
    "responses_tools": Module(
        "providers.translation.responses_tools",
        ("tests/providers/translation/test_responses_requests.py",),
    ),
    "responses_requests": Module(
        "providers.translation.responses_requests",
        ("tests/providers/translation/test_responses_requests.py",),
    ),
    "responses_items": Module(
        "providers.translation.responses_items",
        ("tests/providers/translation/test_responses_answers.py",),
    ),
    "responses_answers": Module(
        "providers.translation.responses_answers",
        ("tests/providers/translation/test_responses_answers.py",),
    ),
}
