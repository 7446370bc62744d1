"""Templates: what a row is asked, and templates that are refused before anything is asked."""

import pytest

from evaluators.data.dataset import Row, compile_messages, to_sample
from evaluators.data.template import check_filled, required_columns
from providers.errors import RunDocumentError


def row(**fields) -> Row:
    return Row(id="r1", number=7, fields=fields, references=("ref",), input=fields.get("input"))


def asked(template: str, **fields) -> str:
    [message] = compile_messages(None, template, tuple(fields))(row(**fields))
    assert message["role"] == "user"
    return message["content"]


def test_the_rows_own_prompt_without_a_template():
    render = compile_messages(None, None, ("input", "prompt", "messages"))
    own = ({"role": "system", "content": "s", "extra": 1}, {"role": "user", "content": "u"})
    one = Row(id="1", number=1, fields={}, input="i", prompt="p", messages=own)
    assert render(one) == own
    assert render(Row(id="1", number=1, fields={}, input="i", prompt="p")) == (
        {"role": "user", "content": "p"},
    )
    assert render(Row(id="1", number=1, fields={}, input="{{ i }}")) == (
        {"role": "user", "content": "{{ i }}"},
    )
    with pytest.raises(RunDocumentError, match="row 1 has no messages"):
        render(Row(id="1", number=1, fields={}))
    with pytest.raises(RunDocumentError, match="template over its columns: question, n"):
        compile_messages(None, None, ("question", "n"))


def test_messages_with_templates():
    messages = [
        {"role": "system", "content": "Answer in {{ language }}."},
        {
            "role": "user",
            "name": "x",
            "content": [
                {"type": "text", "text": "{{ input }}"},
                {"type": "image_url", "image_url": {"url": "{{ url }}", "detail": "low", "n": 1}},
            ],
        },
    ]
    render = compile_messages(messages, None, ("input", "language", "url"))
    sample = to_sample(row(input="hi", language="French", url="data:x"), render)
    assert sample.id == "r1"
    assert sample.references == ("ref",)
    assert sample.fields == {"input": "hi", "language": "French", "url": "data:x"}
    assert sample.messages == (
        {"role": "system", "content": "Answer in French."},
        {
            "role": "user",
            "name": "x",
            "content": [
                {"type": "text", "text": "hi"},
                {"type": "image_url", "image_url": {"url": "data:x", "detail": "low", "n": 1}},
            ],
        },
    )


@pytest.mark.parametrize(
    "text", ["a\n", "\n a \r\n\n", "<b> & 'x' \"y\"", "{{ 1 }}", "🎉\u2028", ""]
)
def test_data_is_not_altered(text):
    assert asked("{{ input }}", input=text) == text
    assert asked("Q:\n{{ input }}\n", input=text) == f"Q:\n{text}\n"


def test_a_column_may_be_missing_where_the_template_asks_for_it():
    template = "{% if context is defined %}{{ context }}: {% endif %}{{ input }}"
    assert asked(template, input="a") == "a"
    assert asked(template, input="a", context="b") == "b: a"


def test_jinja_is_there():
    template = "{% for one in choices %}{{ loop.index }}. {{ one | upper }}\n{% endfor %}"
    assert asked(template, choices=["a", "b"]) == "1. A\n2. B\n"
    assert asked("{{ x * 3 }} {{ 2 ** 10 }}", x="ab") == "ababab 1024"
    assert asked("{% set n = input | length %}{{ n }}", input="abc") == "3"
    assert asked("{{ more or 'none' }}", more=None) == "none"


