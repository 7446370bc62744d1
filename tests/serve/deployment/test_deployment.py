"""What docs/how-to/ray.md says to deploy, as far as it can be checked without a cluster."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import yaml

pytest.importorskip("ray")

from router.config.loading import parse
from serve.config import read

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "ray.md"


def documents():
    blocks = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    found = [one for block in blocks for one in yaml.safe_load_all(block) if isinstance(one, dict)]
    assert {one.get("kind") for one in found} >= {None, "RayService", "Deployment", "Service"}
    return found


def test_serve_configs_are_rays_and_their_args_ours():
    from ray.serve.schema import ServeDeploySchema

    from router.ray_app import Settings

    configs = [one for one in documents() if "applications" in one]
    configs += [
        yaml.safe_load(one["spec"]["serveConfigV2"])
        for one in documents()
        if one.get("kind") == "RayService"
    ]
    imported = []
    for config in configs:
        for application in ServeDeploySchema.model_validate(config).applications:
            imported.append(application.import_path)
            if application.import_path == "router.ray_app:build":
                msgspec.convert(application.args, Settings)
            else:
                assert read(application.args["models"], {})
    assert sorted(imported) == [
        "router.ray_app:build",
        "serve.deployment.app:build",
        "serve.deployment.app:build",
    ]


def test_the_routers_manifest_fits_together():
    by_kind = {one["kind"]: one for one in documents() if "kind" in one}
    text = by_kind["ConfigMap"]["data"]["evalrouter.yaml"]
    config = parse(text, "evalrouter.yaml", {"OPENAI_API_KEY": "x"})
    # `evalrouter serve` would not listen on that address for everybody.
    assert config.server.require_keys
    models = by_kind["RayService"]["metadata"]["name"]
    assert config.providers["gpu"].base_url == f"http://{models}-serve-svc:8000/v1"
    deployment = by_kind["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == by_kind["Service"]["spec"]["selector"] == labels
    (container,) = deployment["template"]["spec"]["containers"]
    assert container["ports"][0]["containerPort"] == config.server.port
    grace = deployment["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > config.server.drain_seconds
