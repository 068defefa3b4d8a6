"""Mixed batches: any rows in any order and of any lengths give every example what it gets alone.

Of every family, with the faster passes on and off: logits, scores of choices, continuations with beams, gradients; and
what is not a number in one adapter stays in its own examples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ia3.core.attach import Attachment
from ia3.core.heads import Head
from ia3.data.batches import IGNORED, Batch
from ia3.data.encoding import Encoded
from ia3.fast.acceleration import accelerate
from ia3.inference.scoring import score_choices
from tests.core.banks import attached_model, largest, random_row
from tests.families import CASES, VOCABULARY, tiny_base
from tests.fast.passes import loss_and_gradients, make_batch, mixed_model, take_onednn

FAMILIES = pytest.mark.parametrize("family", CASES)
FASTER = pytest.mark.parametrize("faster", [False, True], ids=["plain", "faster"])
# Plain passes have such a test of every family in test_promises.py (gradients) and tests/inference/test_scoring.py, and
# of each kind in test_generation.py: here the whole product is for the slow tier.
MOSTLY_FASTER = pytest.mark.parametrize(
    "faster", [pytest.param(False, marks=pytest.mark.slow), True], ids=["plain", "faster"]
)
GENERATING = pytest.mark.parametrize("family", [name for name, case in CASES.items() if case.kind != "encoder"])
# Names, and the same as numbers. The first batch that hypothesis tries is made of the first ones, so it is mixed too.
ROWS: list[str | int] = ["a", "__base__", 3, "b", "broken", "signs", 0, 1, 2]
SEQ = 6
CHOICES = [(5, 1), (5, 6, 7, 1), (9,)]

EXAMPLES = st.lists(st.tuples(st.sampled_from(ROWS), st.integers(1, SEQ)), min_size=1, max_size=5)
_MODELS: dict[tuple[str, bool], tuple[Any, Attachment]] = {}  # read only: no test here changes them


@pytest.fixture(autouse=True)
def _onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    take_onednn(monkeypatch)


def _attached(family: str, faster: bool) -> tuple[Any, Attachment]:
    """Return a model with adapters in training, one at rest (`b`), and one that is not a number (`broken`)."""
    if (family, faster) not in _MODELS:
        model, attachment = mixed_model(family)
        bank = attachment.bank
        bank.set_trainable("b", False)
        bank.add("broken", torch.full((bank.plan.width,), torch.nan))
        if faster:
            accelerate(attachment)
        _MODELS[family, faster] = model, attachment
    return _MODELS[family, faster]


@dataclass(frozen=True)
class Mixed:
    """A batch with a row for each example."""

    inputs: dict[str, Tensor]
    rows: list[str | int]

    @classmethod
    def of(cls, family: str, examples: list[tuple[str | int, int]], *, left: bool = False) -> Mixed:
        """Return random tokens of the given lengths, padded on one side to the same length whatever they are."""
        generator = torch.Generator().manual_seed(len(examples))
        ids = torch.randint(3, VOCABULARY, (len(examples), SEQ), generator=generator)
        place = torch.arange(SEQ).expand_as(ids)
        lengths = torch.tensor([[length] for _, length in examples])
        mask = (place >= SEQ - lengths if left else place < lengths).long()
        inputs = {"input_ids": ids * mask, "attention_mask": mask}
        if CASES[family].kind == "seq2seq":
            inputs["decoder_input_ids"] = torch.randint(3, VOCABULARY, (len(examples), 4), generator=generator)
        return cls(inputs, [row for row, _ in examples])

    def only(self, place: int) -> dict[str, Tensor]:
        """Return one example, padded as it is in the batch."""
        return {name: tensor[place : place + 1] for name, tensor in self.inputs.items()}

    def is_broken(self, place: int) -> bool:
        """Whether an example's adapter is not a number."""
        return self.rows[place] == "broken"


