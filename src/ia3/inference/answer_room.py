"""Room for an answer: how many tokens a base may write, and what that leaves of the prompt in front of it.

This file knows what a base has positions for, and encodings; it runs no model.
"""

from __future__ import annotations

from ia3.bases.loading import Base
from ia3.data.encoding import Encoding
from ia3.errors import SettingsError

MOST_NEW_TOKENS = 64  # of free text, unless asked for more


def most_new_tokens(base: Base, encoding: Encoding) -> int:
    """Return the tokens of the longest label's answer, or of free text as many as the base has room for."""
    longest = max((len(ids) for ids in encoding.choice_ids), default=0)
    return longest or most_room(base, MOST_NEW_TOKENS)


def most_room(base: Base, tokens: int) -> int:
    """Return so many tokens of an answer or, where a base has fewer positions, what is left beside a prompt."""
    limits = base.limits
    room = limits.writes if base.kind == "seq2seq" else limits.reads and max(1, limits.reads // 2)
    return tokens if room is None else min(tokens, room)


def encoding_beside(base: Base, encoding: Encoding, max_new_tokens: int) -> Encoding:
    """Return the encoding whose prompts leave room for an answer, where prompt and answer share the positions.

    Raises:
        SettingsError: If the base has no room for so long an answer.
    """
    limits, longest = base.limits, encoding.max_length
    is_causal = base.kind == "causal"
    room = limits.reads if is_causal else limits.writes
    if room is not None and max_new_tokens > room - is_causal:
        beside = " for prompt and answer" if is_causal else " for an answer"
        raise SettingsError(
            f"Generating: max_new_tokens is {max_new_tokens}, and the base has {room} positions{beside}. Ask for fewer."
        )
    if not is_causal or longest is None:
        return encoding
    left = longest if limits.usual is None else limits.usual - max_new_tokens
    if room is None:  # the base runs on behind the length it was trained with: half of it is always the prompt's
        left = max(left, longest // 2)
    answer = max((len(ids) for ids in encoding.choice_ids), default=0)  # the encoding takes it off again
    return encoding.with_max_length(min(longest, left + answer))
