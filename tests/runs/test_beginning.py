"""What rows begin with: a head that is fitted, and the mean that it reads, from training to prediction."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import ia3
from ia3.adapters.arithmetic import average
from ia3.adapters.attached import attach
from ia3.adapters.folder import load_adapter
from ia3.bases.loading import load_base
from ia3.cli.main import main
from ia3.data.encoding import Encoded
from ia3.errors import AdapterError, RunError, SettingsError
from ia3.runs.dataset import encode_rows, read_rows
from ia3.runs.fitted_head import STRENGTH, fit_head, fit_linear
from ia3.runs.plans.sweep import sweep
from ia3.starts.start import read_start
from tests.cli.conftest import write_table
from tests.runs.trials import ROWS, TASKS, run, run_many, stop_after
from tests.training.tasks import save_base

LABELS = ("down", "up")
STILL = {"max_steps": 1, "learning_rate": 1e-9, "head_learning_rate": 1e-9, "eval_fraction": 0.0}

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_a_fitted_layer_has_no_slope_left_whatever_the_inputs_size(scale: float) -> None:
    random = torch.Generator().manual_seed(0)
    unit = nn.functional.normalize(torch.randn(40, 6, generator=random, dtype=torch.float64), dim=1)
    labels = torch.randint(3, (40,), generator=random)
    weight, bias = fit_linear(unit * scale, labels, 3)
    wide = (weight * scale).requires_grad_(True)
    bias.requires_grad_(True)
    wrong = nn.functional.cross_entropy(unit @ wide.T + bias, labels, reduction="sum")
    (wrong + wide.square().sum() / (2 * STRENGTH)).backward()
    assert wide.grad is not None and bias.grad is not None
    # float32 steps end where the largest slope of the mean loss is 1e-5, that of the sum 40 times that and its rounding
    assert float(wide.grad.abs().max()) < 40 * 1.1e-5 and float(bias.grad.abs().max()) < 40 * 1.1e-5
    assert float(wide.detach().abs().max()) > 0.1


def test_a_head_is_fitted_on_what_its_own_row_gives_it(sentences: Path) -> None:
    base = load_base(sentences, labels=LABELS, pooling="auto")
    rows = read_rows(ROWS, eval_fraction=0.0, kind="encoder")
    examples = encode_rows(rows, base.tokenizer, base.limits, "encoder").train
    attachment = attach(base.model, head_modules=base.head_modules, name="row")
    width = attachment.bank.plan.width
    attachment.bank.set_vector("row", 1 + 0.3 * torch.randn(width, generator=torch.Generator().manual_seed(0)))
    assert fit_head(base, attachment, "row", examples) == "The head begins with a logistic regression on 17 rows."
    caught: list[Any] = []
    handle = base.model.get_submodule("mean_classifier").register_forward_pre_hook(lambda _, args: caught.append(args))
    with torch.no_grad():
        for example in examples:
            base.model(input_ids=torch.tensor([example.prompt_ids]), rows="row")
    handle.remove()
    inputs = torch.cat([args[0] for args in caught])
    weight, bias = fit_linear(inputs, torch.tensor([example.choice for example in examples]), 2)
    head = attachment.bank.heads["row1"]
    # inputs that differ in their last bits end at other places within the tolerance: a slope of the summed loss of
    # 17 · 1e-5 at a bend of at least 1 / C, on inputs of length one
    within = 17 * 1e-5 * STRENGTH
    length = float(torch.linalg.vector_norm(inputs, dim=1).mean())
    torch.testing.assert_close(head.parts[0].weight.detach().double(), weight, rtol=0, atol=within / length)
    torch.testing.assert_close(head.parts[0].bias.detach().double(), bias, rtol=0, atol=within)
    assert float(weight.abs().max()) > 20 * within / length
    attachment.detach()


def test_the_small_recipe_reads_the_mean_and_fits_the_head_and_predicting_knows_it(
    sentences: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    held: dict[str, Any] = {"eval_fraction": 0.1}
    result = run(sentences, tmp_path / "o", recipe="t-few-small", max_steps=2, say=told.append, **held)
    assert "The head begins with a logistic regression on 15 rows." in told
    record = json.loads((tmp_path / "o" / "ia3.json").read_text())
    assert (record["base"]["pooling"], record["base"]["head_modules"]) == ("mean", ["mean_classifier"])
    assert record["settings"]["fit_head"] is True and record["settings"]["pooling"] == "mean"  # what it came to
    predictor = ia3.load(tmp_path / "o")
    assert predictor.base.pooling == "mean"
    assert result.metrics is not None
    held_out = read_rows(ROWS, kind="encoder", **held).held_out
    assert held_out is not None
    assert predictor.evaluate(held_out).loss == pytest.approx(result.metrics.loss, abs=1e-6)


def test_an_adapter_of_the_mean_is_refused_on_a_base_that_reads_another_place(sentences: Path, tmp_path: Path) -> None:
    run(sentences, tmp_path / "o", pooling="mean", **STILL)
    with pytest.raises(AdapterError, match=r"reads another place of the base \(mean\).*pooling='mean'"):
        ia3.load(tmp_path / "o", base=load_base(sentences, labels=LABELS))


def test_a_merged_model_of_the_mean_answers_as_its_adapter(sentences: Path, tmp_path: Path) -> None:

    run(sentences, tmp_path / "o", pooling="mean", eval_fraction=0.0)
    assert main(["merge", str(tmp_path / "o"), "--output", str(tmp_path / "merged")]) == 0
    predictor = ia3.load(tmp_path / "o")
    merged = load_base(tmp_path / "merged", labels=LABELS)
    batch = merged.tokenizer([ROWS[0][0]], return_tensors="pt")
    with torch.no_grad():
        one = merged.model(**batch).logits.softmax(-1)[0]
    found = predictor.classify([ROWS[0][0]])[0].probabilities
    assert [found[label] for label in LABELS] == pytest.approx(one.tolist(), abs=1e-5)


def test_of_a_head_of_several_layers_the_last_is_fitted(base: Callable[..., Path]) -> None:
    loaded = load_base(base("encoder"), labels=LABELS)
    rows = read_rows(ROWS, eval_fraction=0.0, kind="encoder")
    examples = encode_rows(rows, loaded.tokenizer, loaded.limits, "encoder").train
    attachment = attach(loaded.model, head_modules=["bert.pooler", "classifier"], name="row")
    head = attachment.bank.heads["row1"]
    before = [tensor.clone() for tensor in head.tensors().values()]
    fit_head(loaded, attachment, "row", examples)
    changed = [not torch.equal(a, b) for a, b in zip(before, head.tensors().values(), strict=True)]
    assert dict(zip(head.tensors(), changed, strict=True)) == {
        "bert.pooler.dense.weight": False,
        "bert.pooler.dense.bias": False,
        "classifier.weight": True,
        "classifier.bias": True,
    }
    attachment.detach()


def test_without_a_layer_for_a_text_nothing_is_fitted_and_the_user_told(base: Callable[..., Path]) -> None:
    loaded = load_base(base("encoder"), labels=LABELS)
    attachment = attach(loaded.model, name="row")  # the head is the base's own
    assert fit_head(loaded, attachment, "row", ()).startswith("No head is fitted, since")
    attachment.detach()


@pytest.mark.parametrize("per_token", [True, False])
def test_a_head_on_every_token_is_not_fitted(per_token: bool, tmp_path: Path) -> None:
    """A decoder's classifier has no bias and answers at every position; transformers then picks the last."""
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=300, num_labels=2
    )
    config.pad_token_id = 0
    model = transformers.LlamaForSequenceClassification(config).eval().requires_grad_(False)
    if per_token:
        model.score = nn.Linear(8, 2)
    loaded = replace(load_base(save_base(tmp_path / "base", "causal")), model=model, kind="encoder")
    examples = [Encoded(i, (1, 2, 3 + i)[: 3 - i % 2], (), i % 2, truncated=False) for i in range(4)]
    attachment = attach(model, head_modules=["score"], name="row")
    before = attachment.bank.heads["row1"].parts[0].weight.detach().clone()
    assert fit_head(loaded, attachment, "row", examples).startswith("No head is fitted, since")
    assert torch.equal(attachment.bank.heads["row1"].parts[0].weight, before)
    attachment.detach()


