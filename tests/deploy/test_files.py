"""The files of the image, of compose.yaml and of the chart, as far as no engine is needed."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import yaml
from servers import gateway, reserved_port, s3_server

from router.cli import main
from router.config.environment import unread_variables
from router.config.loading import parse

DOCKERFILE = Path("Dockerfile").read_text()
CHART = Path("deploy/helm/evalrouter")


def compose():
    return yaml.safe_load(Path("compose.yaml").read_text())


# the image


def test_every_extra_of_a_variant_exists():
    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    core = re.search(r"core=([a-z0-9,]+);", DOCKERFILE)[1]
    variants = re.findall(r"^ +(\w+)\) extras=(\S+) ;;", DOCKERFILE, re.MULTILINE)
    assert [name for name, _ in variants] == ["core", "local", "ray"]
    for _, named in variants:
        assert set(named.replace("$core", core).split(",")) <= set(extras)


def test_pip_settings_are_arguments_of_the_first_stage_alone():
    build, final = DOCKERFILE.split("\nFROM ${BASE}\n")
    assert re.search(r"^ARG PIP_INDEX_URL= PIP_EXTRA_INDEX_URL=", build, re.MULTILINE)
    assert "PIP_" not in final
    assert "://" not in DOCKERFILE


def test_the_build_context_has_all_that_is_copied_and_no_more():
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for name in line.split()
    }
    allowed = re.findall(r"^!(.+)$", Path(".dockerignore").read_text(), re.MULTILINE)
    assert all(Path(name).exists() for name in copied)
    for name in copied:
        assert any(Path(name).is_relative_to(folder) for folder in allowed), name
    for folder in allowed:
        assert any(Path(name).is_relative_to(folder) for name in copied), folder


def test_the_command_is_one_that_serve_has():
    [command] = re.findall(r"^CMD (\[.+\])$", DOCKERFILE, re.MULTILINE)
    [entrypoint] = re.findall(r"^ENTRYPOINT (\[.+\])$", DOCKERFILE, re.MULTILINE)
    assert json.loads(entrypoint) == ["tini", "--", "evalrouter"]
    name, serve, arguments = main.resolve_command(click.Context(main), json.loads(command))
    # Raises where an option is not known.
    serve.make_context(name, arguments)


def health_check(port):
    [command] = re.findall(r"^ +CMD (\[.+healthcheck.+\])$", DOCKERFILE, re.MULTILINE)
    program = json.loads(command)[-1]
    [source] = re.findall(rf"^COPY (\S+) {program}$", DOCKERFILE, re.MULTILINE)
    # A proxy of the environment is not asked.
    environ = os.environ | {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}
    return subprocess.run(
        [sys.executable, source, str(port)],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
    )


def test_the_health_check_tells_whether_a_server_can_take_requests(tmp_path):
    config = f"storage: {{database: 'sqlite:///{tmp_path}/e.db'}}"
    with gateway(config) as url:
        port = url.rpartition(":")[2]
        done = health_check(port)
        assert (done.returncode, json.loads(done.stdout)) == (0, {"status": "ready"})
        (tmp_path / "e.db").rename(tmp_path / "moved.db")
        while (done := health_check(port)).returncode == 0:
            # Requests within a second share one check of the database.
            pass
        assert json.loads(done.stdout)["database"] == "deleted"
        (tmp_path / "moved.db").rename(tmp_path / "e.db")
    with reserved_port() as port:
        done = health_check(port)
    assert done.returncode == 1
    assert done.stderr.startswith(f"no answer at port {port}: ")


# compose.yaml


def test_files_that_are_mounted_exist():
    for name, service in compose()["services"].items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("./"):
                assert Path(source).exists(), name
            elif not source.startswith("$"):
                assert source in compose()["volumes"], name


def test_only_this_machine_can_reach_a_port():
    ports = [port for each in compose()["services"].values() for port in each.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_services_beyond_the_router_and_its_stores_have_profiles():
    services = compose()["services"]
    assert {name for name, service in services.items() if "profiles" not in service} == {
        *("router", "postgres", "s3", "bucket"),
    }
    profiles = {profile for each in services.values() for profile in each.get("profiles", [])}
    described = re.findall(r"^#   (\w+) +\S", Path("compose.yaml").read_text(), re.MULTILINE)
    assert profiles == set(described)


def test_something_reads_the_variables_of_the_router():
    environ = compose()["services"]["router"]["environment"]
    merged = {**environ.pop("<<", {}), **environ}
    assert unread_variables(merged) == []
    text = Path("deploy/compose/evalrouter.yaml").read_text()
    values = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in merged.items()}
    config = parse(text, "evalrouter.yaml", values)
    assert config.storage.database == "postgresql://evalrouter@postgres:5432/evalrouter"
    assert config.storage.artifacts == "s3://evalrouter"
    assert config.telemetry.otlp_endpoint == ""
    assert not config.server.admin_key
    traced = parse(text, "evalrouter.yaml", values | {"OTLP_ENDPOINT": "http://phoenix:6006"})
    assert traced.telemetry.otlp_endpoint == "http://phoenix:6006"


def test_a_server_has_the_time_that_it_needs_to_end():
    grace = compose()["services"]["router"]["stop_grace_period"]
    drain = parse("", "evalrouter.yaml", {}).server.drain_seconds
    assert int(grace.removesuffix("s")) >= drain + 5


def test_the_bucket_is_created_once():
    with s3_server("other") as s3:
        environ = os.environ | {
            "S3_BUCKET": "evalrouter",
            "AWS_ENDPOINT_URL": s3.endpoint_url,
            "AWS_DEFAULT_REGION": s3.region,
            "AWS_ACCESS_KEY_ID": s3.access_key_id.reveal(),
            "AWS_SECRET_ACCESS_KEY": s3.secret_access_key.reveal(),
        }
        creating = [
            subprocess.Popen(
                [sys.executable, "deploy/compose/create_bucket.py"],
                stdout=subprocess.PIPE,
                text=True,
                env=environ,
            )
            for _ in range(2)
        ]
        for creates in creating:
            out, _ = creates.communicate()
            assert (creates.returncode, out) == (0, "the bucket evalrouter is there\n")


# Prometheus and Grafana


def metric_names(expression):
    return set(re.findall(r"\b(?:evalrouter|process)_\w+", expression))


def rule_expressions():
    groups = yaml.safe_load((CHART / "files/rules.yaml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def dashboard_expressions():
    dashboard = json.loads((CHART / "files/dashboard.json").read_text())
    return [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_the_rules_and_the_dashboard_use_metrics_that_exist(http, tmp_path):
    config = f"storage: {{database: 'sqlite:///{tmp_path}/e.db'}}"
    with gateway(config) as url:
        scraped = http.get(f"{url}/metrics").text
    families = dict(re.findall(r"^# TYPE (\S+) (\w+)$", scraped, re.MULTILINE))
    exist = set(families)
    for name, kind in families.items():
        if kind == "histogram":
            exist |= {f"{name}_{suffix}" for suffix in ("bucket", "count", "sum")}
    expressions = [*rule_expressions(), *dashboard_expressions()]
    assert len(expressions) > 25
    for expression in expressions:
        names = metric_names(expression)
        assert names or expression.startswith("up{"), expression
        assert names <= exist, expression


# Of the process, and those that Prometheus and several workers add.
COMMON_LABELS = {"job", "instance", "worker", "le"}
BY_TARGET = ("class", "route", "target")


def declared_labels():
    """Yield metrics and their labels as the code declares them."""
    for path in ("router/services.py", "router/gateway/telemetry.py"):
        for node in ast.walk(ast.parse(Path(path).read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called != "watch" and not called.endswith("MetricFamily"):
                continue
            name = getattr(node.args[0], "value", None)
            if isinstance(name, str):
                keywords = {keyword.arg: keyword.value for keyword in node.keywords}
                labels = keywords.get("labels")
                yield name.removeprefix("evalrouter_"), set(labels_in(labels))


def labels_in(node):
    if node is None:
        return
    for part in getattr(node, "elts", [node]):
        name = getattr(part, "value", part)
        if isinstance(name, str):
            yield name
        else:
            assert getattr(name, "id", "") == "by", ast.dump(part)
            yield from BY_TARGET


def test_the_rules_and_the_dashboard_use_labels_that_exist():
    declared = dict(declared_labels())
    assert declared["requests"] == {*BY_TARGET, "status"}
    assert declared["alerts"] == {"rule", "severity", "state"}
    dashboard = json.loads((CHART / "files/dashboard.json").read_text())
    groups = yaml.safe_load((CHART / "files/rules.yaml").read_text())["groups"]
    shown = [
        (target["expr"], re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
        for panel in panels(dashboard)
        for target in panel["targets"]
    ] + [
        (rule["expr"], re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        for group in groups
        for rule in group["rules"]
    ]
    for expression, in_text in shown:
        names = [name.removeprefix("evalrouter_") for name in metric_names(expression)]
        exist = set(COMMON_LABELS)
        for name in names:
            if not name.startswith("process_"):
                base = re.sub(r"_(total|bucket|count|sum)$", "", name)
                exist |= declared[name if name in declared else base]
        selectors = ",".join(re.findall(r"{([^}]*)}", expression))
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", selectors))
        for by in re.findall(r"\bby\s*\(([^)]*)\)", expression):
            used |= set(re.findall(r"\w+", by))
        assert used | set(in_text) <= exist, (expression, used | set(in_text), exist)


def test_the_dashboard_has_a_row_for_each_topic():
    dashboard = json.loads((CHART / "files/dashboard.json").read_text())
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency", "Cost", "Evaluations", "Loop", "Alerts", "Process"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


def test_every_alert_is_tested():
    groups = yaml.safe_load((CHART / "files/rules.yaml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    tests = yaml.safe_load(Path("tests/deploy/rules_test.yaml").read_text())["tests"]
    fired = {
        each["alertname"]
        for test in tests
        for each in test["alert_rule_test"]
        if each["exp_alerts"]
    }
    assert fired == alerts


# the chart


def paths(mapping, schema):
    """Yield the paths of values that the schema describes key by key."""
    for name, part in schema.get("properties", {}).items():
        if name in mapping:
            yield name
            if isinstance(mapping[name], dict) and "properties" in part:
                yield from (f"{name}.{below}" for below in paths(mapping[name], part))
        else:
            yield f"{name} is not in values.yaml"


def test_the_values_fit_their_schema_and_each_is_in_the_file():
    jsonschema = pytest.importorskip("jsonschema")
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(values, schema)
    absent = [path for path in paths(values, schema) if path.endswith("values.yaml")]
    optional = {"global"} | {
        f"probes.{probe}.{key}"
        for probe in ("startup", "readiness", "liveness")
        for key in ("initialDelaySeconds", "successThreshold", "timeoutSeconds")
    }
    assert {path.partition(" ")[0] for path in absent} <= optional


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 2},
        {"replicas": "two"},
        {"persistence": {"size": "10 gigabytes"}},
        {"secretEnv": {"OPENAI_API_KEY": "sk-1"}},
        {"env": {"NOT A NAME": "x"}},
        {"s3": {"bucket": "s3://bucket"}},
        {"podDisruptionBudget": {"minAvailable": "half"}},
    ],
)
def test_values_that_make_no_sense_are_refused_by_the_schema(values):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((CHART / "values.schema.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, schema)


def test_the_chart_and_the_image_have_the_version_of_the_distribution():
    version = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == version
    assert f"\nARG VERSION={version}\n" in DOCKERFILE
