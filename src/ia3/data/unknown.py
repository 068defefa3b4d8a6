"""What a tokenizer does not know: texts that a base cannot read, and answers that it cannot write.

A script that a vocabulary lacks becomes the unknown token, one for a word or for a whole run of letters, and nothing is
left of what stood there. Byte-level vocabularies, and those that fall back on bytes, have no unknowns. This file counts
and tells; it knows tokenizers and examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ia3.data.examples import Example, quote

_BLANKS = "▁Ġ \n\t"  # what tokens are made of that stand for nothing but a blank
_TOO_MANY = 0.1  # of all tokens of a table, where no single text is mostly unknown


def unknown_id(tokenizer: Any) -> int | None:
    """Return the id of a tokenizer's unknown token; None where it is only another name of an end token (GPT-2)."""
    found = getattr(tokenizer, "unk_token_id", None)
    ends = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
    return None if found in [getattr(tokenizer, end, None) for end in ends] else found


def is_unknown(tokenizer: Any, ids: Sequence[int]) -> bool:
    """Whether tokens say nothing: all of them are unknown or blank, and one at least is unknown."""
    unknown = unknown_id(tokenizer)
    return unknown in ids and all(own == unknown or _is_blank(tokenizer, own) for own in ids)


def describe_unknown_texts(
    tokenizer: Any, examples: Sequence[Example], prompts: Sequence[Sequence[int]], what: str = "texts"
) -> tuple[str, ...]:
    """Return in a sentence how much of the texts a base cannot read; nothing where it reads them.

    Args:
        tokenizer: The base's.
        examples: The examples.
        prompts: Token ids of each one's prompt; only texts whose prompt has an unknown token are looked at.
        what: What the texts are called.
    """
    unknown = unknown_id(tokenizer)
    suspects = [e for e, ids in zip(examples, prompts, strict=True) if unknown is not None and unknown in ids]
    counted = [one for one in _count(tokenizer, suspects) if one.unknown]
    lost = [one for one in counted if one.is_mostly_unknown]
    if not counted or (not lost and sum(one.unknown for one in counted) < _TOO_MANY * sum(map(len, prompts))):
        return ()
    shown = lost or counted
    share = 100 * sum(one.unknown for one in shown) / max(1, sum(one.tokens for one in shown))
    amount = "mostly" if lost else "partly"
    first = shown[0].example
    return (
        f"{len(shown)} of {len(examples)} {what} {'is' if len(shown) == 1 else 'are'} {amount} unknown to the base: "
        f"{share:.0f} % of their tokens are {tokenizer.unk_token}, first {first.origin} ({quote(first.text)}). The "
        "base reads nothing there; take one that knows their letters.",
    )


def describe_unknown_answers(
    tokenizer: Any, examples: Sequence[Example], answers: Sequence[Sequence[int]]
) -> tuple[str, ...]:
    """Return in a sentence how many answers of free text a base can never write; nothing where it can write all."""
    unknown = unknown_id(tokenizer)
    lost = [e for e, ids in zip(examples, answers, strict=True) if unknown is not None and unknown in ids]
    if not lost:
        return ()
    return (
        f"{len(lost)} of {len(examples)} answers {'has' if len(lost) == 1 else 'have'} tokens unknown to the base "
        f"({tokenizer.unk_token}), first {lost[0].origin} ({quote(lost[0].label or '')}). It can never write them; "
        "word the answers otherwise, or take a base that knows their letters.",
    )


def _is_blank(tokenizer: Any, token: int) -> bool:
    return not str(tokenizer.convert_ids_to_tokens(token)).strip(_BLANKS)


def _count(tokenizer: Any, examples: Sequence[Example]) -> Iterator[_Counted]:
    """Yield what a tokenizer does not know of each text."""
    if not examples:
        return
    texts = [example.text for example in examples]
    plain = {"add_special_tokens": False, "truncation": False, "verbose": False}
    encoded = tokenizer(texts, **plain, return_offsets_mapping=tokenizer.is_fast)
    unknown = unknown_id(tokenizer)
    for number, (example, ids) in enumerate(zip(examples, encoded["input_ids"], strict=True)):
        places = encoded["offset_mapping"][number] if tokenizer.is_fast else []
        lost = [example.text[a:b] for own, (a, b) in zip(ids, places, strict=False) if own == unknown]
        words = sum(not _is_blank(tokenizer, own) for own in ids)
        yield _Counted(example, words, list(ids).count(unknown), _letters(example.text), sum(map(_letters, lost)))


def _letters(text: str) -> int:
    return len("".join(text.split()))


@dataclass(frozen=True)
class _Counted:
    """One text: its tokens that are no blanks, how many of them are unknown, and the same in characters."""

    example: Example
    tokens: int
    unknown: int
    characters: int
    unknown_characters: int  # 0 where the tokenizer does not say which they are

    @property
    def is_mostly_unknown(self) -> bool:
        """Whether more than half of it is unknown; a run of letters may be one token."""
        return 2 * self.unknown > self.tokens or 2 * self.unknown_characters > self.characters
