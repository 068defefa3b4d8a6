"""Candidates for a template: they fit any table, and their answers stay apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ia3.data.candidates import prompt_candidates, target_candidates
from ia3.data.templates import Template, check_template, default_template


@given(st.none() | st.text(max_size=12).filter(lambda name: name != "text"))  # which is the other column
def test_every_prompt_fits_a_table_whatever_its_label_column_is_called(name: str | None) -> None:
    candidates = prompt_candidates(name)

    assert 11 <= len(candidates) <= 12 and len(set(candidates)) == len(candidates)
    for candidate in candidates:
        check_template(candidate, ("x", "y"), text_column="text", label_column=name or "label", is_closed=True)


def test_the_first_is_the_one_that_is_used_where_none_is_given() -> None:
    assert prompt_candidates("mood")[0] == default_template("causal", "mood")


def test_other_words_are_tried_where_they_differ_and_stay_apart() -> None:
    def words(*labels: str) -> list[list[str]]:
        found = target_candidates(Template("{{ text }}"), labels)
        return [[template.render_target(label) for label in labels] for template in found]

    assert words("up", "down") == []
    assert words("Up", "Down") == [["up", "down"]]
    assert words("Very_good news", "Bad") == [["very_good news", "bad"], ["very", "bad"]]
    assert words("very good", "very bad") == []  # the first words are the same


def test_a_label_without_a_first_word_leaves_that_candidate_out() -> None:
    found = target_candidates(Template("{{ text }}"), ("_", "Up"))
    assert [one.target for one in found] == ["{{ label | lower }}"]
