"""The Helm chart, as Helm's own code renders it: `make check-deploy`, which installs that."""

import subprocess
from pathlib import Path

import pytest
import yaml

from router.config.loading import parse

helm = pytest.importorskip("helm_python")
validate = pytest.importorskip("kubernetes_validate")

CHART = Path("deploy/helm/evalrouter")
# They have no schema among Kubernetes' own.
CUSTOM = {"ServiceMonitor", "PrometheusRule", "RayService"}

LARGE = """
replicas: 3
config:
  providers:
    openai: {kind: openai, api_key: "${OPENAI_API_KEY}"}
  routes:
    summarizer: {targets: [{model: openai/gpt-4o-mini}]}
adminKey: {existingSecret: evalrouter-admin}
secretEnv:
  OPENAI_API_KEY: {secret: openai, key: api-key}
env: {HTTPS_PROXY: "http://proxy:3128", NUMBER: 1}
persistence: {enabled: false}
postgresql: {host: db.example.com, sslmode: verify-full, existingSecret: evalrouter-db}
s3: {bucket: evalrouter, prefix: data, endpointUrl: "http://s3:9000", existingSecret: s3}
autoscaling: {enabled: true, minReplicas: 2, maxReplicas: 8}
podDisruptionBudget: {enabled: true, minAvailable: 1}
drainSeconds: 90
ingress: {enabled: true, className: nginx, hosts: [llm.example.com], tls: [{secretName: tls}]}
metrics:
  serviceMonitor: {enabled: true, labels: {release: prometheus}}
  rules: {enabled: true, labels: {release: prometheus}}
  dashboard: {enabled: true}
networkPolicy:
  enabled: true
  from: [{namespaceSelector: {matchLabels: {llm: "true"}}}]
  egress: [{ports: [{port: 443}]}]
topologySpreadConstraints:
  - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}
"""
RAY = """
adminKey: {existingSecret: evalrouter-admin}
rayService:
  enabled: true
  models:
    bart: {engine: transformers, source: facebook/bart-large-cnn, gpus: 1}
  workerGroups:
    - {name: gpu, minReplicas: 0, maxReplicas: 4, resources: {limits: {nvidia.com/gpu: 1}}}
"""
SEVERAL_WITH_VOLUME = """
replicas: 2
adminKey: {existingSecret: admin}
postgresql: {host: db, existingSecret: db}
persistence: {accessMode: ReadWriteMany, storageClass: "-"}
podDisruptionBudget: {enabled: true, maxUnavailable: 1}
"""
EXISTING = "persistence: {existingClaim: mine}\nserviceAccount: {create: false, name: mine}"


@pytest.fixture(scope="module")
def chart():
    with helm.Chart.load(CHART) as loaded:
        yield loaded


def rendered(chart, values="", **options):
    """The manifests by kind and name, the notes left out."""
    files = chart.render(yaml.safe_load(values) or {}, name="r", namespace="llm", **options)
    manifests = {}
    for path, text in files.items():
        if not path.endswith("NOTES.txt"):
            for document in yaml.safe_load_all(text):
                if document:
                    manifests[document["kind"], document["metadata"]["name"]] = document
    return manifests


@pytest.mark.parametrize(
    "values", ["", LARGE, RAY, SEVERAL_WITH_VOLUME, EXISTING], ids=["default", *"lrse"]
)
def test_the_manifests_are_valid(chart, values):
    report = helm.lint(CHART, yaml.safe_load(values) or {}, strict=True)
    assert report["errors"] == []
    assert {message["error"] for message in report["messages"]} <= {"icon is recommended"}
    manifests = rendered(chart, values)
    for (kind, _), manifest in manifests.items():
        if kind not in CUSTOM:
            validate.validate(manifest, "1.30", strict=True)
    config = manifests["ConfigMap", "r-evalrouter"]["data"]["evalrouter.yaml"]
    # What evalrouter itself says of it.
    parse(config, "evalrouter.yaml", {"OPENAI_API_KEY": "x", "POSTGRES_PASSWORD": "x"})


def test_a_single_pod_has_a_volume_and_is_never_two(chart):
    manifests = rendered(chart)
    assert {kind for kind, _ in manifests} == {
        *("ConfigMap", "Deployment", "PersistentVolumeClaim", "Service", "ServiceAccount"),
    }
    spec = manifests["Deployment", "r-evalrouter"]["spec"]
    assert spec["strategy"] == {"type": "Recreate"}
    pod = spec["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["enableServiceLinks"] is False
    assert pod["terminationGracePeriodSeconds"] >= 30 + 5 + 5
    [container] = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    # Without it, nothing could be written to /data and /tmp.
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/data", "/tmp"}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"].startswith("/health/")


