"""Several templates: given one by one, or as a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ia3.data.template_sets import read_templates, templates_of
from ia3.data.templates import Template
from ia3.errors import TemplateError

ONE, OTHER = Template("{{ text }}\nMood:"), Template("News: {{ text }}", "{{ label }} news")


def _file(folder: Path, content: str, name: str = "t.yaml") -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def test_one_several_and_none_are_taken() -> None:
    assert templates_of(None) == () and templates_of([]) == ()
    assert templates_of(ONE) == templates_of(r"{{ text }}\nMood:") == (ONE,)
    assert templates_of([ONE, "News: {{ text }} ||| {{ label }} news"]) == (ONE, OTHER)


def test_two_that_are_the_same_are_refused() -> None:
    with pytest.raises(TemplateError, match=r"the 1\. and the 3\. are the same"):
        templates_of([ONE, OTHER, r"{{ text }}\nMood:"])


@pytest.mark.parametrize("head", ["", "templates:\n"])
def test_a_yaml_file_has_texts_and_parts(head: str, tmp_path: Path) -> None:
    content = '- "{{ text }}\\nMood:"\n- prompt: "News: {{ text }}"\n  target: "{{ label }} news"\n'

    assert read_templates(_file(tmp_path, head + content)) == (ONE, OTHER)


def test_a_json_file_is_read_too(tmp_path: Path) -> None:
    content = '["{{ text }}\\nMood:", {"prompt": "News: {{ text }}", "target": "{{ label }} news"}]'

    assert read_templates(_file(tmp_path, content, "t.json")) == (ONE, OTHER)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "expected a list of templates, or one under 'templates:'"),
        ("prompt: x", "expected a list of templates"),
        ("- '{{ text'", "number 1: Reading the prompt template: unexpected end of template"),
        ("- '{{ text }}'\n- plain", "number 2: it is 'plain', expected a text with {{ text }}, or prompt and target"),
        ("- {promt: '{{ text }}'}", "it has the keys 'promt', expected 'prompt' and 'target'. Did you mean 'prompt'?"),
        ("- 'a\n  b: [", "it is neither YAML nor JSON in line"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(content: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(TemplateError) as caught:
        read_templates(_file(tmp_path, content))

    assert str(caught.value).startswith("Reading the templates of ") and told in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"t\.yaml: it cannot be read \(No such file or directory\)"):
        read_templates(tmp_path / "t.yaml")
