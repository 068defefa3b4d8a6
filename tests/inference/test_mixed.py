"""Different adapters in one batch: every text gets what its own adapter answers alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ia3.adapters.attached import adapter_of, attach, put_on
from ia3.bases.loading import Base, load_base
from ia3.core.heads import Head
from ia3.data.tables import read_table
from ia3.data.templates import Template
from ia3.errors import BankError, SettingsError, TableError
from ia3.inference import asking
from ia3.inference.loading import load_predictor
from ia3.inference.predictor import Predictor
from tests.models import save_tiny_base

KINDS = ("causal", "seq2seq", "encoder")
RECORDS: dict[str, dict[str, Any]] = {
    "mood": {"labels": ["bad", "good"], "template": {"prompt": "{{ text }}\nMood:", "target": "{{ label }}"}},
    "topic": {
        "labels": ["art", "law", "of war and peace"],
        "template": {"prompt": "Topic of {{ text }}?", "target": "{{ label }}", "ranking": "mean"},
    },
    "tone": {"labels": ["bad", "good"], "template": {"prompt": "{{ text }} Tone:", "target": "{{ label }}"}},
}
TEXTS = ["Profit rose.", "A court sat.", "Sales fell by 3 % in the third quarter.", "x", "Peace", "Orders: none"]
ADAPTERS = ["mood", "topic", "tone", "mood", "topic", "tone"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mixed")


@cache
def predictor_of(kind: Any, home: Path) -> Predictor:
    """Return a predictor of one of several adapters on a base, each with its own labels, template and head."""
    labels = RECORDS["mood"]["labels"] if kind == "encoder" else None
    base = load_base(save_tiny_base(home / kind, kind), labels=labels, device="cpu", say=lambda line: None)
    folder = _save(base, home / f"{kind}-mood")
    predictor = load_predictor(folder, base=base, name="mood")
    for name, record in list(RECORDS.items())[1:]:
        own = adapter_of(predictor.attachment, "mood")
        random = torch.Generator().manual_seed(len(name))
        vectors = {site: 2 * torch.rand(v.shape, generator=random) for site, v in own.vectors.items()}
        shapes = {n: (len(record["labels"]), *t.shape[1:]) for n, t in own.head.items()}
        head = {n: torch.randn(shape, generator=random) for n, shape in shapes.items()}
        put_on(
            base.model, replace(own, vectors=vectors, head=head, record={"base": own.record["base"], **record}), name
        )
    if kind != "encoder":  # one more that answers with free text
        predictor.attachment.bank.add("writer", predictor.attachment.bank.vector("tone"))
    return predictor


def _save(base: Base, folder: Path) -> Path:
    from ia3.adapters.folder import save_adapter

    attachment = attach(base.model, head_modules=base.head_modules, name="mood")
    width = attachment.bank.plan.width
    attachment.bank.set_vector("mood", 2 * torch.rand(width, generator=torch.Generator().manual_seed(1)))
    adapter = adapter_of(attachment, "mood")
    attachment.detach()
    return save_adapter(replace(adapter, record={"base": adapter.record["base"], **RECORDS["mood"]}), folder)


@pytest.mark.parametrize("kind", KINDS)
def test_each_text_gets_the_prediction_that_its_own_adapter_gives_alone(kind: str, home: Path) -> None:
    predictor = predictor_of(kind, home)
    found = predictor.classify(TEXTS, adapters=ADAPTERS)
    for text, name, prediction in zip(TEXTS, ADAPTERS, found, strict=True):
        (alone,) = predictor.beside(name).classify([text])
        assert list(prediction.probabilities) == RECORDS[name]["labels"]
        assert prediction.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
        assert prediction.prediction == alone.prediction
    assert len({str(p.probabilities) for p in found}) == len(TEXTS)


@pytest.mark.parametrize(("kind", "passes"), [("encoder", 1), ("causal", 2), ("seq2seq", 2)])
def test_adapters_meet_in_a_batch_where_their_choices_allow(
    kind: str, passes: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Any] = []
    original = asking.score_choices

    def score(base: Any, encoded: Any, choice_ids: Any, given: Any) -> Any:
        rows.append([given] * len(encoded) if isinstance(given, str) else given)  # one name where all have the same
        return original(base, encoded, choice_ids, given)

    monkeypatch.setattr(asking, "score_choices", score)
    monkeypatch.setattr(asking, "pass_cost", lambda device, budget: budget, raising=False)  # as few as fit
    told: list[tuple[int, int | None]] = []
    predictor_of(kind, home).classify(TEXTS, lambda done, total: told.append((done, total)), adapters=ADAPTERS)
    assert len(rows) == passes and sorted(name for names in rows for name in names) == sorted(ADAPTERS)
    assert told[-1] == (len(TEXTS), len(TEXTS)) and len(told) == passes


def give_templates(predictor: Predictor, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    """Have two adapters record further templates, `mood` one and `topic` two, and what else is given."""
    bank = predictor.attachment.bank
    for name, others in (("mood", ["{{ text }} ("]), ("topic", ["On {{ text }}", "{{ text }} is about"])):
        record: dict[str, Any] = {"base": bank.record(name)["base"], **RECORDS[name]}
        words = {**record["template"], "others": [{"prompt": one, "target": "{{ label }}"} for one in others]}
        bank.describe(name, {**record, "template": words, **more})


def test_an_ensemble_reads_each_text_in_all_templates_of_its_own_adapter(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = predictor_of("causal", home)
    give_templates(predictor, monkeypatch)
    others = tuple(replace(predictor.encoding, template=Template(one)) for one in ["{{ text }} ("])
    ensemble = replace(predictor, others=others)
    told: list[tuple[int, int | None]] = []
    found = ensemble.classify(TEXTS, lambda done, total: told.append((done, total)), adapters=ADAPTERS)
    assert told[-1] == (2 * (2 + 3 + 1), 12)  # tone has one template, and is read in that
    for text, name, prediction in zip(TEXTS, ADAPTERS, found, strict=True):
        one = ensemble.beside(name)
        assert len(one.others) == {"mood": 1, "topic": 2, "tone": 0}[name]
        assert prediction.probabilities == pytest.approx(one.classify([text])[0].probabilities, abs=1e-5)
    plain = predictor.classify(TEXTS, adapters=ADAPTERS)
    pairs = zip(found, plain, strict=True)  # other batches may round the last bit otherwise
    alike = [one.probabilities == pytest.approx(other.probabilities, abs=1e-6) for one, other in pairs]
    assert alike == [False, False, True] * 2


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_rows_with_choices_of_their_own_meet_those_of_adapters_with_labels(kind: str, home: Path) -> None:
    predictor = predictor_of(kind, home)
    record = predictor.attachment.bank.record("mood")
    words = {"prompt": "{{ text }} One of {{ choices }}:", "target": "{{ label }}", "ranking": "mean"}
    own = {"base": record["base"], "template": {**words, "choices_column": "options"}}
    put_on(predictor.base.model, replace(adapter_of(predictor.attachment, "topic"), record=own), f"quiz-{kind}")
    names = [f"quiz-{kind}", "mood", f"quiz-{kind}", "topic"]
    cells = ["red | green", "", '["a b c", "d", "ef"]', ""]
    rows = [{"text": text, "options": cell} for text, cell in zip(TEXTS[:4], cells, strict=True)]
    examples = list(read_table(rows, labels_required=False).examples)  # read as for adapters with labels
    for given in (rows, examples):
        found = predictor.classify(given, adapters=names)
        assert list(found[0].probabilities) == ["red", "green"] and list(found[2].probabilities) == ["a b c", "d", "ef"]
        for place, name in enumerate(names):
            (alone,) = predictor.beside(name).classify(rows[place : place + 1])
            assert found[place].probabilities == pytest.approx(alone.probabilities, abs=1e-5)
    with pytest.raises(TableError, match=r":2, column 'options': choices are missing\."):
        predictor.classify(examples[1:2], adapters=names[:1])
    predictor.attachment.bank.remove(f"quiz-{kind}")


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_generated_answers_are_those_of_each_adapter_alone(kind: str, home: Path) -> None:
    predictor = predictor_of(kind, home)
    names = ["mood", "writer", "topic", "tone", "writer", "mood"]
    found = predictor.generate(TEXTS, 6, adapters=names)
    assert found == [predictor.beside(name).generate([text], 6)[0] for text, name in zip(TEXTS, names, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_text_gets_as_much_of_its_adapter_as_is_asked_for(kind: str, home: Path) -> None:
    predictor = predictor_of(kind, home)
    full, none = (predictor.classify(TEXTS, adapters=ADAPTERS, strengths=s) for s in (1, [0.0] * len(TEXTS)))
    assert full == predictor.classify(TEXTS, adapters=ADAPTERS)
    strengths = [0.0, 1.0, 0.5, 1.0, 0.0, -1.0]
    mixed = predictor.classify(TEXTS, adapters=ADAPTERS, strengths=strengths)
    for place, strength in enumerate(strengths):
        if strength in (0, 1):
            assert mixed[place] == (full if strength else none)[place]
        else:
            alone = predictor.beside(ADAPTERS[place]).classify([TEXTS[place]], strengths=strength)[0]
            assert mixed[place].probabilities == pytest.approx(alone.probabilities, abs=1e-5)
            assert mixed[place] not in (full[place], none[place])
    own = replace(predictor, strength=0.5)
    assert own.classify(TEXTS) == predictor.classify(TEXTS, strengths=[0.5] * len(TEXTS))
    assert own.classify(TEXTS, strengths=1) == predictor.classify(TEXTS)
    expected = predictor.classify(TEXTS, adapters=ADAPTERS, strengths=[0.5, 1, 1, 0.5, 1, 1])
    assert own.classify(TEXTS, adapters=ADAPTERS) == expected


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_answers_are_generated_at_the_strength_asked_for(kind: str, home: Path) -> None:
    predictor = predictor_of(kind, home)
    strengths = [0, 1, 0.5, 1, 0, 2.0]
    found = predictor.generate(TEXTS, 5, adapters=ADAPTERS, strengths=strengths)
    for place, (name, strength) in enumerate(zip(ADAPTERS, strengths, strict=True)):
        assert predictor.beside(name).generate([TEXTS[place]], 5, strengths=strength) == [found[place]]
    with pytest.raises(SettingsError, match="got 1 strengths for 6 texts, expected one number, or a list with one for"):
        predictor.generate(TEXTS, 5, strengths=[1])
    with pytest.raises(SettingsError, match="got 7 strengths for 6 texts"):
        predictor.classify(TEXTS, adapters=ADAPTERS, strengths=[1] * 7)
    with pytest.raises(BankError, match="'mood': its strength is nan, expected a finite number"):
        predictor.classify(TEXTS, strengths=float("nan"))


def test_dicts_are_read_with_the_text_column_of_each_adapter_and_no_text_gives_no_answer(home: Path) -> None:
    predictor = predictor_of("causal", home)
    rows = [{"text": text} for text in TEXTS]
    assert predictor.classify(rows, adapters=ADAPTERS) == predictor.classify(TEXTS, adapters=ADAPTERS)
    assert predictor.classify([], adapters=[]) == [] and predictor.generate([], adapters=[]) == []


def test_texts_and_names_may_be_columns_of_a_frame_whatever_its_index(home: Path) -> None:
    """Places in a frame were looked up in its index, so rows of another order were answered in place of the asked."""
    predictor = predictor_of("causal", home)
    frame = pd.DataFrame({"text": TEXTS, "adapter": ADAPTERS}, index=range(len(TEXTS), 0, -1))
    expected = predictor.classify(TEXTS, adapters=ADAPTERS)
    assert predictor.classify(frame.text, adapters=frame.adapter) == expected
    assert predictor.classify(frame, adapters=frame.adapter.to_numpy()) == expected
    with pytest.raises(SettingsError, match="text 1 of 2 has no adapter, its name is missing"):
        predictor.classify(TEXTS[:2], adapters=pd.Series([None, "mood"]))


def test_what_cannot_be_answered_is_an_error(home: Path) -> None:
    predictor = predictor_of("causal", home)
    with pytest.raises(SettingsError, match="got 2 adapters for 6 texts, expected a list with one for each text"):
        predictor.classify(TEXTS, adapters=["mood", "topic"])
    with pytest.raises(SettingsError, match="got the name 'mood' for 6 texts"):
        predictor.generate(TEXTS, adapters="mood")
    with pytest.raises(BankError, match=r"'mod': the bank has no such name\. Did you mean 'mood'"):
        predictor.classify(["x"], adapters=["mod"])
    with pytest.raises(SettingsError, match="adapter 'writer' answers with free text and has no labels"):
        predictor.classify(["x"], adapters=["writer"])
    assert isinstance(predictor_of("encoder", home).attachment.bank.snapshot.head(1), Head)
