"""Vectors of an encoder are judged on rows that they have not learned, and kept only where they are worth it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ia3
from ia3.adapters.folder import load_adapter
from ia3.cli.main import main
from ia3.data.encoding import Encoded
from ia3.errors import SettingsError
from ia3.runs import fitted_head, judging
from ia3.runs.fitted_head import read_inputs
from ia3.runs.judging import Known, Score, Worth, judge, judged_parts, know, losses_for
from ia3.training.settings import Settings, settings_for
from ia3.training.tasks import Callbacks
from tests.cli.conftest import write_table
from tests.runs.trials import ROWS, content, run, stop_after
from tests.training.tasks import same_bits
from tests.training.test_together import make_tasks, trained

SHORT: dict[str, Any] = {"recipe": "t-few-small", "max_steps": 4, "batch_size": 8}
HELPED: dict[str, Any] = {"recipe": "t-few-small", "max_steps": 4, "learning_rate": 5.0}
DROWNED: dict[str, Any] = {"recipe": "t-few-small", "losses": "lm", "learning_rate": 10.0}
JUDGED = Settings(losses="contrast", pooling="mean", fit_head=True, judge=True, max_steps=6, learning_rate=0.05)

pytestmark = pytest.mark.usefixtures("undrawn")


def record_of(folder: Path) -> Any:
    return json.loads((folder / "ia3.json").read_text(encoding="utf-8"))


# -- folds ------------------------------------------------------------------------------------------------------------


def _known(rows: Sequence[tuple[int, int]], seed: int = 0, texts: int = 0) -> Known:
    """Return rows of (text, label), behind them the words of so many labels."""
    examples = [Encoded(i, (text, 7), (), label, False) for i, (text, label) in enumerate(rows)]
    examples += [Encoded(len(rows) + i, (99 + i,), (), i, False) for i in range(texts)]
    return Known(tuple(examples), torch.zeros(len(examples), 2), 4, len(rows), seed)


ROWS_OF_LABELS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=60)


@given(ROWS_OF_LABELS, st.integers(1, 6), st.integers(0, 99), st.integers(0, 4))
def test_folds_are_all_rows_once_and_a_text_is_in_one_of_them(
    rows: list[tuple[int, int]], count: int, seed: int, texts: int
) -> None:
    folds = _known(rows, seed, texts).folds(count)
    assert len(folds) == count and sorted(place for fold in folds for place in fold) == list(range(len(rows)))
    homes = [{rows[place][0] for place in fold} for fold in folds]
    assert sum(map(len, homes)) == len({text for text, _ in rows})
    assert folds == _known(rows, seed, texts).folds(count)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 6), st.integers(0, 99))
def test_each_label_is_spread_over_the_folds(labels: list[int], count: int, seed: int) -> None:
    folds = _known([*enumerate(labels)], seed).folds(count)
    for label in set(labels):
        shares = [sum(labels[place] == label for place in fold) for fold in folds]
        assert max(shares) - min(shares) <= 1


def test_another_seed_draws_other_folds() -> None:
    rows = [(i, i % 2) for i in range(40)]
    assert len({str(_known(rows, seed).folds(5)) for seed in range(5)}) == 5


def test_of_a_long_table_in_the_order_of_its_labels_every_label_is_judged_on_a_few_rows() -> None:
    rows = [(i, i // 500) for i in range(2000)]
    (judged,) = judged_parts(_known(rows))
    shares = [sum(rows[place][1] == label for place in judged) for label in range(4)]
    assert 150 <= len(judged) <= 200 and max(shares) - min(shares) <= 1


# -- what is judged ----------------------------------------------------------------------------------------------------


def test_what_vectors_learn_from_is_said_by_what_the_frozen_base_knows() -> None:
    assert losses_for(Score(0.7, 1.0, 1.0)) == {"losses": "lm+contrast", "contrast_temperature": 0.1}
    assert losses_for(Score(0.69, 1.0, 1.0)) == {"losses": "contrast", "contrast_temperature": 0.2}


def test_vectors_are_kept_unless_they_are_worse() -> None:
    score = Score(0.5, 1.0, 1.0)
    assert Worth(score).is_kept and Worth(score, 4, score, score).is_kept
    assert Worth(score, 4, score, replace(score, loss=0.9, accuracy=0.1)).is_kept
    assert not Worth(score, 4, score, replace(score, loss=1.1, accuracy=0.9)).is_kept


@pytest.mark.parametrize("is_mixed", [True, False])
def test_judging_leaves_rows_heads_and_the_bank_as_they_were(is_mixed: bool, tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path, "encoder", pooling="mean")
    attachment = tasks["a"].attachment
    before, names = trained(tasks), attachment.bank.names
    found = [know(task, len(task.train), 0) for task in tasks.values()]
    known, scores = zip(*(one for one in found if one is not None), strict=True)
    pairs = [(task, JUDGED) for task in tasks.values()]
    callbacks = Callbacks(evaluate=lambda names: [None] * len(names))
    worths = judge(pairs, known, scores, callbacks, begun=[False] * 3, is_mixed=is_mixed)
    assert attachment.bank.names == names
    assert all(same_bits(tensors, before[name]) for name, tensors in trained(tasks).items())
    assert [worth.rows for worth in worths] == [7, 5, 3]  # few of each label: all of them, in two halves
    assert all(worth.trained != worth.without for worth in worths)


def test_judging_that_fails_takes_its_rows_out_again(tmp_path: Path) -> None:
    task = make_tasks(tmp_path, "encoder", ["a"], pooling="mean")["a"]
    found = know(task, len(task.train), 0)
    assert found is not None

    def stop() -> bool:
        raise KeyboardInterrupt

    callbacks = Callbacks(evaluate=lambda names: [None] * len(names), should_stop=stop)
    with pytest.raises(KeyboardInterrupt):
        judge([(task, JUDGED)], [found[0]], [found[1]], callbacks, begun=[False], is_mixed=True)
    assert task.attachment.bank.names == ("a",)


# -- runs --------------------------------------------------------------------------------------------------------------


def test_the_record_says_what_they_are_worth_and_where_the_temperature_is_from(sentences: Path, tmp_path: Path) -> None:
    told: list[str] = []
    run(sentences, tmp_path / "o", say=told.append, **SHORT)
    record = record_of(tmp_path / "o")
    worth = record["worth"]
    assert set(worth) == {"frozen", "rows", "without_vectors", "with_vectors", "is_kept"}
    assert set(worth["frozen"]) == {"accuracy", "loss"} and worth["rows"] == 4  # 17 rows of two labels: a fifth
    assert worth["is_kept"] == (worth["with_vectors"]["loss"] <= worth["without_vectors"]["loss"])
    assert record["calibration"]["fitted_on"] == "training rows that the vectors had not learned"
    assert record["calibration"]["rows"] == 4
    assert ia3.load(tmp_path / "o").evaluate(ROWS).temperature == record["calibration"]["temperature"]
    assert any(line.startswith("The frozen base with a fitted head is right on") for line in told)
    assert any(line.startswith("On 4 rows that the vectors had not learned, ") for line in told)
    losses = losses_for(Score(worth["frozen"]["accuracy"], 0.0, 1.0))
    assert {name: record["settings"][name] for name in losses} == losses


def test_vectors_that_are_worse_are_not_kept_and_the_adapter_is_the_head_alone(sentences: Path, tmp_path: Path) -> None:
    told: list[str] = []
    run(sentences, tmp_path / "o", say=told.append, **DROWNED)
    run(sentences, tmp_path / "head", interpolation=0.0, **SHORT)
    assert record_of(tmp_path / "o")["worth"]["is_kept"] is False
    assert any(
        line.endswith("They are not kept: the adapter is the fitted head on what it began with.") for line in told
    )
    kept, alone = (load_adapter(tmp_path / name) for name in ("o", "head"))
    assert all(torch.equal(vector, torch.ones_like(vector)) for vector in kept.vectors.values())
    assert kept.head.keys() == alone.head.keys() and all(torch.equal(kept.head[n], alone.head[n]) for n in kept.head)
    texts = [text for text, _ in ROWS]
    answers = [ia3.load(tmp_path / name).classify(texts) for name in ("o", "head")]
    assert [one.prediction for one in answers[0]] == [one.prediction for one in answers[1]]
    assert record_of(tmp_path / "head")["worth"]["with_vectors"] is None  # nothing of them was asked for


@pytest.mark.parametrize(("settings", "steps"), [(HELPED, 1), (HELPED, 3), (DROWNED, 0)], ids=["first", "last", "none"])
def test_a_judged_run_that_is_resumed_ends_in_the_same_bits(
    settings: dict[str, Any], steps: int, sentences: Path, tmp_path: Path
) -> None:
    given = {**settings, "checkpoint_seconds": 0.0}
    run(sentences, tmp_path / "whole" / "o", **given)
    assert record_of(tmp_path / "whole" / "o")["worth"]["is_kept"] == bool(steps)
    run(sentences, tmp_path / "cut" / "o", **given, **stop_after(steps))
    run(sentences, tmp_path / "cut" / "o", resume=True, **given)
    assert content(tmp_path / "cut" / "o") == content(tmp_path / "whole" / "o")


@pytest.mark.parametrize("steps", [1, 5, 8])
def test_the_adapter_of_a_contrast_that_is_stopped_has_a_head_for_its_vectors(
    steps: int, sentences: Path, tmp_path: Path
) -> None:
    given = {"recipe": "t-few-small", "losses": "contrast", "judge": False, "max_steps": 8, "batch_size": 8}
    run(sentences, tmp_path / "o", learning_rate=0.5, label_texts=False, **given, **stop_after(steps))
    adapter, predictor = load_adapter(tmp_path / "o"), ia3.load(tmp_path / "o", base=str(sentences))
    rows = tuple(Encoded(i, tuple(ids), (), 0, False) for i, ids in enumerate(_ids(predictor)))
    read = read_inputs(predictor.attachment, predictor.attachment.bank.names[-1], rows, predictor.base.pad_id)
    assert read is not None and adapter.head is not None
    gold = torch.tensor([sorted({label for _, label in ROWS}).index(label) for _, label in ROWS])
    weight, _ = fitted_head.fit_linear(read, gold, int(gold.max()) + 1)
    (saved,) = [tensor for name, tensor in adapter.head.items() if name.endswith("weight")]
    torch.testing.assert_close(saved.double(), weight, rtol=0, atol=1e-2 * float(weight.abs().max()))


def _ids(predictor: Any) -> Any:
    return predictor.base.tokenizer([text for text, _ in ROWS])["input_ids"]


def test_rows_of_one_text_are_learned_without_being_judged(sentences: Path, tmp_path: Path) -> None:
    ia3.train([("the same", "up"), ("the same", "down")], sentences, tmp_path / "o", **SHORT)
    record = record_of(tmp_path / "o")
    assert "worth" not in record and record["settings"]["losses"] == "lm"


def test_training_rows_go_through_the_frozen_base_once(
    sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counting(attachment: Any, row: str, *args: Any) -> Any:
        read.append(row)
        return read_inputs(attachment, row, *args)

    for module in (fitted_head, judging):
        monkeypatch.setattr(module, "read_inputs", counting)
    run(sentences, tmp_path / "o", **SHORT)
    assert read.count("default") == 2  # before the first step, and behind the last one


def test_a_run_that_is_stopped_while_it_is_judged_decides_nothing_and_goes_on(sentences: Path, tmp_path: Path) -> None:
    given = {**DROWNED, "checkpoint_seconds": 0.0}
    run(sentences, tmp_path / "whole" / "o", **given)
    run(sentences, tmp_path / "cut" / "o", **given, should_stop=lambda: True)
    run(sentences, tmp_path / "cut" / "o", resume=True, **given)
    assert content(tmp_path / "cut" / "o") == content(tmp_path / "whole" / "o")


def test_what_is_no_classifier_on_the_mean_learns_from_its_heads_loss(
    base: Callable[..., Path], tmp_path: Path
) -> None:
    run(base("encoder"), tmp_path / "o", **SHORT)
    record = record_of(tmp_path / "o")
    assert (record["settings"]["pooling"], record["settings"]["losses"]) == ("own", "lm")
    assert record["worth"]["rows"] == 4


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"losses": "contrast", "pooling": "own", "fit_head": True}, "losses is 'contrast' and pooling 'own', expe"),
        ({"losses": "lm+contrast", "pooling": "own"}, r"losses is 'lm\+contrast' and pooling 'own', expected"),
        ({"losses": "contrast", "pooling": "mean", "fit_head": False}, "losses is 'contrast' and fit_head False, ex"),
        ({"losses": "auto", "pooling": "mean", "fit_head": False}, "losses is 'auto' and fit_head False, expected"),
    ],
)  # fmt: skip
def test_a_contrast_without_a_mean_or_without_a_fitted_head_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        settings_for("encoder", **given)


def test_a_contrast_of_a_language_model_is_refused_in_one_sentence(
    base: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(write_table(tmp_path / "t.csv", ROWS))
    command = [
        "train",
        table,
        "--base",
        str(base("causal")),
        "--output",
        str(tmp_path / "o"),
        "--losses",
        "lm+contrast",
    ]
    assert main([*command, "--pooling", "auto"]) == 2
    told = "ia3: Checking the settings: losses is 'lm+contrast' and the base is no encoder, expected lm or lm+ul+ln."
    assert capsys.readouterr().err.splitlines()[-1] == told
