"""A label's own words as one more row: `refund not showing up` is nearer to its texts than nothing at all.

This file knows labels and tokenizers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ia3.data.encoding import Encoded, Encoding

_MARKS = re.compile(r"[\W_]+")
_HUMPS = re.compile(r"(?<=[a-z])(?=[A-Z])")  # of camel case
_FEWEST_LETTERS = 3  # of a word


def words_of(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the words of labels; none where one of them has no word, or two have the same but for digits.

    Example:
        >>> words_of(["card_arrival", "GetWeather"]), words_of(["class 1", "class 2"])
        (('card arrival', 'Get Weather'), ())
    """
    words = tuple(_MARKS.sub(" ", _HUMPS.sub(" ", label)).strip() for label in labels)
    bare = [re.sub(r"\d", "", one).strip() for one in words]
    has_words = all(any(len(part) >= _FEWEST_LETTERS and part.isalpha() for part in one.split()) for one in bare)
    return words if has_words and len(set(bare)) == len(bare) else ()


def label_rows(encoding: Encoding, first: int) -> tuple[Encoded, ...]:
    """Return an example of each label's own words, none where labels have none.

    Args:
        encoding: Of the table; its template is not used, since labels have no other columns.
        first: Position of the first one: the rows of the table are before it.
    """
    words = words_of(encoding.labels)
    ids = encoding.prompt_ids(words) if words else ()
    return tuple(Encoded(first + choice, tuple(own), (), choice, False) for choice, own in enumerate(ids))
