"""Templates: what is rendered, which placeholders are refused, and what a stranger's template may not do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ia3.data.examples import Example, Origin
from ia3.data.templates import (
    Template,
    check_prompt,
    check_template,
    default_template,
    parse_template,
    prompt_of,
)
from ia3.errors import TemplateError

COLUMNS = ("id", "sentence", "sentiment")


def render(source: str, text: str = "Profit rose.") -> str:
    return Template(source).render_prompt({"sentence": text}, text=text, text_column="sentence")


def refused(source: str) -> str:
    with pytest.raises(TemplateError) as caught:
        render(source)
    return str(caught.value)


def check(prompt: str, target: str = "{{ label }}", *, is_closed: bool = True) -> None:
    check_template(
        Template(prompt, target), COLUMNS, text_column="sentence", label_column="sentiment", is_closed=is_closed
    )


def refused_by_check(prompt: str, target: str = "{{ label }}", *, is_closed: bool = True) -> str:
    with pytest.raises(TemplateError) as caught:
        check(prompt, target, is_closed=is_closed)
    return str(caught.value)


# -- rendering ---------------------------------------------------------------------------------------------------------


def test_text_and_the_columns_own_name_give_the_same() -> None:
    assert render("{{ text }}") == render("{{ sentence }}") == "Profit rose."


def test_a_cut_text_takes_the_place_of_the_text_column() -> None:
    example = Example("long text", None, {"sentence": "long text", "id": "7"}, Origin("a.csv", 3))

    assert prompt_of(Template("{{ id }} {{ sentence }}|{{ text }}"), example, "sentence", "long") == "7 long|long"


def test_the_text_is_never_read_as_a_template() -> None:
    assert render("{{ text }}", "{{ 7 * 7 }} {% raw %} ||| <b>&") == "{{ 7 * 7 }} {% raw %} ||| <b>&"


@settings(deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_any_text_comes_out_as_it_went_in(text: str) -> None:
    assert render("<{{ text }}>", text) == f"<{text}>"


def test_line_breaks_of_a_template_are_kept_also_at_its_end() -> None:
    assert render("{{ text }}\n\n") == "Profit rose.\n\n"


def test_a_target_shows_the_label_and_may_use_other_columns() -> None:
    assert Template("{{ text }}", "{{ label | upper }} ({{ id }})").render_target("up", {"id": "7"}) == "UP (7)"


def test_a_template_comes_back_from_its_record() -> None:
    template = Template("{{ text }}\nSentiment:\n", "{{ label }}!")

    assert Template(**template.to_json()) == template


def test_an_empty_answer_is_refused_with_its_label() -> None:
    with pytest.raises(TemplateError, match=r"Rendering the target: label 'no' gives an empty answer"):
        Template("{{ text }}", "{% if label == 'yes' %}y{% endif %}").render_target("no")


def test_a_missing_column_is_named_with_file_and_line() -> None:
    example = Example("a", None, {"sentence": "a"}, Origin("news.csv", 12))

    with pytest.raises(TemplateError) as caught:
        prompt_of(Template("{{ text }} {{ titel }}"), example, "sentence")

    assert str(caught.value) == "Rendering the prompt: 'titel' is undefined. (row news.csv:12)"


# -- default templates -------------------------------------------------------------------------------------------------


def test_the_default_of_a_causal_base_names_the_label_column() -> None:
    assert default_template("causal", "sentiment") == Template("{{ text }}\nsentiment:")


@pytest.mark.parametrize("kind", ["seq2seq", "encoder"])
def test_the_default_of_the_other_bases_is_the_text_alone(kind: str) -> None:
    assert default_template(kind, "sentiment") == Template("{{ text }}")  # type: ignore[arg-type]


@pytest.mark.parametrize("column", ["{{ x }}", "{% if %}", "a{#b", None])
def test_no_name_of_a_column_breaks_the_default(column: str | None) -> None:
    rendered = default_template("causal", column).render_prompt({}, text="t", text_column="text")

    assert rendered.startswith("t\n") and rendered.endswith(":")


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "prompt", "target"),
    [
        ("{{ text }}", "{{ text }}", "{{ label }}"),
        ("{{ text }} ||| {{ label }}", "{{ text }}", "{{ label }}"),
        ("{{ text }}|||{{ label }}", "{{ text }}", "{{ label }}"),
        ("{{ text }}\nMood: |||  {{ label }}!  ", "{{ text }}\nMood:", "{{ label }}!"),
        ("{{ text }}\n|||\n{{ label }}\n", "{{ text }}", "{{ label }}"),
        ("{{ text }}\n\n|||\n{{ label }}", "{{ text }}\n", "{{ label }}"),
        ("{{ text }}\n ||| {{ label }}", "{{ text }}\n", "{{ label }}"),
        ("{% if text %}{{ text }}{% endif %}", "{% if text %}{{ text }}{% endif %}", "{{ label }}"),
    ],
)
def test_a_source_is_parted_at_the_bars(given: str, prompt: str, target: str) -> None:
    assert parse_template(given) == Template(prompt, target)


def test_two_characters_of_a_shell_are_a_line_break() -> None:
    assert parse_template(r"{{ text }}\nSentiment: ||| {{ label }}").prompt == "{{ text }}\nSentiment:"


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mood.jinja"
    file.write_text("Text: {{ text }}\nMood (\\n is kept):\n|||\n{{ label }}\n")

    assert parse_template(str(file)) == Template("Text: {{ text }}\nMood (\\n is kept):")


def test_a_file_without_bars_loses_its_last_line_break_only(tmp_path: Path) -> None:
    file = tmp_path / "mood.jinja"
    file.write_text("{{ text }}\n\n")

    assert parse_template(str(file)).prompt == "{{ text }}\n"


def test_a_path_that_is_not_there_is_told_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(TemplateError) as caught:
        parse_template(f"{tmp_path}/none.jinja")

    assert "has no {{ placeholder }} and is no readable file" in str(caught.value)
    assert r"'{{ text }}\nSentiment: ||| {{ label }}'" in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"\xff\xfe")

    with pytest.raises(TemplateError, match="is no readable file"):
        parse_template(str(tmp_path / "broken"))


def test_a_file_without_placeholders_does_not_pass_the_check(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("What is the mood?")

    assert "the prompt does not show the text" in refused_by_check(parse_template(str(tmp_path / "plain")).prompt)


def test_bars_twice_are_refused() -> None:
    with pytest.raises(TemplateError, match=r"it has 2 times \|\|\|, expected one between the prompt and the target"):
        parse_template("{{ text }} ||| {{ label }} ||| {{ label }}")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{{ text }", r"unexpected '}' in line 1, got '{{ text }'"),
        ("a\n{% if text %}", r"in line 2, got 'a\\n{% if text %}'"),
        ("{{ text | nonsense }}", r"No filter named 'nonsense' in line 1"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "it is nested too deeply"),
    ],
)
def test_a_broken_source_is_told_with_its_line(source: str, told: str) -> None:
    with pytest.raises(TemplateError, match=told) as caught:
        Template(source)
    assert str(caught.value).startswith("Reading the prompt template: ")


def test_a_broken_target_is_told_as_the_target() -> None:
    with pytest.raises(TemplateError, match="Reading the target template: "):
        Template("{{ text }}", "{{ label")


# -- checking against a table ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("{{ text }}", "{{ label }}"),
        ("{{ id }}: {{ sentence }}", "{{ sentiment }}"),
        ("{% for i in range(2) %}{{ text }}{% endfor %}", "{% set x = label %}{{ x }}"),
    ],
)
def test_placeholders_that_are_columns_pass(prompt: str, target: str) -> None:
    check(prompt, target)


def test_an_unknown_placeholder_is_named_with_what_may_have_been_meant() -> None:
    assert refused_by_check("{{ sentense }}{{ text }}") == (
        "Checking the template: the prompt has the placeholder 'sentense', the table has no such column. "
        "Did you mean 'sentence' or 'sentiment'?"
    )


def test_all_faults_of_a_template_are_told_at_once() -> None:
    told = refused_by_check("{{ titel }} {{ sentiment }}", "{{ id }}")

    assert "the prompt has the placeholder 'titel'" in told
    assert "the prompt does not show the text. Put {{ text }} or {{ sentence }} into it." in told
    assert "the prompt shows the label, which is what the base shall answer" in told
    assert "the target uses 'id'; with a closed label set the answer may depend on the label alone" in told
    assert "the target does not use {{ label }}, so every label has the same answer" in told


@pytest.mark.parametrize("prompt", ["{{ text }} {{ label }}", "{{ text }} {{ sentiment }}"])
def test_a_prompt_that_gives_the_label_away_is_refused(prompt: str) -> None:
    assert "the prompt shows the label" in refused_by_check(prompt)


def test_free_text_may_be_made_of_other_columns() -> None:
    check("{{ text }}", "{{ id }}: {{ label }}", is_closed=False)


def test_a_table_to_predict_needs_the_prompts_columns_and_no_label() -> None:
    template = Template("{{ title }}: {{ sentence }}", "{{ sentiment }}")
    check_prompt(template, ("headline", "title"), text_column="sentence")

    with pytest.raises(TemplateError) as caught:
        check_prompt(template, ("headline", "titles"), text_column="sentence")
    assert str(caught.value) == (
        "Checking the adapter's template: the prompt has the placeholder 'title', the table has no such column. "
        "Did you mean 'titles'?"
    )


# -- the sandbox -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "{{ text.__class__.__mro__ }}",
        "{{ text['__class__'] }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ (text|attr('__class__')).__name__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{{ text.encode.__self__.__class__ }}",
    ],
)
def test_pythons_insides_are_out_of_reach(source: str) -> None:
    told = refused(source)

    assert "Rendering the prompt: " in told and ("unsafe" in told or "undefined" in told or "no attribute" in told)


@pytest.mark.parametrize("source", ["{% include '/etc/passwd' %}", "{% import '/etc/passwd' as x %}"])
def test_no_file_can_be_read(source: str) -> None:
    assert "no loader for this environment" in refused(source)


@pytest.mark.parametrize("source", ["{% set x = [] %}{{ x.append(1) }}", "{% set x = {} %}{{ x.update(a=1) }}"])
def test_nothing_can_be_changed(source: str) -> None:
    assert "is unsafe" in refused(source)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{{ text * 1000000000 }}", "* would make more than 16,777,216 characters"),
        ("{{ 1000000000 * 'ab' }}", "* would make more than 16,777,216 characters"),
        ("{{ [0] * 1000000000 }}", "* would make more than 16,777,216 characters"),
        ("{{ 9 ** 99999 }}", "** would make a number of more than 4096 bits"),
        ("{% for i in range(100000000) %}{{ i }}{% endfor %}", "Range too big"),
        ("{% for i in range(99999) %}{{ text * 1000 }}{% endfor %}", "it gives more than 16,777,216 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ text + 1 }}", "TypeError"),
        ("{{ undefined.x.y }}", "'undefined' is undefined"),
    ],
)
def test_what_is_too_much_or_makes_no_sense_ends_in_an_error_soon(source: str, told: str) -> None:
    began = time.monotonic()

    assert told in refused(source)
    assert time.monotonic() - began < 5


def test_small_products_and_powers_stay_possible() -> None:
    assert render("{{ '-' * 3 }}{{ 2 ** 10 }}{{ 6 * 7 }}{{ 2.5 * 2 }}{{ 2 ** -1 }}") == "---1024425.00.5"