def test_many_pods_share_a_database_and_a_bucket(chart):
    manifests = rendered(chart, LARGE)
    deployment = manifests["Deployment", "r-evalrouter"]["spec"]
    assert "replicas" not in deployment
    pod = deployment["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 105
    variables = {each["name"]: each for each in pod["containers"][0]["env"]}
    secrets = {
        name: (ref["name"], ref["key"])
        for name, each in variables.items()
        if (ref := each.get("valueFrom", {}).get("secretKeyRef"))
    }
    assert secrets == {
        "EVALROUTER_ADMIN_KEY": ("evalrouter-admin", "admin-key"),
        "POSTGRES_PASSWORD": ("evalrouter-db", "password"),
        "AWS_ACCESS_KEY_ID": ("s3", "access-key-id"),
        "AWS_SECRET_ACCESS_KEY": ("s3", "secret-access-key"),
        "OPENAI_API_KEY": ("openai", "api-key"),
    }
    assert variables["NUMBER"]["value"] == "1"
    text = manifests["ConfigMap", "r-evalrouter"]["data"]["evalrouter.yaml"]
    environ = {"OPENAI_API_KEY": "x", "POSTGRES_PASSWORD": "pw"}
    config = parse(text, "evalrouter.yaml", environ)
    assert config.storage.database == (
        "postgresql://evalrouter@db.example.com:5432/evalrouter?sslmode=verify-full"
    )
    assert config.storage.password.reveal() == "pw"
    assert config.storage.artifacts == "s3://evalrouter/data"
    assert config.storage.s3.endpoint_url == "http://s3:9000"
    assert config.server.drain_seconds == 90
    assert config.routes["summarizer"].targets[0].model == "openai/gpt-4o-mini"
    scaler = manifests["HorizontalPodAutoscaler", "r-evalrouter"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 8)
    monitor = manifests["ServiceMonitor", "r-evalrouter"]["spec"]["endpoints"][0]
    assert monitor["authorization"]["credentials"] == {
        "name": "evalrouter-admin",
        "key": "admin-key",
    }
    rules = manifests["PrometheusRule", "r-evalrouter"]["spec"]
    assert rules == yaml.safe_load((CHART / "files/rules.yaml").read_text())
    assert ("PersistentVolumeClaim", "r-evalrouter") not in manifests
    policy = manifests["NetworkPolicy", "r-evalrouter"]["spec"]
    assert policy["ingress"][0]["ports"] == [{"port": "http", "protocol": "TCP"}]
    assert [rule["ports"][0]["port"] for rule in policy["egress"]] == [53, 443]


def test_a_ray_service_has_the_models_and_the_router_leads_there(chart):
    manifests = rendered(chart, RAY)
    spec = manifests["RayService", "r-evalrouter-models"]["spec"]
    [application] = yaml.safe_load(spec["serveConfigV2"])["applications"]
    assert application["import_path"] == "serve.deployment.app:build"
    assert application["args"]["models"]["bart"]["source"] == "facebook/bart-large-cnn"
    [group] = spec["rayClusterConfig"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (0, 4)
    config = parse(
        manifests["ConfigMap", "r-evalrouter"]["data"]["evalrouter.yaml"], "evalrouter.yaml", {}
    )
    assert config.providers["ray"].kind == "ray_serve"


def test_another_config_makes_other_pods(chart):
    def checksum(values):
        template = rendered(chart, values)["Deployment", "r-evalrouter"]["spec"]["template"]
        return template["metadata"]["annotations"]["checksum/config"]

    assert checksum("config: {record: none}") != checksum("")


PG = "postgresql: {host: db}, adminKey: {existingSecret: a}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("replicas: 2", "SQLite is a file for one pod"),
        ("autoscaling: {enabled: true}", "autoscaling.maxReplicas is 6, but SQLite"),
        (f"{{replicas: 2, {PG}}}", "the artifacts are in a volume of one pod"),
        (f"{{replicas: 2, persistence: {{enabled: false}}, {PG}}}", "set s3.bucket"),
        ("persistence: {enabled: false}", "SQLite would lose everything"),
        (f"{{persistence: {{enabled: false}}, {PG}}}", "artifacts would be lost"),
        (
            "{persistence: {enabled: false}, postgresql: {host: db}, s3: {bucket: abc}}",
            "no volume to write the first key to",
        ),
        (
            "{replicas: 2, postgresql: {host: db}, s3: {bucket: abc}}",
            "which pod writes the first key is left to chance",
        ),
        ("persistence: {existingClaim: a, storageClass: b}", "has a class of its own"),
        ("persistence: {existingClaim: a, enabled: false}", "but persistence.enabled is false"),
        (
            f"{{config: {{storage: {{database: 'sqlite:///x'}}}}, {PG}}}",
            "both name a database",
        ),
        ("config: {storage: {database: 'postgresql://u@h/d'}}", "set postgresql.host"),
        ("postgresql: {existingSecret: x}", "postgresql.host is empty"),
        ("s3: {existingSecret: x}", "s3.bucket is empty"),
        ("{s3: {bucket: abc}, config: {storage: {artifacts: x}}}", "where artifacts are"),
        ("config: {server: {port: 80}}", "config.server.port has no effect"),
        ("config: {server: {host: '::'}}", "config.server.host has no effect"),
        ("config: {server: {drain_seconds: 5}}", "set drainSeconds"),
        ("config: {storage: {folder: /x}}", "config.storage.folder"),
        (
            "config: {providers: {o: {kind: openai, api_key: sk-1}}}",
            "config.providers.o.api_key is a secret",
        ),
        ("config: {server: {admin_key: abc}}", "config.server.admin_key is a secret"),
        ("env: {POSTGRES_PASSWORD: x}", "POSTGRES_PASSWORD is set by the chart"),
        ("{env: {A: x}, secretEnv: {A: {secret: s, key: k}}}", "A is in env and in secretEnv"),
        (
            f"{{autoscaling: {{enabled: true, minReplicas: 9}}, s3: {{bucket: abc}}, {PG}}}",
            "autoscaling.minReplicas is 9, more than",
        ),
        (
            "{autoscaling: {enabled: true}, s3: {bucket: abc}, resources: {requests: {cpu: null}},"
            f" {PG}}}",
            "needs resources.requests.cpu",
        ),
        ("podDisruptionBudget: {enabled: true}", "needs minAvailable or maxUnavailable"),
        (
            "podDisruptionBudget: {enabled: true, minAvailable: 1, maxUnavailable: 1}",
            "are both set",
        ),
        ("podDisruptionBudget: {enabled: true, minAvailable: 1}", "no node could ever be drained"),
        ("metrics: {serviceMonitor: {enabled: true}}", "needs adminKey.existingSecret"),
        ("ingress: {enabled: true}", "needs ingress.hosts"),
        ("rayService: {enabled: true}", "needs rayService.models"),
        ("rayService: {enabled: true, models: {a: {}}}", "needs rayService.workerGroups"),
    ],
)
def test_values_that_contradict_each_other_are_refused(chart, values, message):
    with pytest.raises(helm.HelmRenderError) as caught:
        rendered(chart, values)
    assert message in str(caught.value)


