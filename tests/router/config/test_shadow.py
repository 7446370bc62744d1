"""`shadow:` of a route: what is refused, and who may see its users' texts."""

import pytest

from providers.errors import ConfigError
from router.config.loading import parse
from router.config.routes import parse_route

CONFIG = """
providers:
  live: {kind: baseline}
  cheap: {kind: baseline}
  judges: {kind: baseline}
routes:
  judge: {targets: [{model: judges/echo}], fallback: [live/echo]}
  chat:
    targets: [{model: live/echo}, {model: live/lead-1, weight: 0}]
"""


def chat(text: str):
    return parse(CONFIG + "".join(f"    {line}\n" for line in text.splitlines()), "c.yaml", {})


def test_a_shadow_with_its_defaults():
    route = chat("share_bodies_with: [cheap]\nshadow: {targets: [cheap/echo]}").routes["chat"]
    assert route.shadow.sample == 0.01
    assert route.shadow.limits.usd_per_day == 1.0
    assert route.shadow.all_metrics() == ("cost", "latency")
    # A target that gets no requests of the route is a candidate as any other.
    assert chat("share_bodies_with: [live]\nshadow: {targets: [live/lead-1]}").routes["chat"].shadow


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shadow: {targets: [cheap/echo]}", r"share_bodies_with: .* to cheap/echo; name cheap"),
        (
            "share_bodies_with: [cheap]\nshadow: {targets: [cheap/echo], judge: judges/echo}",
            r"share_bodies_with: .* to judges/echo; name judges",
        ),
        # Every provider that may answer for a judge's route, its fallback included.
        (
            "share_bodies_with: [cheap, judges]\nshadow: {targets: [cheap/echo], judge: judge}",
            r"share_bodies_with: .* to live/echo; name live",
        ),
        (
            "share_bodies_with: [cheap]\n"
            "shadow: {targets: [cheap/echo], metrics: "
            "[{name: embedding_similarity, route: judges/echo}]}",
            r"compares with a reference",
        ),
        (
            "share_bodies_with: [live]\nshadow: {targets: [live/echo]}",
            r"shadow.targets\[0\]: live/echo answers this route's requests already",
        ),
        (
            "share_bodies_with: [cheap]\nshadow: {targets: [cheap/echo, cheap/echo]}",
            r"targets\[1\]: cheap/echo is named twice",
        ),
        ("share_bodies_with: [cheep]\n", r"share_bodies_with\[0\]: no provider 'cheep'. Did you"),
        (
            "share_bodies_with: [cheap]\nshadow: {targets: [cheep/echo]}",
            r"targets\[0\]: no provider 'cheep'",
        ),
        (
            "share_bodies_with: [cheap]\nshadow: {targets: [cheap/echo], judge: nobody}",
            r"shadow.judge: 'nobody' is neither a route nor provider/model",
        ),
        (
            "share_bodies_with: [cheap]\nshadow: {targets: [cheap/echo], metrics: [rogue]}",
            r"shadow.metrics: .*there is no metric 'rogue'",
        ),
        (
            "share_bodies_with: [cheap]\nshadow: {targets: [cheap/echo], metrics: [rouge]}",
            r"rouge compares with a reference, which live requests do not have",
        ),
        ("share_bodies_with: [cheap]\nshadow: {targets: []}", r"shadow.targets"),
        (
            "share_bodies_with: [cheap]\nshadow: {targets: [cheap/echo], sample: 2}",
            r"shadow.sample",
        ),
        (
            "share_bodies_with: [cheap]\nshadow: {targets: [cheap/echo], limits: {usd_per_day: 0}}",
            r"usd_per_day",
        ),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        chat(text)


def test_a_route_that_is_set_at_run_time_is_checked_as_well():
    providers = parse(CONFIG, "c.yaml", {}).providers
    route = {"targets": [{"model": "live/echo"}], "shadow": {"targets": ["cheap/echo"]}}
    with pytest.raises(ConfigError, match="name cheap"):
        parse_route("chat", route, providers)
    assert parse_route("chat", route | {"share_bodies_with": ["cheap"]}, providers).shadow
