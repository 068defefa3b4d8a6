"""From examples to token ids: prompt, target, and the cutting of texts that are too long.

The causal target is a space, the label's words, the end token; the seq2seq target the words and the end token. Only the
text is ever cut, never the prompt's other words or the label. Every id and every answer is held against what the base
has room for. This file knows a tokenizer and a base's limits; it knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ia3.bases.limits import NO_LIMITS, Limits
from ia3.data.examples import Example, quote
from ia3.data.templates import Template, prompt_of
from ia3.data.unknown import is_unknown, unknown_id
from ia3.errors import BaseError, SettingsError, TemplateError, near_matches
from ia3.names import Kind

_CHUNK = 512  # prompts handed to the tokenizer at once
_LONGEST_WORD = 30  # characters; a longer run without a blank (Chinese, a URL) is cut inside


@dataclass(frozen=True)
class Encoded:
    """One example as token ids."""

    index: int  # position in its table
    prompt_ids: tuple[int, ...]  # what the base reads, special tokens included
    target_ids: tuple[int, ...]  # what it answers, end token included; empty for encoders and unlabelled rows
    choice: int  # position of the label in the label set; -1 for free text and unlabelled rows
    truncated: bool  # whether its text was cut
    choices: tuple[tuple[int, ...], ...] = ()  # token ids of every answer it could have; empty for encoders, free text

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.target_ids)


@dataclass(frozen=True)
class Encoding:
    """How a table's examples become token ids for one base.

    Attributes:
        tokenizer: The base's tokenizer.
        kind: Kind of the base.
        template: The words around text and label.
        text_column: Name of the column that `text` stands for.
        labels: The closed label set; empty for free text.
        max_length: Most tokens of an example; None for no limit. Causal answers count, those of seq2seq do not.
        label_column: Another name that the target may have for the label.
        choices_column: Where rows bring their own choices, the column that has them.
        limits: What the base has room for.
    """

    tokenizer: Any
    kind: Kind
    template: Template
    text_column: str
    labels: tuple[str, ...] = ()
    max_length: int | None = None
    label_column: str | None = None
    choices_column: str | None = None
    limits: Limits = NO_LIMITS
    choice_ids: tuple[tuple[int, ...], ...] = field(init=False)  # target ids of each label

    def __post_init__(self) -> None:
        ids = () if self.kind == "encoder" else tuple(self.target_ids(label) for label in self.labels)
        if len(set(ids)) != len(ids):
            twice = next(i for i in range(len(ids)) if ids[i] in ids[:i])
            raise TemplateError(
                f"Encoding the labels: {self.labels[twice]!r} and {self.labels[ids.index(ids[twice])]!r} have the same "
                f"answer tokens{self._unknown_clause(ids[twice])}, expected a different answer for each. Mend the "
                "template's target."
            )
        for label, own in zip(self.labels, ids, strict=False):  # an encoder has none
            self._check_choice(own, f"Encoding the labels: the answer {quote(label)}")
        object.__setattr__(self, "choice_ids", ids)

    def target_ids(self, label: str, example: Example | None = None) -> tuple[int, ...]:
        """Return the token ids of a label's answer, end token included."""
        own = {} if self.label_column is None else {self.label_column: label}
        words = self.template.render_target(label, {**(example.fields if example else {}), **own})
        end = self.tokenizer.eos_token_id
        if end is None:
            raise SettingsError("Encoding the labels: the tokenizer has no end token, expected eos_token to be set.")
        if self.kind == "seq2seq":
            ids = self.tokenizer(text_target=words, add_special_tokens=False)["input_ids"]
        else:
            ids = _continuation_ids(self.tokenizer, " " + words)
        return (*ids, end)

    def with_max_length(self, max_length: int | None) -> Encoding:
        """Return the same encoding with another limit."""
        return replace(self, max_length=max_length)

    def encode(
        self, examples: Sequence[Example], start: int = 0, seen: dict[str, tuple[int, ...]] | None = None
    ) -> Iterator[Encoded]:
        """Yield the token ids of examples, in order.

        Args:
            examples: The examples.
            start: Position of the first one in its table.
            seen: Token ids of prompts that other tables' examples had; those of these are put in. None remembers none.

        Raises:
            TemplateError: If a template fails on a row, gives an empty prompt, or leaves no room for the text.
            SettingsError: If a label is not in the closed set.
        """
        for first in range(0, len(examples), _CHUNK):
            chunk = examples[first : first + _CHUNK]
            prompts = [prompt_of(self.template, example, self.text_column) for example in chunk]
            known = {} if seen is None else seen
            new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
            if new:
                known.update(zip(new, self.prompt_ids(new), strict=True))
            for offset, (example, prompt) in enumerate(zip(chunk, prompts, strict=True)):
                yield self._encode_one(example, known[prompt], start + first + offset)

    def prompt_ids(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the token ids of prompts, special tokens included but never an end token before an answer."""
        encoded = [tuple(ids) for ids in self.tokenizer(list(prompts), truncation=False, verbose=False)["input_ids"]]
        if self.kind != "causal":
            return encoded
        end = self.tokenizer.eos_token_id
        return [ids[:-1] if len(ids) > 1 and ids[-1] == end else ids for ids in encoded]

    def _encode_one(self, example: Example, ids: tuple[int, ...], index: int) -> Encoded:
        if not ids:
            raise TemplateError(f"Encoding {example.origin}: its prompt {quote(example.text)} has no tokens.")
        self._check_ids(ids, f"Encoding {example.origin}")
        choices = self.choice_ids if self.choices_column is None else self._own_choices(example)
        choice = self._choice(example)
        target: tuple[int, ...] = ()
        if self.kind != "encoder" and example.label is not None:
            target = choices[choice] if choice >= 0 else self.target_ids(example.label, example)
        if choice < 0:  # those of a label set or of a row's choices are checked
            self._check_answer(target, f"Encoding {example.origin}: the answer")
        limit = self._prompt_limit(choices or (target,), example)
        if limit is None or len(ids) <= limit:
            return Encoded(index, ids, target, choice, truncated=False, choices=choices)
        return Encoded(index, self._cut(example, limit), target, choice, truncated=True, choices=choices)

    def _own_choices(self, example: Example) -> tuple[tuple[int, ...], ...]:
        """Return the target ids of the choices that a row brings."""
        if not example.choices:
            raise SettingsError(
                f"Encoding {example.origin}: the row brings no choices, expected them in the column "
                f"{quote(self.choices_column or '')}."
            )
        ids = tuple(self.target_ids(choice, example) for choice in example.choices)
        if len(set(ids)) != len(ids):
            twice = next(i for i in range(len(ids)) if ids[i] in ids[:i])
            raise TemplateError(
                f"Encoding {example.origin}: its choices {example.choices[ids.index(ids[twice])]!r} and "
                f"{example.choices[twice]!r} have the same answer tokens{self._unknown_clause(ids[twice])}. Mend the "
                "row, or the template's target."
            )
        for choice, own in zip(example.choices, ids, strict=True):
            self._check_choice(own, f"Encoding {example.origin}: the choice {quote(choice)}")
        return ids

    def _choice(self, example: Example) -> int:
        if self.choices_column is not None and example.label in example.choices:
            return example.choices.index(example.label)
        if not self.labels or example.label is None:
            return -1
        if example.label not in self.labels:
            near = near_matches(example.label, self.labels)
            raise SettingsError(
                f"Encoding {example.origin}: label {quote(example.label)} is not in the label set.{near}"
            )
        return self.labels.index(example.label)

    def _prompt_limit(self, answers: Sequence[tuple[int, ...]], example: Example) -> int | None:
        if self.max_length is None or self.kind != "causal":
            return self.max_length
        # every choice must fit behind the prompt, so that training and scoring read the same prompt
        longest = max(map(len, answers))
        if longest >= self.max_length:
            raise TemplateError(
                f"Encoding {example.origin}: its longest answer has {longest} tokens, the end token included, and "
                f"prompt and answer may have {self.max_length} together, expected room for the prompt. Shorten the "
                "answer, or raise --max-length."
            )
        return self.max_length - longest

    def _check_choice(self, ids: tuple[int, ...], doing: str) -> None:
        """Raise if one of several answers cannot be one, or says nothing to the base."""
        self._check_answer(ids, doing)
        if is_unknown(self.tokenizer, ids[:-1]):
            raise TemplateError(
                f"{doing} is nothing but unknown tokens ({self.tokenizer.unk_token}) to the base, expected words that "
                "it knows. Give the labels other words with the template's target, or take a base that knows their "
                "letters."
            )

    def _unknown_clause(self, ids: tuple[int, ...]) -> str:
        found = unknown_id(self.tokenizer)
        return f" (some are unknown to the base: {self.tokenizer.unk_token})" if found in ids else ""

    def _check_answer(self, ids: tuple[int, ...], doing: str) -> None:
        """Raise if an answer has no tokens of its own, an id without embeddings, or no room in the base."""
        room = self.limits.writes if self.kind == "seq2seq" else self.limits.reads
        if room is not None and len(ids) > room:
            raise TemplateError(
                f"{doing} has {len(ids)} tokens, the end token included, and the base has positions for {room}. "
                "Shorten it, with the template's target, or take a base that writes longer answers."
            )
        self._check_ids(ids, doing)

    def _check_ids(self, ids: tuple[int, ...], doing: str) -> None:
        rows = self.limits.vocabulary
        if rows is None or not ids or max(ids) < rows:
            return
        odd = next(token for token in ids if token >= rows)
        raise BaseError(
            f"{doing}: the token {quote(str(self.tokenizer.convert_ids_to_tokens(odd)))} has the id {odd}, and the "
            f"base's embeddings have {rows} rows, for the ids 0 to {rows - 1}. It was added to the tokenizer, and the "
            "embeddings were never resized: model.resize_token_embeddings(len(tokenizer)), train the new rows, and "
            "save both; or take the tokenizer that belongs to the weights."
        )

    def _cut(self, example: Example, limit: int) -> tuple[int, ...]:
        """Return the prompt with the longest beginning of the text that keeps it within the limit."""

        def with_text(characters: int) -> tuple[int, ...]:
            kept = _beginning(text, characters)
            return self.prompt_ids([prompt_of(self.template, example, self.text_column, kept)])[0]

        text = example.text.strip()  # blanks are the first to go
        best, bare = None, len(with_text(0))
        low, high = 0, len(text) + 1
        while high - low > 1:
            middle = (low + high) // 2
            candidate = with_text(middle)
            if len(candidate) > limit:
                high = middle
            else:
                low = middle
                best = candidate
        if best is None:
            raise TemplateError(
                f"Encoding {example.origin}: the prompt has {bare} tokens without its text and at most {limit} are "
                "allowed, expected room for some of the text. Shorten the template or the other columns, or raise "
                "--max-length."
            )
        return best


def _beginning(text: str, characters: int) -> str:
    """Return the first characters of a text, without the piece of a word that they may end in."""
    start = end = characters
    while start > 0 and characters - start <= _LONGEST_WORD and not text[start - 1].isspace():
        start -= 1
    while end < len(text) and end - start <= _LONGEST_WORD and not text[end].isspace():
        end += 1
    is_inside_a_word = start < characters < end and end - start <= _LONGEST_WORD
    return text[: start if is_inside_a_word and text[:start].strip() else characters].rstrip()


def _continuation_ids(tokenizer: Any, words: str) -> list[int]:
    """Return the ids of words that follow a prompt.

    Some SentencePiece tokenizers put a space of their own before every text, so that words with a space get two; the
    ids behind a character that stands for the prompt's end are then the right ones.
    """
    alone: list[int] = tokenizer(words, add_special_tokens=False)["input_ids"]
    anchor: list[int] = tokenizer(":", add_special_tokens=False)["input_ids"]
    joint: list[int] = tokenizer(":" + words, add_special_tokens=False)["input_ids"]
    return joint[len(anchor) :] if joint[: len(anchor)] == anchor and len(joint) > len(anchor) else alone
