"""A run that is sent to MLflow, and the config with a secret that sends it."""

import json

SECRET = "sk-a-secret-of-the-config"
ROWS = [
    {"id": "1", "input": f"It rained. {SECRET}", "reference": "It rained today."},
    {"id": "2", "input": "The shop opens. It closes.", "reference": "The shop opens."},
    {"id": "3", "input": "One. Two.", "reference": "One."},
]
RUN = {
    "dataset": "d.jsonl",
    "name": "first",
    "routes": ["baseline/lead-1", "baseline/echo"],
    "baseline": "baseline/echo",
    "metrics": ["exact_match"],
    "gates": ["exact_match >= 0.1"],
    "tags": ["nightly"],
}


def config(folder, mlflow, **tracking):
    tracking = json.dumps({"mlflow": mlflow, "experiment": "Mine", **tracking})
    return f"""
storage: {{database: "sqlite:///{folder}/e.db", artifacts: "{folder}/artifacts"}}
datasets: {{roots: ["{folder}"]}}
providers: {{host: {{kind: openai, api_key: {SECRET}}}}}
tracking: {tracking}
"""


def write_run(folder):
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "run.json").write_text(json.dumps(RUN))
    return folder


def write_config(folder, mlflow, **tracking):
    (folder / "c.yaml").write_text(config(folder, mlflow, **tracking))
    return ("--config", folder / "c.yaml")
