"""`/targets`: health and prices of what the routes name."""

from servers import gateway, scripted


def test_targets_have_health_and_prices(http, tmp_path):
    with scripted({"good": [{}], "bad": [{"status": 500}]}) as upstream:
        config = f"""
storage: {{database: "sqlite:///{tmp_path}/e.db"}}
providers: {{up: {{kind: compatible, base_url: "{upstream.url}", price_per_hour: 2}}}}
prices: {{up/good: {{input: 1, output: 3}}}}
routes:
  first: {{targets: [{{model: up/good}}, {{model: up/good}}], fallback: [baseline/echo]}}
  second: {{targets: [{{model: up/bad}}], fallback: [up/good], retries: {{attempts: 1}},
    breaker: {{failures: 1}}}}
"""
        with gateway(config) as url:
            body = {"messages": [{"role": "user", "content": "hi"}]}
            for route in ("first", "second"):
                answer = http.post(f"{url}/v1/chat/completions", json=body | {"model": route})
                assert answer.status_code == 200, answer.text
            echo, bad, good = http.get(f"{url}/targets").json()["data"]
    assert (echo["target"], echo["routes"], echo["fallback_of"]) == ("baseline/echo", [], ["first"])
    assert (echo["breaker"], echo["price"], echo["is_free"]) == (None, None, True)
    assert (bad["target"], bad["routes"], bad["breaker"]) == ("up/bad", ["second"], "open")
    assert (bad["price"], bad["is_free"], bad["per_hour"]) == (None, False, 2.0)
    assert (good["routes"], good["fallback_of"]) == (["first"], ["second"])
    assert good["price"]["output"] == 3.0
    assert good["breaker"] == "closed"
    assert good["first_byte_s"] > 0