def test_a_start_of_another_pooling_gives_its_vectors_and_the_head_is_fitted(sentences: Path, tmp_path: Path) -> None:
    run(sentences, tmp_path / "own", pooling="own", max_steps=3, eval_fraction=0.0)
    told: list[str] = []
    run(sentences, tmp_path / "o", start=tmp_path / "own", pooling="mean", fit_head=True, say=told.append, **STILL)
    assert not any("head as well" in sentence or "drawn anew" in sentence for sentence in told)  # it is fitted
    run(sentences, tmp_path / "p", start=tmp_path / "own", pooling="mean", fit_head=False, say=told.append, **STILL)
    assert any("no head that reads what this base's reads (mean): drawn anew" in sentence for sentence in told)
    digests = [json.loads((tmp_path / name / "ia3.json").read_text())["start"]["vectors"] for name in ("o", "p")]
    assert digests == [read_start(tmp_path / "own").digest] * 2
    start, got = load_adapter(tmp_path / "own"), load_adapter(tmp_path / "o")
    assert all(torch.allclose(start.vectors[name], got.vectors[name], atol=1e-6) for name in got.vectors)


def test_tasks_of_one_run_have_their_heads_fitted_each_on_its_rows(sentences: Path, tmp_path: Path) -> None:
    told: list[str] = []
    run_many(sentences, tmp_path / "o", pooling="mean", fit_head=True, say=told.append, **STILL)
    for task in TASKS:
        assert f"The head begins with a logistic regression on {len(task['table'])} rows." in told
    heads = [load_adapter(tmp_path / "o" / task["name"]).head["mean_classifier.weight"] for task in TASKS]
    assert [len(head) for head in heads] == [2, 2, 3]
    assert not torch.allclose(heads[0], heads[1])


