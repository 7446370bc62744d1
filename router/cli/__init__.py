"""The command line. Exit codes: 0 done, 1 a gate or a run failed, 2 bad usage or config."""

from __future__ import annotations

import click

from router.cli.commands import CommandsOnDemand

# Where each command is, and the line about it in `evalrouter --help`. What a command needs is
# imported when it is called: all of it together takes a second.
COMMANDS = {
    "alerts": (
        "router.cli.alerts:alerts",
        "Show alerts and the messages about them, silence alerts, and test receivers.",
    ),
    "chat": (
        "router.cli.chat:chat",
        "Talk to MODEL, a route or PROVIDER/MODEL, and see its answer as it comes.",
    ),
    "completion": (
        "router.cli.completion:completion",
        "Print the script that lets a shell complete evalrouter's commands, models and runs.",
    ),
    "config": ("router.cli.getting_started:config", "Work with config files."),
    "data": (
        "router.cli.getting_started:data",
        "Data that some metrics need and that is never downloaded by itself.",
    ),
    "dataset": ("router.cli.datasets:dataset", "Register datasets under names, and look at them."),
    "demo": (
        "router.cli.getting_started:demo",
        "Route, evaluate and compare, offline, in under a minute.",
    ),
    "doctor": (
        "router.cli.doctor:doctor",
        "Check the config, the providers and their keys, the stores, traces and this machine.",
    ),
    "drift": ("router.cli.drift:drift", "See whether watched models have changed (`watches:`)."),
    "eval": ("router.cli.evals:evaluate", "Run evaluations and look at them."),
    "evidence": (
        "router.cli.evidence:evidence",
        "Write what a run's or a rollout's numbers were made of into a file that others can check.",
    ),
    "experiment": (
        "router.cli.experiments:experiment",
        "Look at several runs under one name; a run joins with `eval run --experiment NAME`.",
    ),
    "feedback": (
        "router.cli.feedback:feedback",
        "Give feedback about requests, and list it.",
    ),
    "frontier": (
        "router.cli.frontier:frontier",
        "Compare the targets of ROUTE by quality, cost and time, and say which are worth having.",
    ),
    "init": (
        "router.cli.init:init",
        "Write a first config file, with the keys and model servers that this machine has.",
    ),
    "judge": (
        "router.cli.judges:judge",
        "Measure how far judges can be trusted, and let them compare.",
    ),
    "key": ("router.cli.keys:key", "Create, change, list and revoke clients' keys."),
    "mcp": (
        "router.cli.mcp:mcp",
        "Serve tools for coding agents over standard input and output (Model Context Protocol).",
    ),
    "metrics": ("router.cli.plugins:metrics", "The metrics that run documents may name."),
    "models": (
        "router.cli.models:models",
        "Host local models on Ray Serve, and see which versions of models answered.",
    ),
    "plugins": (
        "router.cli.plugins:plugins",
        "What installed packages add: metrics, kinds of provider, kinds of judge.",
    ),
    "providers": ("router.cli.providers:providers", "Work with the providers of the config."),
    "review": (
        "router.cli.review:review",
        "Decide about the rows that wait before they become part of a dataset.",
    ),
    "rollout": (
        "router.cli.rollouts:rollout",
        "Give a candidate a growing share of a route's requests, and promote it or roll it back.",
    ),
    "route": (
        "router.cli.learned_routes:route",
        "Learn routes with the strategy `learned`, and see whether that pays.",
    ),
    "schedule": (
        "router.cli.schedules:schedule",
        "Look at runs that are executed at their times (`schedules:`), and run them now.",
    ),
    "serve": ("router.cli.serve:serve", "Start the server."),
    "shadow": (
        "router.cli.shadows:shadow",
        "Compare routes with candidates that answer copies of their requests (`shadow:`).",
    ),
    "store": ("router.cli.store:store", "Move everything that is stored to another database."),
    "traffic": (
        "router.cli.traffic:traffic",
        "List requests, delete what is stored of them, and move old ones into files.",
    ),
    "verify": (
        "router.cli.evidence:verify",
        "Recompute every number of a file of evidence, and say what differs.",
    ),
    "what-if": (
        "router.cli.what_if:what_if",
        "Estimate what a routing policy would have brought that was never run.",
    ),
}


@click.group(
    cls=CommandsOnDemand,
    on_demand=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="evalrouter")
def main() -> None:
    """An OpenAI-compatible LLM router that evaluates what it routes."""
