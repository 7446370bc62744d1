"""The price book: what is in it, which row holds for a target, what a call costs."""

import re
from datetime import date
from pathlib import Path

import pytest

from evaluators.base import Usage
from router.config.loading import parse
from router.gateway.prices import PriceBook, list_prices
from router.records import Target

CONFIG = """
providers:
  mine: {kind: openai, api_key: k}
  proxy: {kind: openai, api_key: k, base_url: "http://127.0.0.1:1/v1"}
  eu: {kind: mistral, api_key: k}
  fast: {kind: groq, api_key: k}
  laptop: {kind: llamafile, base_url: "http://127.0.0.1:1/v1"}
  floor: {kind: baseline}
prices:
  mine/gpt-4.1: {input: 1, output: 2}
  laptop/own: {input: 0.5, output: 1.5}
  mine/cached: {input: 10, output: 20, cached_input: 1, cache_write: 15}
  mine/long: {input: 1, output: 2, long: {above: 1000, input: 10, output: 20, cached_input: 0}}
"""
MILLION = Usage(prompt_tokens=1_000_000, completion_tokens=1_000_000, total_tokens=2_000_000)


@pytest.fixture(scope="module")
def book():
    config = parse(CONFIG, "test.yaml", {})
    return PriceBook(config.prices, config.providers)


def cost(book, target, prompt, completion, **details):
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion)
    return book.cost(Target.parse(target), usage, **details)


def test_the_built_in_book_says_where_it_is_from():
    book = list_prices()
    assert date.fromisoformat(book.as_of) >= date(2026, 11, 1)
    kinds = {name.split("/")[0] for name in book.prices}
    assert kinds == set(book.sources)
    assert all(source.startswith("https://") for source in book.sources.values())
    assert len(book.prices) >= 40


def test_the_built_in_prices_are_plausible():
    for name, price in list_prices().prices.items():
        assert 0 < price.input <= price.output or price.output == 0, name
        assert price.input < 100, name
        assert price.cached_input is None or price.cached_input < price.input, name
        assert price.long is None or price.long.input > price.input, name


def test_a_provider_of_any_name_has_its_kinds_prices(book):
    # OpenAI's list: $0.15 and $0.60.
    assert book.cost(Target("mine", "gpt-4o-mini"), MILLION) == pytest.approx(0.75)
    assert book.cost(Target("fast", "openai/gpt-oss-120b"), MILLION) == pytest.approx(0.75)
    assert book.cost(Target("eu", "gpt-4o-mini"), MILLION) is None


@pytest.mark.parametrize(
    ("model", "same_as"),
    [
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-5.4-mini-20260317", "gpt-5.4-mini"),
        # A version with a row of its own: it costs twice as much as its family.
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
    ],
)
def test_a_dated_version_costs_what_its_family_costs(book, model, same_as):
    expected = list_prices().prices[f"openai/{same_as}"]
    assert book.price(Target("mine", model)) == expected


@pytest.mark.parametrize(
    "model", ["gpt-4o-mini-0718", "gpt-4o-mini-preview", "ft:gpt-4o-mini-2024-07-18:us::1", "x"]
)
def test_what_only_looks_like_a_version_is_unknown(book, model):
    assert book.cost(Target("mine", model), MILLION) is None


def test_the_config_beats_the_book(book):
    assert book.cost(Target("mine", "gpt-4.1"), MILLION) == pytest.approx(3.0)


def test_another_host_behind_a_kind_has_no_list_price(book):
    assert book.cost(Target("proxy", "gpt-4o-mini"), MILLION) is None
    assert book.per_million(Target("proxy", "gpt-4o-mini")) is None


def test_own_hardware_is_unknown_unless_priced(book):
    assert book.cost(Target("laptop", "other"), MILLION) is None
    assert book.cost(Target("laptop", "own"), MILLION) == pytest.approx(2.0)
    assert not book.is_free(Target("laptop", "own"))


def test_models_in_this_process_are_free(book):
    assert book.cost(Target("floor", "lead-3"), Usage()) == 0.0
    assert book.is_free(Target("floor", "lead-3"))
    assert book.per_million(Target("floor", "lead-3")) == 0.0


def test_unknown_tokens_are_an_unknown_cost(book):
    target = Target("mine", "gpt-4o-mini")
    assert book.cost(target, Usage()) is None
    assert book.cost(target, Usage(prompt_tokens=5)) is None
    assert book.cost(target, Usage(completion_tokens=5)) is None


def test_an_embedding_needs_no_completion_tokens(book):
    used = Usage(prompt_tokens=1_000_000, total_tokens=1_000_000)
    assert book.cost(Target("mine", "text-embedding-3-small"), used) == pytest.approx(0.02)


def test_cached_and_written_tokens_have_prices_of_their_own(book):
    per = 1_000_000
    assert cost(book, "mine/cached", per, 0) == pytest.approx(10)
    assert cost(book, "mine/cached", per, 0, cached=per // 2) == pytest.approx(5.5)
    assert cost(book, "mine/cached", per, 0, written=per // 2) == pytest.approx(12.5)
    assert cost(book, "mine/cached", per, 0, cached=per // 4, written=per // 4) == pytest.approx(9)
    # A host that claims more than it was sent.
    assert cost(book, "mine/cached", per, 0, cached=9 * per) == pytest.approx(1)
    # No price for cached tokens: they cost what the others do.
    assert cost(book, "laptop/own", per, 0, cached=per) == pytest.approx(0.5)


def test_a_long_prompt_is_charged_the_long_rate_for_all_of_it(book):
    assert cost(book, "mine/long", 1000, 0) == pytest.approx(0.001)
    assert cost(book, "mine/long", 1001, 1) == pytest.approx((1001 * 10 + 20) / 1e6)
    assert cost(book, "mine/long", 2000, 0, cached=1000) == pytest.approx(0.01)


def test_invented_model_names_do_not_fill_memory(book):
    for n in range(25_000):
        book.price(Target("mine", f"made-up-{n}"))
    assert len(book._known) <= 10_000


def test_the_file_is_data_only():
    text = (Path(__file__).parents[3] / "router" / "gateway" / "prices.json").read_text(
        encoding="utf-8"
    )
    assert not re.search(r"NaN|Infinity", text)
