"""The command line. Exit codes: 0 done, 1 a gate or a run failed, 2 bad usage or config."""

from __future__ import annotations

import click

from router.cli.chat import chat
from router.cli.commands import Commands
from router.cli.compare import eval_compare
from router.cli.completion import completion
from router.cli.datasets import dataset
from router.cli.doctor import doctor
from router.cli.evals import evaluate
from router.cli.experiments import experiment
from router.cli.export import eval_export
from router.cli.getting_started import config, data, demo
from router.cli.init import init
from router.cli.judges import judge
from router.cli.keys import key
from router.cli.labelling import dataset_label
from router.cli.models import models
from router.cli.plugins import metrics, plugins
from router.cli.providers import providers
from router.cli.serve import serve
from router.cli.store import store
from router.cli.submit import eval_submit
from router.cli.tasks import tasks
from router.cli.tracking import eval_track
from router.cli.traffic import traffic


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="evalrouter")
def main() -> None:
    """An OpenAI-compatible LLM router that evaluates what it routes."""


for command in (serve, demo, config, data, dataset, evaluate, experiment, key, models, providers):
    main.add_command(command)
main.add_command(chat)
main.add_command(completion)
main.add_command(doctor)
main.add_command(init)
main.add_command(judge)
main.add_command(metrics)
main.add_command(plugins)
main.add_command(store)
main.add_command(traffic)
dataset.add_command(dataset_label)
evaluate.add_command(eval_export)
evaluate.add_command(eval_compare)
evaluate.add_command(eval_submit)
evaluate.add_command(eval_track)
evaluate.add_command(tasks)