@FASTER
@FAMILIES
@torch.no_grad()
def test_logits_are_those_of_each_example_alone(family: str, faster: bool) -> None:
    model, _ = _attached(family, faster)

    @settings(max_examples=3, deadline=None, database=None)
    @given(EXAMPLES)
    def check(examples: list[tuple[str | int, int]]) -> None:
        batch = Mixed.of(family, examples)
        mixed = model(**batch.inputs, rows=batch.rows).logits
        for place, row in enumerate(batch.rows):
            alone = model(**batch.only(place), rows=row).logits[0]
            if batch.is_broken(place):
                assert bool(mixed[place].isnan().any())
                continue
            assert largest(mixed[place] - alone) <= 1e-5
            assert torch.equal(mixed[place].argmax(-1), alone.argmax(-1))

    check()


@MOSTLY_FASTER
@FAMILIES
def test_scores_of_choices_are_those_of_each_example_alone(family: str, faster: bool) -> None:
    model, _ = _attached(family, faster)
    is_encoder = CASES[family].kind == "encoder"
    bound = 1e-5 * torch.tensor([1 if is_encoder else len(choice) for choice in CHOICES])  # for each token

    def score(prompts: list[Encoded], rows: Any) -> Tensor:
        return score_choices(tiny_base(model), prompts, CHOICES, rows)

    @settings(max_examples=2, deadline=None, database=None)
    @given(st.lists(st.sampled_from(ROWS), min_size=3, max_size=4, unique=True), st.integers(2, SEQ))
    def check(rows: list[str | int], length: int) -> None:
        generator = torch.Generator().manual_seed(length)
        ids = torch.randint(3, VOCABULARY, (len(rows), length), generator=generator).tolist()
        prompts = [Encoded(place, tuple(tokens), (), -1, truncated=False) for place, tokens in enumerate(ids)]
        mixed = score(prompts, rows)
        for place, row in enumerate(rows):
            if row == "broken":
                assert bool(mixed[place].isnan().all())
            else:
                differences = (mixed[place] - score([prompts[place]], row)[0]).abs()
                assert bool((differences <= bound).all())

    check()


@MOSTLY_FASTER
@GENERATING
def test_continuations_are_those_of_each_prompt_alone(family: str, faster: bool) -> None:
    model, _ = _attached(family, faster)
    rows = st.sampled_from([row for row in ROWS if row != "broken"])

    @settings(max_examples=2, deadline=None, database=None)
    @given(
        st.lists(st.tuples(rows, st.integers(2, SEQ)), min_size=2, max_size=3, unique_by=lambda pair: pair[0]),
        st.sampled_from([(3, 2), (1, 1), (2, 1)]),
    )
    def check(examples: list[tuple[str | int, int]], beams: tuple[int, int]) -> None:
        batch = Mixed.of(family, examples, left=CASES[family].kind == "causal")
        batch.inputs.pop("decoder_input_ids", None)
        options = {"do_sample": False, "max_new_tokens": 3, "min_new_tokens": 3, "num_beams": beams[0]}
        mixed = model.generate(**batch.inputs, rows=batch.rows, num_return_sequences=beams[1], **options)
        alone = [
            model.generate(**batch.only(place), rows=row, num_return_sequences=beams[1], **options)
            for place, row in enumerate(batch.rows)
        ]
        assert torch.equal(mixed, torch.cat(alone))

    check()


