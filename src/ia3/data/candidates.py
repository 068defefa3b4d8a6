"""Candidates for a template: a dozen prompts, and the words that labels may be answered with.

They name nothing of a task but its label column, so that they fit any table of labelled text. This file knows strings;
which of them a base understands is measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from ia3.data.templates import Template
from ia3.errors import TemplateError

TARGETS = (
    "{{ label }}",  # as in the table
    "{{ label | lower }}",
    "{{ label.replace('_', ' ').split()[0] | lower }}",  # the first word, which is often one token
)


def prompt_candidates(label_column: str | None) -> tuple[Template, ...]:
    r"""Return a dozen prompts, answered with the labels as they stand in the table.

    Args:
        label_column: Its name is what the prompts ask for.

    Example:
        >>> prompt_candidates("mood")[0].prompt
        '{{ text }}\nmood:'
    """
    name = (label_column or "label").replace("{", "").replace("}", "").replace("%", "").replace("#", "")
    words = " ".join(name.replace("_", " ").split()) or "label"
    title = words[:1].upper() + words[1:]
    prompts = (
        f"{{{{ text }}}}\n{name.strip() or 'label'}:",
        f"{{{{ text }}}}\n{title}:",
        f"{{{{ text }}}}\n\n{title}:",
        f"{{{{ text }}}} {title}:",
        f"{{{{ text }}}}\nThe {words} is",
        f"{{{{ text }}}} The {words} of this text is",
        f"Text: {{{{ text }}}}\n{title}:",
        "Input: {{ text }}\nOutput:",
        f"{title} of the text below.\n{{{{ text }}}}\n{title}:",
        f'"{{{{ text }}}}"\n{title}:',
        f"Question: What is the {words} of this text?\nText: {{{{ text }}}}\nAnswer:",
        "{{ text }}\nAnswer:",
    )
    return tuple(Template(prompt) for prompt in dict.fromkeys(prompts))


def target_candidates(template: Template, labels: Sequence[str]) -> tuple[Template, ...]:
    """Return a prompt with the other words that the labels may be answered with, where they differ and stay apart.

    Args:
        template: Has the prompt, and the words that are tried already.
        labels: The closed label set.
    """
    tried = {_answers(template, labels)}
    found = []
    for target in TARGETS:
        other = Template(template.prompt, target)
        try:
            answers = _answers(other, labels)
        except TemplateError:  # a label of underscores alone has no first word
            continue
        if answers not in tried and len(set(answers)) == len(labels):
            found.append(other)
        tried.add(answers)
    return tuple(found)


def _answers(template: Template, labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(template.render_target(label) for label in labels)
