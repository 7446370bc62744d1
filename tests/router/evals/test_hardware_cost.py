"""Own machines are paid by the hour: the seeds' 80 minutes, and what runs keep in the store."""

from pathlib import Path

import pytest
from servers import scripted

from evaluators.base import Answer, Judgement, Usage
from evaluators.document import RunDocument
from providers.compatible import CompatibleConfig
from router.config.loading import load, parse
from router.evals.hardware_cost import cost, hardware_costs
from router.gateway.prices import PriceBook
from router.records import Target
from router.services import Services
from router.store.judgements import JudgementRow
from router.store.sqlite import SqliteStore
from router.store.usage import TargetTime


def test_eighty_minutes_at_two_dollars_twenty_one():
    machine = cost(
        TargetTime(target="gpu/prometheus", seconds=80 * 60, requests=960, tokens=960_000), 2.21
    )
    assert round(machine.cost_usd, 2) == 2.95
    assert machine.cost_per_request_usd == pytest.approx(2.9467 / 960, rel=1e-4)
    assert machine.tokens_per_s == 200


async def test_only_the_time_at_work_is_paid(tmp_path):
    store = SqliteStore(tmp_path / "s.db")
    await store.open()

    async def judged(n, at, seconds, *, target="gpu/p", text="[RESULT] 4", reused=False):
        answer = Answer(
            text=text,
            target=target,
            total_s=seconds,
            usage=Usage(prompt_tokens=900, completion_tokens=100),
        )
        await store.keep_judgement(
            JudgementRow(
                owner="cal_1",
                metric="m",
                judge="j",
                sample_id=str(n),
                repeat=0,
                attempt=0,
                request_hash=f"h{n}",
                at=at,
                judgement=Judgement(answer=answer),
                reused=reused,
            )
        )

    # Two that overlap, a pause of an hour, one within another; failures and old ones do not count.
    await judged(1, at=1010, seconds=10)
    await judged(2, at=1015, seconds=10)
    await judged(3, at=5000, seconds=20)
    await judged(4, at=4990, seconds=5)
    await judged(5, at=9000, seconds=5, text=None)
    await judged(6, at=9900, seconds=5, reused=True)
    await judged(7, at=1000, seconds=1, target="cloud/p")
    try:
        served = {target.target: target for target in await store.served("cal_1")}
        assert served["gpu/p"].seconds == pytest.approx(15 + 20)
        assert (served["gpu/p"].requests, served["gpu/p"].tokens) == (4, 400)
        gpu = CompatibleConfig(kind="compatible", base_url="http://gpu/v1", price_per_hour=3.6)
        [only] = await hardware_costs(store, "cal_1", PriceBook({}, {"gpu": gpu}))
        assert await hardware_costs(store, "cal_1", PriceBook({}, {})) == []
        assert only.cost_usd == pytest.approx(35 * 0.001)
        assert await store.served("cal_2") == []
    finally:
        await store.close()


async def test_a_run_on_machines_with_a_price(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text('{"input": "a"}\n{"input": "b"}\n')
    models = {"m": [{"delay_s": 0.05}], "j": [{"answer": "[RESULT] 4", "delay_s": 0.05}]}
    with scripted(models) as upstream:
        config = f"""
providers: {{gpu: {{kind: compatible, base_url: "{upstream.url}", price_per_hour: 3.6}}}}
routes: {{judge: {{targets: [{{model: gpu/j, price_per_hour: 7.2}}]}}}}
"""
        async with Services(parse(config, "test.yaml", {})) as services:
            document = RunDocument(
                dataset="data.jsonl",
                routes=("gpu/m", "baseline/echo"),
                metrics=({"name": "prometheus", "judge": "judge"},),
            )
            run = await services.runs.create(document, base=Path())
            await services.jobs.execute(run.id)
            outcome = await services.runs.outcome(run.id)
    machines = {machine.target: machine for machine in outcome.hardware}
    assert set(machines) == {"gpu/m", "gpu/j"}
    for target, price in (("gpu/m", 3.6), ("gpu/j", 7.2)):
        assert machines[target].price_per_hour == price
        assert machines[target].seconds >= 0.05
        assert machines[target].cost_usd == pytest.approx(machines[target].seconds * price / 3600)
    assert machines["gpu/m"].requests == 2


async def test_a_route_set_at_run_time_brings_its_price_per_hour(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    route = {"targets": [{"model": "gpu/m", "price_per_hour": 7.2}]}
    config = 'providers: {gpu: {kind: compatible, base_url: "http://gpu/v1"}}'
    target = Target("gpu", "m")
    async with Services(parse(config, "test.yaml", {})) as services:
        assert not services.prices.has_hours
        await services.routes.put("r", route)
        assert services.prices.has_hours
        assert services.prices.per_hour(target) == 7.2
    async with Services(parse(config, "test.yaml", {})) as restarted:
        assert restarted.prices.per_hour(target) == 7.2
        await restarted.routes.remove("r")
        assert restarted.prices.per_hour(target) is None


async def test_a_reloaded_config_brings_its_prices_per_hour(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evalrouter.yaml"
    path.write_text("routes: {r: {targets: [{model: baseline/echo, price_per_hour: 3.6}]}}")
    async with Services(load(path, {}), path) as services:
        path.write_text("routes: {r: {targets: [{model: baseline/lead-1, price_per_hour: 7.2}]}}")
        await services.routes.reload()
        models = ("echo", "lead-1")
        prices = [services.prices.per_hour(Target("baseline", model)) for model in models]
    assert prices == [None, 7.2]
