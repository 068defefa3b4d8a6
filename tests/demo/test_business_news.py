"""The bundled table of business news is what it promises: varied, hand-written, balanced, free.

Knows nothing of models and of how the package reads tables: it uses the plain csv module. The thresholds on variety lie
between what the table has (numbers beside each) and what a table of templates with swapped words would have.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DEMO = REPOSITORY / "src" / "ia3" / "demo"
TABLE = DEMO / "business_news.csv"
LABELS = ("negative", "neutral", "positive")

WORD = re.compile(r"[^\W\d_]+")  # letters only: a swapped number makes no new word


@pytest.fixture(scope="module")
def records() -> list[list[str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


@pytest.fixture(scope="module")
def sentences(records: list[list[str]]) -> list[str]:
    return [sentence for sentence, _ in records[1:]]


@pytest.fixture(scope="module")
def words(sentences: list[str]) -> list[list[str]]:
    return [words_of(sentence) for sentence in sentences]


def words_of(sentence: str) -> list[str]:
    return WORD.findall(sentence.casefold())


def ngrams(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(size)), strict=False)


def distinct_share(words: Sequence[Sequence[str]], size: int) -> float:
    every = [gram for sentence in words for gram in ngrams(sentence, size)]
    return len(set(every)) / len(every)


def near_duplicates(words: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Pairs of rows that share more than half of the 4-grams of the shorter one."""
    grams = [set(ngrams(sentence, 4)) for sentence in words]
    holders: dict[tuple[str, ...], list[int]] = {}
    for row, of_row in enumerate(grams):
        for gram in of_row:
            holders.setdefault(gram, []).append(row)
    shared = Counter(
        (first, second) for rows in holders.values() for place, first in enumerate(rows) for second in rows[place + 1 :]
    )
    return [
        (first, second)
        for (first, second), count in shared.items()
        if 2 * count > min(len(grams[first]), len(grams[second]))
    ]


def phrasebank() -> Path:
    folder = Path(os.environ.get("IA3_DATA") or REPOSITORY.parent / "shared" / "data")
    return folder / "financial_phrasebank" / "train.csv"


def test_the_file_is_plain_csv_with_two_columns(records: list[list[str]]) -> None:
    content = TABLE.read_bytes()
    assert records[0] == ["sentence", "label"]
    assert [number for number, record in enumerate(records, start=1) if len(record) != 2] == []
    assert b"\r" not in content
    assert content.endswith(b"\n")
    assert not content.startswith(b"\xef\xbb\xbf")


def test_there_are_at_least_600_rows(sentences: list[str]) -> None:
    assert len(sentences) >= 600


def test_the_labels_are_exactly_three_and_balanced(records: list[list[str]]) -> None:
    counts = Counter(label for _, label in records[1:])
    assert sorted(counts) == list(LABELS)
    assert min(counts.values()) >= len(records[1:]) / 4


def test_labels_are_mixed_over_the_file(records: list[list[str]]) -> None:
    labels = [label for _, label in records[1:]]
    hundreds = [labels[start : start + 100] for start in range(0, len(labels) - 99, 100)]
    assert all(min(Counter(hundred)[label] for label in LABELS) >= 15 for hundred in hundreds)


def test_no_sentence_is_empty_or_has_stray_blanks(sentences: list[str]) -> None:
    assert [s for s in sentences if not s or s != " ".join(s.split())] == []


def test_sentences_have_between_5_and_45_words(sentences: list[str]) -> None:
    assert [s for s in sentences if not 5 <= len(s.split()) <= 45] == []


def test_no_sentence_comes_twice_even_with_other_numbers(words: list[list[str]]) -> None:
    counts = Counter(" ".join(sentence) for sentence in words)
    assert [sentence for sentence, count in counts.items() if count > 1] == []


def test_no_two_sentences_share_more_than_half_of_their_4_grams(words: list[list[str]], sentences: list[str]) -> None:
    assert [(sentences[a], sentences[b]) for a, b in near_duplicates(words)] == []


def test_the_search_for_near_duplicates_finds_a_swapped_name() -> None:
    first = words_of("Operating profit of Ormskog rose to EUR 3 mn in the first quarter.")
    second = words_of("Operating profit of Sidwell rose to EUR 9 mn in the first quarter.")
    other = words_of("A fire destroyed the main paint shop on Sunday.")
    assert near_duplicates([first, other, second]) == [(0, 2)]


@pytest.mark.parametrize(("size", "most"), [(3, 3), (4, 3)])
def test_openings_are_varied(words: list[list[str]], size: int, most: int) -> None:
    openings = Counter(tuple(sentence[:size]) for sentence in words)
    assert [opening for opening, count in openings.items() if count > most] == []


def test_first_words_are_varied(words: list[list[str]]) -> None:
    first = Counter(sentence[0] for sentence in words)
    assert max(first.values()) <= len(words) * 0.12  # 0.08 ("the")
    assert len(first) >= len(words) * 0.5  # 0.70


def test_the_vocabulary_is_too_rich_for_templates(words: list[list[str]]) -> None:
    tokens = list(chain.from_iterable(words))
    counts = Counter(tokens)
    assert len(counts) >= 3000  # 4322
    assert len(counts) / len(tokens) >= 0.20  # 0.28
    assert sum(count == 1 for count in counts.values()) / len(counts) >= 0.50  # 0.62


@pytest.mark.parametrize(("size", "least"), [(2, 0.65), (3, 0.90), (4, 0.97)])  # 0.79, 0.97, 0.99
def test_word_sequences_rarely_come_back(words: list[list[str]], size: int, least: float) -> None:
    assert distinct_share(words, size) >= least


def test_the_measures_of_variety_see_through_templates() -> None:
    names = [f"Company{chr(97 + first)}{chr(97 + second)}" for first in range(20) for second in range(10)]
    templates = (
        "Operating profit of {name} rose to EUR 3 mn in the first quarter",
        "Because of weak demand {name} lowered its guidance for the full year",
        "{name} will hold its annual general meeting in Helsinki on 4 April",
    )
    made = [words_of(template.format(name=name)) for template in templates for name in names]
    assert distinct_share(made, 4) < 0.65
    assert len(set(chain.from_iterable(made))) / len(list(chain.from_iterable(made))) < 0.20
    assert near_duplicates(made)


def test_the_licence_beside_the_table_is_cc0() -> None:
    text = (DEMO / "LICENSE-CC0.txt").read_text(encoding="utf-8")
    assert "CC0 1.0" in text
    assert "https://creativecommons.org/publicdomain/zero/1.0/" in text
    assert TABLE.name in text


def test_no_sentence_is_from_financial_phrasebank(words: list[list[str]]) -> None:
    if not phrasebank().is_file():
        pytest.skip(f"{phrasebank()} is not there; set IA3_DATA to the folder of the real tables")
    with phrasebank().open(encoding="utf-8", newline="") as file:
        theirs = {" ".join(words_of(row["sentence"])) for row in csv.DictReader(file)}
    assert len(theirs) > 1000
    assert [sentence for sentence in map(" ".join, words) if sentence in theirs] == []