def test_everything_that_is_wrong_is_named_at_once(chart):
    with pytest.raises(helm.HelmRenderError) as caught:
        rendered(chart, "{replicas: 2, ingress: {enabled: true}, s3: {existingSecret: x}}")
    assert str(caught.value).count("\n- ") == 4


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ("replica: 2", "replica"),
        ("replicas: two", "replicas"),
        ("persistence: {size: 10 gigabytes}", "size"),
        ("secretEnv: {OPENAI_API_KEY: sk-1}", "OPENAI_API_KEY"),
        ("service: {port: 0}", "port"),
    ],
)
def test_values_that_the_schema_does_not_know_are_refused(chart, values, place):
    with pytest.raises(helm.HelmError) as caught:
        chart.validate_schema(yaml.safe_load(values))
    assert place in str(caught.value)


def test_the_chart_can_be_packaged_with_its_rules_and_dashboard(tmp_path):
    archive = helm.package(CHART, destination=tmp_path)
    with helm.Chart.load(archive) as packaged:
        names = {file["name"] for file in packaged.files}
    assert {"files/rules.yaml", "files/dashboard.json"} <= names
    listed = subprocess.run(["tar", "tzf", archive], capture_output=True, text=True, check=True)
    assert "evalrouter/values.schema.json" in listed.stdout