def test_a_loaded_base_has_its_own_pooling(sentences: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"pooling is 'mean', .*load_base\(.*pooling='mean'"):
        run(load_base(sentences, labels=LABELS), tmp_path / "o", pooling="mean")
    told: list[str] = []
    run(load_base(sentences, labels=LABELS), tmp_path / "o", pooling="auto", say=told.append, **STILL)
    assert any("was trained for the mean of all positions" in sentence for sentence in told)
    assert json.loads((tmp_path / "o" / "ia3.json").read_text())["base"]["pooling"] == "own"


def test_a_loaded_language_model_has_no_head_to_read_the_mean(base: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="pooling 'mean' is for the head of an encoder"):
        run(load_base(base("causal")), tmp_path / "o", pooling="mean")


def test_runs_side_by_side_have_one_pooling(sentences: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="the runs have the poolings mean and own"):
        sweep(ROWS, sentences, tmp_path / "o", vary={"pooling": ["own", "mean"]})


def test_a_run_is_not_resumed_on_a_head_that_reads_another_place(sentences: Path, tmp_path: Path) -> None:
    run(load_base(sentences, labels=LABELS, pooling="mean"), tmp_path / "o", checkpoint_seconds=0, **stop_after(2))
    with pytest.raises(RunError, match='pooling was "mean" and is "own"'):
        run(load_base(sentences, labels=LABELS), tmp_path / "o", resume=True)
    result = run(load_base(sentences, labels=LABELS, pooling="mean"), tmp_path / "o", resume=True)
    assert not result.outcome.is_stopped


def test_a_store_holds_heads_of_one_pooling(
    sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    run(sentences, tmp_path / "mean", pooling="mean", **STILL)
    run(sentences, tmp_path / "own", pooling="own", **STILL)
    store = str(tmp_path / "all.ia3")
    assert main(["adapters", "pack", store, str(tmp_path / "mean"), str(tmp_path / "own")]) != 0
    assert "its head reads another place of the base (own) than those of the store (mean)" in capsys.readouterr().err
    assert main(["adapters", "pack", store, str(tmp_path / "mean")]) == 0
    assert ia3.load(f"{store}:mean").base.pooling == "mean"


def test_a_recipes_fitted_head_can_be_turned_off(sentences: Path, tmp_path: Path) -> None:

    table = write_table(tmp_path / "table.csv", ROWS)
    common = [str(table), "--base", str(sentences), "--recipe", "t-few-small", "--max-steps", "1"]
    assert main(["train", *common, "--no-fit-head", "--losses", "lm", "--output", str(tmp_path / "o")]) == 0
    assert json.loads((tmp_path / "o" / "ia3.json").read_text())["settings"]["fit_head"] is False


def test_heads_that_read_different_places_are_not_combined(sentences: Path, tmp_path: Path) -> None:
    run(sentences, tmp_path / "mean", pooling="mean", **STILL)
    run(sentences, tmp_path / "own", pooling="own", **STILL)
    both = {name: load_adapter(tmp_path / name) for name in ("mean", "own")}
    with pytest.raises(AdapterError, match="that of 'mean' reads 'mean' and that of 'own' reads 'own'"):
        average(both, head_from="own")
    assert average({"mean": both["mean"]}).pooling == "mean"
