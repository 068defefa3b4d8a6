"""From a table and a base to an adapter folder: what is in it, and that a base is left as it was."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ia3
from ia3.adapters.folder import load_adapter
from ia3.bases.loading import Base, load_base
from ia3.errors import SettingsError
from ia3.inference.asking import TOKEN_BUDGET
from ia3.runs.dataset import read_rows
from ia3.runs.results import OneResult
from ia3.training import backward
from tests.runs.trials import ROWS, SETTINGS, TOTAL, content, read, run, stop_after

BaseFolder = Callable[..., Path]
KINDS = ("causal", "seq2seq", "encoder")
LABELS = ["down", "up"]
FREE = [(f"item {i}", f"the answer is number {i}") for i in range(12)]


def _load(folder: Path, **options: Any) -> Base:
    return load_base(folder, device="cpu", say=lambda line: None, **options)


def _record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "ia3.json").read_text(encoding="utf-8"))
    return record


@pytest.fixture(scope="module")
def trained(base: BaseFolder, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[OneResult, Path]]:
    """Return the result and the folder of one run of a kind, made once."""
    made: dict[str, tuple[OneResult, Path]] = {}

    def run_of(kind: str) -> tuple[OneResult, Path]:
        if kind not in made:
            folder = tmp_path_factory.mktemp("trained") / "o"
            made[kind] = run(base(kind), folder), folder
        return made[kind]

    return run_of


# -- what a run leaves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_says_what_was_learned_from_what(kind: str, trained: Any, base: BaseFolder) -> None:
    result, folder = trained(kind)
    record = _record(folder)
    known = record["base"]
    assert (known["name"], known["kind"], known["dtype"]) == (str(base(kind)), kind, "float32")
    assert len(known["fingerprint"]) == 64 and known["head_modules"] == ["classifier"] * (kind == "encoder")
    data = record["data"]
    assert (data["name"], data["rows"], data["eval_rows"], data["eval_name"]) == ("rows", 15, 2, None)
    assert (data["text_column"], data["label_column"], data["skipped_rows"]) == ("text", "label", 0)
    assert len(data["fingerprint"]) == len(data["eval_fingerprint"]) == 64
    assert record["settings"] == result.settings.to_json()
    assert {name: record["settings"][name] for name in SETTINGS} == SETTINGS
    words = {"prompt", "target", *(["ranking"] if kind != "encoder" else [])}
    assert record["labels"] == LABELS and set(record["template"]) == words
    assert record["max_length"] == {"causal": 512, "seq2seq": None, "encoder": 256}[kind]
    assert record["created"] == "2026-01-02T03:04:05+00:00" and set(record["versions"]) >= {"ia3", "torch"}
    assert record["epoch"] == result.outcome.best_epoch and record["steps"] == 3 * record["epoch"]
    assert record["format_version"] == 1 and record["plan"]["width"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_metrics_are_those_of_the_best_epoch_in_record_result_and_predictor(kind: str, trained: Any) -> None:
    result, folder = trained(kind)
    epochs = [event for event in read(folder) if event["event"] == "epoch"]
    best = min(epochs, key=lambda event: event["eval_loss"])
    assert result.outcome.best_epoch == best["epoch"] and result.outcome.best_loss == best["eval_loss"]
    metrics = _record(folder)["metrics"]
    assert (metrics["loss"], metrics["accuracy"]) == (best["eval_loss"], best["eval_accuracy"])
    assert result.metrics is not None and result.metrics.loss == metrics["loss"] and metrics["rows"] == 2
    assert json.dumps(result.to_json())
    predictor = ia3.load(folder)
    assert predictor.evaluate(_held_out(result)).loss == pytest.approx(metrics["loss"], rel=1e-5)


def _held_out(result: OneResult) -> list[tuple[str, str]]:
    """The rows that a run with these seeds holds out."""
    from ia3.runs.dataset import read_rows

    rows = read_rows(ROWS, seed=result.settings.seed).held_out
    assert rows is not None
    return [(example.text, example.label or "") for example in rows.examples]


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_is_one_for_the_hub(kind: str, trained: Any) -> None:
    _, folder = trained(kind)
    card = (folder / "README.md").read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    assert "peft" in front and body.lstrip().startswith("# o")
    assert str(folder.parent) not in card  # no path of this machine
    assert "down" in body and "15" in body


@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_loads_as_ours_and_classifies(kind: str, trained: Any) -> None:
    _, folder = trained(kind)
    adapter = load_adapter(folder)
    assert adapter.kind == kind and any((vector != 1).any() for vector in adapter.vectors.values())
    predictions = ia3.load(folder).classify(["good news", "bad day"])
    assert [set(prediction.probabilities) for prediction in predictions] == [set(LABELS)] * 2


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
def test_peft_gets_the_same_logits_from_the_folder(kind: str, trained: Any, base: BaseFolder) -> None:
    from tests.parity.peft_side import difference, run_with_peft

    _, folder = trained(kind)
    loaded = _load(base(kind), labels=LABELS if kind == "encoder" else None)
    ids = torch.tensor([[2, 40, 50, 60, 70, 1], [2, 41, 51, 61, 71, 1]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "seq2seq":
        inputs["decoder_input_ids"] = ids[:, :3]
    theirs = run_with_peft(loaded.model, folder, inputs)
    plain = loaded.model(**inputs).logits
    ours = ia3.load(folder).base.model(**inputs).logits
    assert difference(ours, theirs) < 1e-5 < difference(plain, theirs)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_free_text_has_a_loss_and_a_perplexity_and_no_accuracy(kind: str, base: BaseFolder, tmp_path: Path) -> None:
    result = run(base(kind), tmp_path / "o", source=FREE)
    assert result.labels == () and result.metrics is not None
    assert result.metrics.accuracy is None and (result.metrics.perplexity or 0) > 1
    for event in read(tmp_path / "o"):
        if event["event"] == "epoch":
            assert event["eval_accuracy"] is None and event["eval_perplexity"] > 1
    record = _record(tmp_path / "o")
    assert record["labels"] is None and record["metrics"]["accuracy"] is None
    assert not (tmp_path / "o" / "confusion.png").exists()
    assert isinstance(ia3.load(tmp_path / "o").generate(["item 3"], max_new_tokens=4)[0], str)


@pytest.mark.usefixtures("undrawn")
def test_with_nothing_held_out_the_last_epoch_is_saved_without_metrics(base: BaseFolder, tmp_path: Path) -> None:
    result = run(base("causal"), tmp_path, eval_fraction=0)
    assert result.metrics is None and result.outcome.best_epoch == 3
    record = _record(tmp_path)
    assert (record["metrics"], record["epoch"], record["data"]["rows"], record["data"]["eval_rows"]) == (None, 3, 17, 0)
    assert [event["eval_loss"] for event in read(tmp_path) if event["event"] == "epoch"] == [None] * 3


@pytest.mark.usefixtures("undrawn")
def test_an_eval_table_is_named_in_the_record(base: BaseFolder, tmp_path: Path) -> None:
    (tmp_path / "held.csv").write_text("text,label\nfine,up\npoor,down\n")
    run(base("causal"), tmp_path / "o", eval_source=tmp_path / "held.csv", epochs=1)
    data = _record(tmp_path / "o")["data"]
    assert (data["eval_name"], data["rows"], data["eval_rows"]) == ("held.csv", 17, 2)
    assert "held.csv" in (tmp_path / "o" / "README.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_one_row_and_a_batch_larger_than_the_table_are_trained_on(base: BaseFolder, tmp_path: Path) -> None:
    result = run(base("causal"), tmp_path, source=[("a", "an answer")], answers="text", eval_fraction=0, batch_size=99)
    assert result.outcome.steps == 3 and (tmp_path / "adapter_config.json").exists()


@pytest.mark.usefixtures("undrawn")
def test_everything_decided_for_the_user_is_said(base: BaseFolder, tmp_path: Path) -> None:
    said: list[str] = []
    run(base("causal"), tmp_path, say=said.append, epochs=1, max_length=30)
    assert "text column: 'text' (by its name)" in said
    assert "The answers are a closed set of 2 labels: 'down', 'up'." in said
    assert any("held out" in line for line in said) and any("are cut to 30 tokens" in line for line in said)
    assert any(line.startswith("labels: 2: 'up' ") for line in said)


@pytest.mark.usefixtures("undrawn")
def test_a_run_prints_nothing(base: BaseFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(base("encoder"), tmp_path, epochs=1)
    assert capfd.readouterr() == ("", "")
    assert not logging.getLogger("ia3").handlers


# -- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("kind", "dropout"),
    [
        ("causal", True),
        ("encoder", False),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("causal", False), ("encoder", True))),
        *(pytest.param("seq2seq", dropout, marks=pytest.mark.slow) for dropout in (False, True)),
    ],
)
def test_the_same_seed_gives_the_same_files_and_another_seed_others(
    kind: str, dropout: bool, base: BaseFolder, tmp_path: Path
) -> None:
    found = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)  # of no consequence
        state = torch.get_rng_state()
        run(base(kind, dropout=True), tmp_path / str(number) / "o", seed=seed, dropout=dropout, epochs=1)
        assert torch.equal(torch.get_rng_state(), state)
        found.append(content(tmp_path / str(number) / "o"))
    assert found[0] == found[1]
    assert found[2]["adapter_model.safetensors"] != found[0]["adapter_model.safetensors"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("kind", KINDS)
def test_class_weights_work_for_labels(kind: str, base: BaseFolder, tmp_path: Path) -> None:
    run(base(kind), tmp_path / "with", class_weights=True, epochs=1)
    run(base(kind), tmp_path / "without", epochs=1)
    weights = [load_adapter(tmp_path / name).vectors for name in ("with", "without")]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_settings_may_come_from_a_settings_object(base: BaseFolder, tmp_path: Path) -> None:
    settings = dataclasses.asdict(ia3.Settings(epochs=1, batch_size=5))
    assert run(base("causal"), tmp_path, **settings, **stop_after(0)).settings == ia3.Settings(epochs=1, batch_size=5)


# -- the base ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("kind", ["causal", "encoder", pytest.param("seq2seq", marks=pytest.mark.slow)])
def test_a_loaded_base_is_used_as_it_is_and_left_as_it_was(kind: str, base: BaseFolder, tmp_path: Path) -> None:
    loaded = _load(base(kind), labels=LABELS if kind == "encoder" else None)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    run(loaded, tmp_path / "1" / "o")
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.model.state_dict().items())
    assert loaded.model.state_dict().keys() == before.keys() and not loaded.model.training
    assert not any(p.requires_grad or p.grad is not None for p in loaded.model.parameters())
    run(loaded, tmp_path / "2" / "o")
    run(base(kind), tmp_path / "3" / "o")
    assert content(tmp_path / "1" / "o") == content(tmp_path / "2" / "o") == content(tmp_path / "3" / "o")


@pytest.mark.usefixtures("undrawn")
def test_a_base_is_given_back_even_when_the_run_fails(
    base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = _load(base("causal"))

    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(backward, "sum_loss", fail)
    with pytest.raises(KeyboardInterrupt):
        run(loaded, tmp_path)
    ia3.attach(loaded.model).detach()  # it has no bank


@pytest.mark.usefixtures("undrawn")
def test_a_loaded_encoder_decides_the_order_of_its_labels(base: BaseFolder, tmp_path: Path) -> None:
    result = run(_load(base("encoder"), labels=["up", "down"]), tmp_path)
    assert result.labels == ("up", "down") and _record(tmp_path)["labels"] == ["up", "down"]
    head = load_adapter(tmp_path).head["classifier.weight"]
    assert head.shape[0] == 2
    assert ia3.load(tmp_path).classify(["good news"])[0].prediction in LABELS


def test_a_loaded_encoder_with_other_labels_is_an_error_with_the_code_to_write(
    base: BaseFolder, tmp_path: Path
) -> None:
    for loaded in (_load(base("encoder"), labels=["up", "down", "flat"]), _load(base("encoder"))):
        with pytest.raises(
            SettingsError, match=r"its head has the labels \[.*\], the table \['down', 'up'\]"
        ) as raised:
            run(loaded, tmp_path)
        assert f"ia3.load_base({loaded.name!r}, labels=['down', 'up'])." in str(raised.value)


@pytest.mark.parametrize("option", [{"dtype": "bfloat16"}, {"dtype": "float32"}])
def test_a_loaded_base_takes_no_other_dtype(option: dict[str, str], base: BaseFolder, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"dtype '.*' cannot be given to a base that is loaded already"):
        run(_load(base("causal")), tmp_path, **option)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("dtype", "name"), [("bfloat16", "bfloat16"), ("float64", "float64")])
def test_the_base_may_have_another_dtype_and_the_file_is_fp32(
    dtype: str, name: str, base: BaseFolder, tmp_path: Path
) -> None:
    run(base("causal"), tmp_path, dtype=dtype, epochs=1)
    assert _record(tmp_path)["base"]["dtype"] == name
    vectors = load_adapter(tmp_path).vectors.values()
    assert all(vector.dtype == torch.float32 and torch.isfinite(vector).all() for vector in vectors)
    assert any((vector.bfloat16().float() != vector).any() for vector in vectors)


# -- memory and time --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_takes_no_more_tokens_at_once_than_a_step(
    base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets: list[int] = []
    import ia3.runs.run as module

    original = module.evaluate_together
    monkeypatch.setattr(module, "evaluate_together", lambda *a, **k: budgets.append(a[2]) or original(*a, **k))
    run(base("causal"), tmp_path / "a", token_budget=64, epochs=1)
    run(base("causal"), tmp_path / "b", token_budget=10**6, epochs=1)
    assert budgets == [64, TOKEN_BUDGET]  # and the best epoch is not evaluated again


@pytest.mark.usefixtures("undrawn")
def test_a_kept_checkpoint_every_ten_seconds_and_at_the_end_of_epochs(
    base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ia3.runs.run as module

    steps: list[int] = []
    original = module.save_checkpoint
    monkeypatch.setattr(
        module, "save_checkpoint", lambda folder, state: steps.append(state.step) or original(folder, state)
    )
    run(base("causal"), tmp_path / "a")
    assert steps == [3, 6, 9]
    steps.clear()
    run(base("causal"), tmp_path / "b", checkpoint_seconds=0)
    assert steps == list(range(1, TOTAL + 1))


# -- how choices are ranked -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("losses", "ranking"), [("lm", "sum"), ("lm+ul+ln", "mean")])
def test_the_record_says_how_its_choices_are_ranked_and_predicting_does_so(
    losses: str, ranking: str, base: BaseFolder, tmp_path: Path, undrawn: None
) -> None:
    result = run(base("causal"), tmp_path / "o", losses=losses, epochs=1)

    predictor = ia3.load(tmp_path / "o", device="cpu", say=lambda line: None)

    assert _record(tmp_path / "o")["template"]["ranking"] == predictor.ranking == ranking
    held_out = read_rows(ROWS, seed=result.settings.seed).held_out
    measured = predictor.evaluate(held_out)
    assert result.metrics is not None and measured.confusion == result.metrics.confusion
    assert measured.loss == pytest.approx(result.metrics.loss, rel=1e-5)
    assert measured.calibration_error == pytest.approx(result.metrics.calibration_error, rel=1e-4)


@pytest.mark.parametrize("labels", [("up", "down"), ("down", "up")])
def test_a_saved_classifier_of_the_tables_labels_is_kept_whatever_their_order(
    labels: tuple[str, str], base: BaseFolder, tmp_path: Path
) -> None:
    """The labels of a table are sorted, and a classifier that had them otherwise was drawn anew as if it had none."""
    classifier, plain = tmp_path / "classifier", _load(base("encoder"), labels=labels)
    plain.model.save_pretrained(classifier)
    plain.tokenizer.save_pretrained(classifier)
    said: list[str] = []
    run(classifier, tmp_path / "o", say=said.append)
    assert _record(tmp_path / "o")["labels"] == list(labels)
    assert not any("drawn at random" in line for line in said)
    assert torch.equal(load_adapter(tmp_path / "o").head["classifier.weight"], plain.model.classifier.weight)