@pytest.mark.parametrize(
    ("messages", "prompt", "param", "message"),
    [
        (None, "{{ artcle }}", "prompt", "no column 'artcle'. Did you mean 'article'"),
        (None, "{% if x %}{{ x }}{% endif %}", "prompt", "no column 'x'. Known: article, n."),
        (None, "{{ article", "prompt", "line 1 of the template"),
        (None, "\n{{ article | nofilter }}", "prompt", "line 2 of the template"),
        (None, "{{ article | random }}", "prompt", "No filter named 'random'"),
        (None, "{{ lipsum() }}", "prompt", "no column 'lipsum'"),
        (None, "{% include 'x' %}", "prompt", "cannot include"),
        (
            [{"role": "system", "content": "s"}, {"role": "user", "content": "{% for %}"}],
            None,
            "messages[1].content",
            "messages[1].content: line 1",
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": "{{ nn }}"}]}],
            None,
            "messages[0].content[0].text",
            "no column 'nn'",
        ),
        ([], None, "messages", "empty"),
        ([{"content": "x"}], None, "messages[0].role", "needs a role"),
        ([{"role": "user"}], None, "messages[0].content", "needs a content"),
        ([{"role": "user", "content": "x"}], "x", "prompt", "not both"),
    ],
)
def test_templates_that_are_refused(messages, prompt, param, message):
    with pytest.raises(RunDocumentError) as caught:
        compile_messages(messages, prompt, ("article", "n"))
    assert caught.value.param == param
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ more }}", "a value is null"),
        ("{{ article.missing }}", "no attribute 'missing'"),
        ("{{ article / n }}", "TypeError"),
        ("{{ n / 0 }}", "ZeroDivisionError"),
        ("{% for i in range(1000000) %}x{% endfor %}", "Range too big"),
        ("{% for i in range(99999) %}{{ article * 11 }}{% endfor %}", "longer than 1000000"),
        ("{{ article * 10000000000 }}", "more than 1000000"),
        ("{{ 10000000000 * article }}", "more than 1000000"),
        ("{{ n ** 10000000000 }}", "more than 4096 bits"),
        ("{{ article.__class__.__mro__ }}", "unsafe"),
        ("{{ items.append(1) }}", "is unsafe"),
    ],
)
def test_rows_that_cannot_be_rendered(template, message):
    fields = {"article": "x", "n": 3, "more": None, "items": []}
    render = compile_messages(None, template, tuple(fields))
    with pytest.raises(RunDocumentError) as caught:
        render(row(**fields))
    assert caught.value.param == "prompt"
    assert caught.value.message.startswith("prompt: row 7 (id 'r1'): ")
    assert message in caught.value.message


def test_constant_expressions_are_bounded_when_compiled_too():
    for template in ("{{ 'x' * 10000000000 }}", "{{ 9 ** (9 ** 9) }}"):
        with pytest.raises(RunDocumentError):
            compile_messages(None, template, ())(row())


def test_a_column_that_only_some_rows_have():
    render = compile_messages(None, "{{ context }}", ("input", "context"))
    with pytest.raises(RunDocumentError, match=r"row 7 .*'context' is undefined"):
        render(row(input="x"))


@pytest.mark.parametrize("blank", ["", " ", "\n\t"])
def test_an_empty_cell_is_refused_as_null_is(blank):
    required = required_columns(None, "Summarize: {{ input }}")
    check_filled(row(input="x"), required)
    with pytest.raises(RunDocumentError) as caught:
        check_filled(row(input=blank), required)
    assert caught.value.message == (
        "prompt: row 7 (id 'r1'): input is empty; fill it in, remove the row, or write "
        "{{ input or '' }} where that is meant"
    )
    assert caught.value.param == "prompt"


def test_the_columns_that_must_not_be_empty():
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "{{ a }} {{ b }}{{ c.d }}"}]},
    ]
    assert required_columns(messages, None) == {
        "messages[0].content": (),
        "messages[1].content": ("a", "b", "c.d"),
    }
    assert required_columns(None, None) == {}
    for provided_for in (
        "{{ notes or '' }}",
        "{% if notes %}{{ notes }}{% endif %}",
        "{% for _ in [1] %}{{ notes }}{% endfor %}",
        "{{ notes | default('none') }}",
        "{{ notes.split() }}",
    ):
        assert required_columns(None, provided_for) == {"prompt": ()}
    for text in ("{{ notes | trim | upper }}", "{{ notes.strip() }}", "{{ notes }}"):
        assert required_columns(None, text) == {"prompt": ("notes",)}
    assert required_columns(None, "{{ a['b'][0].c | trim }}") == {"prompt": ("a.b.0.c",)}