@MOSTLY_FASTER
@FAMILIES
def test_gradients_come_from_a_row_s_own_examples_only(family: str, faster: bool) -> None:
    model, attachment = _attached(family, faster)
    bank = attachment.bank
    whole = make_batch(family)

    @settings(max_examples=2, deadline=None, database=None)
    @given(st.permutations(["a", "signs", "broken", "a", "__base__", "signs", "b"]).map(lambda rows: rows[:4]))
    def check(rows: list[str]) -> None:
        found = loss_and_gradients(model, attachment, family, whole, rows)
        for name in ("a", "signs"):
            gradient = found.get(f"vectors.row{bank.row(name)}")
            own = [place for place, row in enumerate(rows) if row == name]
            if not own:
                assert gradient is None
                continue
            assert gradient is not None
            targets = _only(whole, own).labels
            if not bool((targets != IGNORED).any()):
                assert largest(gradient) == 0
                continue
            alone = loss_and_gradients(model, attachment, family, _only(whole, own), name)
            expected = alone[f"vectors.row{bank.row(name)}"]
            assert largest(gradient - expected) <= 1e-5 * max(1.0, largest(expected))

    check()


@pytest.mark.parametrize("family", ["bert", "distilbert", "deberta-v3", "modernbert"])
@FASTER
def test_classifiers_with_different_numbers_of_labels_share_a_batch(family: str, faster: bool) -> None:
    """Logits, log-probabilities, loss and gradients, the base's own head and one that is not a number among them."""
    model, attachment = _classifiers(family, faster)
    whole, rows = (
        replace(make_batch(family, 5), choices=torch.tensor([1, 0, 2, 4, 0])),
        ["two", "broken", 0, "five", "two"],
    )
    prompts = [Encoded(place, (7 + place, 9, 5), (), -1, truncated=False) for place in range(5)]
    found = loss_and_gradients(model, attachment, family, whole, [row if row != "broken" else "two" for row in rows])
    with torch.no_grad():
        mixed = model(**whole.inputs, rows=rows).logits
        scores = score_choices(tiny_base(model), prompts, [], rows)
        assert mixed.shape == scores.shape == (5, 5)
        for place, row in enumerate(rows):
            alone = model(**_only(whole, [place]).inputs, rows=row).logits[0]
            labels = len(alone)
            assert labels == {"two": 2, "broken": 3, 0: 3, "five": 5}[row]
            assert bool((mixed[place, labels:] == -torch.inf).all())
            if row == "broken":
                assert bool(mixed[place, :labels].isnan().all())
                continue
            assert largest(mixed[place, :labels] - alone) <= 1e-5
            expected = score_choices(tiny_base(model), prompts[place : place + 1], [], row)[0]
            assert largest(scores[place, :labels] - expected) <= 1e-5
    for name, own in (("two", [0, 1, 4]), ("five", [3])):
        alone_of = loss_and_gradients(model, attachment, family, _only(whole, own), name)
        mine = {key: tensor for key, tensor in found.items() if f"row{attachment.bank.row(name)}" in key}
        assert set(mine) == set(alone_of) - {"loss"} and len(mine) == 3
        for key, gradient in mine.items():
            assert largest(gradient - alone_of[key]) <= 1e-5 * max(1.0, largest(alone_of[key]))


def _classifiers(family: str, faster: bool) -> tuple[Any, Attachment]:
    """Return a model whose adapters `two` and `five` have so many labels; the base and `broken` have three."""
    model, attachment = attached_model(family)
    attachment.route_heads(["classifier"])
    for place, (name, labels) in enumerate((("two", 2), ("five", 5))):
        head = Head({"classifier": torch.nn.Linear(16, labels)})
        attachment.bank.add(name, random_row(attachment.bank, seed=place), trainable=True, head=head)
    attachment.bank.add("broken", torch.full((attachment.bank.plan.width,), torch.nan))
    if faster:
        accelerate(attachment)
    return model, attachment


def _only(batch: Batch, places: list[int]) -> Batch:
    """Return some examples of a batch, padded as they were."""
    decoder = batch.decoder_input_ids
    return replace(
        batch,
        input_ids=batch.input_ids[places],
        attention_mask=batch.attention_mask[places],
        decoder_input_ids=None if decoder is None else decoder[places],
        labels=batch.labels[places],
        choices=batch.choices[places],
        indices=tuple(batch.indices[place] for place in places),
    )
