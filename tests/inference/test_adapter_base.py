"""The base of an adapter: a head that nobody trained answers nothing, and a task that is not ours is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from ia3.adapters.adapter import Adapter
from ia3.adapters.attached import attach, load
from ia3.adapters.folder import load_adapter
from ia3.adapters.store import Store
from ia3.adapters.stored import attach_store
from ia3.bases.loading import load_base
from ia3.cli.main import main
from ia3.core.merge import merge
from ia3.errors import AdapterError, BaseError, IA3Error, SettingsError
from ia3.inference.loading import load_predictor
from ia3.peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftModel
from tests.adapters.foreign_folders import write_peft_folder
from tests.models import VOCABULARY, save_tiny_base, tiny_bert, tiny_tokenizer

NAMES = {0: "neg", 1: "neu", 2: "pos"}
TARGETS: dict[str, Any] = {"target_modules": ["key", "value"], "feedforward_modules": []}
TEXTS = ["profit rose", "sales fell"]


def _save(folder: Path, model: Any) -> Path:
    model.eval().save_pretrained(folder)
    tiny_tokenizer("encoder").save_pretrained(folder)
    return folder


def _classifier(folder: Path, make: Any = hf.BertForSequenceClassification, **config: Any) -> Path:
    """Write a BERT with a trained head."""
    known = tiny_bert().config.to_dict() | {"id2label": NAMES, "label2id": {v: k for k, v in NAMES.items()}} | config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return _save(folder, make(hf.BertConfig(**known)))


def _auto(folder: Path, **options: Any) -> Any:
    return hf.AutoModelForSequenceClassification.from_pretrained(folder, **options).eval()


@pytest.fixture
def body(tmp_path: Path) -> Path:
    """Return the folder of a BERT without a classifier."""
    return save_tiny_base(tmp_path / "body", "encoder")


@pytest.fixture
def headless(body: Path, tmp_path: Path) -> Path:
    """Return an adapter of vectors alone, as PEFT saves one without a task."""
    return write_peft_folder(_auto(body), tmp_path / "headless", **TARGETS)


ANSWERERS: dict[str, Callable[[Path, Path], Any]] = {
    "by its name": lambda body, folder: load_predictor(folder, labels=["a", "b"]),
    "a loaded base": lambda body, folder: load_predictor(folder, base=load_base(body, labels=["a", "b"])),
    "on a model": lambda body, folder: load(load_base(body).model, folder),
    "on a transformers model": lambda body, folder: load(_auto(body), folder),
    "PEFT's names": lambda body, folder: PeftModel.from_pretrained(_auto(body), folder),
    "PEFT's Auto class": lambda body, folder: AutoPeftModelForSequenceClassification.from_pretrained(folder),
}


@pytest.mark.parametrize("how", ANSWERERS)
def test_a_head_that_neither_the_adapter_nor_the_base_brings_is_named_and_never_answers(
    how: str, body: Path, headless: Path
) -> None:
    """A classifier drawn from the seed answered, with probabilities and without a word."""
    with pytest.raises(AdapterError, match="neither the adapter nor the checkpoint of its base has 'classifier'"):
        ANSWERERS[how](body, headless)


@pytest.mark.parametrize("is_loaded", [True, False])
def test_an_adapter_on_another_kind_of_base_is_told_so_and_not_that_a_head_is_missing(
    is_loaded: bool, headless: Path, tmp_path: Path
) -> None:
    """The head of a Gemma, which no adapter of a BERT brings, was told in place of what is wrong."""
    other = save_tiny_base(tmp_path / "other", "causal")
    base = load_base(other, kind="encoder", labels=["a", "b"]) if is_loaded else other
    with pytest.raises(AdapterError, match="has no linear module here") as caught:
        load_predictor(headless, base=base, labels=["a", "b"])
    assert "The adapter was trained on another base" in str(caught.value)
    assert str(caught.value).count("Known:") == 1


def test_in_a_packed_store_it_is_refused_when_its_turn_comes(body: Path, headless: Path, tmp_path: Path) -> None:
    assert main(["adapters", "pack", str(tmp_path / "s.ia3"), str(headless)]) == 0
    with pytest.raises(AdapterError, match="has 'classifier', so that its numbers were drawn at random"):
        load_predictor(f"{tmp_path / 's.ia3'}:headless", labels=["a", "b"])
    whole = write_peft_folder(_auto(body), tmp_path / "whole", **TARGETS, task_type="SEQ_CLS")
    predictor = load_predictor(whole, labels=["a", "b"])
    attach_store(predictor.base.model, Store.open(tmp_path / "s.ia3"))
    for name in ("headless", "__base__"):
        with pytest.raises(AdapterError, match=f"Answering with adapter '{name}': neither the adapter nor"):
            predictor.classify(TEXTS, adapters=["whole", name])


def test_the_command_line_refuses_it_in_one_message(
    headless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text("text,label\nprofit rose,a\nsales fell,b\n")
    merge_it = ["merge", str(headless), "--output", str(tmp_path / "plain")]
    evaluate = ["evaluate", str(tmp_path / "t.csv"), "--adapter", str(headless), "--labels", "a", "b"]
    for words in (merge_it, evaluate):
        assert main(words) == 2
        assert "checkpoint of its base has 'classifier'" in capsys.readouterr().err
    assert not (tmp_path / "plain").exists()


def test_training_draws_it_and_says_so(body: Path, tmp_path: Path) -> None:
    from ia3.runs.plans.one import train_adapter

    said: list[str] = []
    rows = [(f"{text} {n}", label) for n in range(4) for text, label in zip(TEXTS, ["up", "down"], strict=True)]
    options: dict[str, Any] = {"max_steps": 1, "eval_fraction": 0, "compile": "off", "recipe": "default"}
    train_adapter(rows, body, tmp_path / "run", say=said.append, **options)
    told = "The checkpoint has no head for these labels: classifier is drawn at random (seed 0) and trained."
    assert told in said
    assert load_predictor(tmp_path / "run").classify(TEXTS)[0].prediction in ("up", "down")


def test_an_adapter_may_be_trained_on_with_a_drawn_head(body: Path, headless: Path) -> None:
    assert PeftModel.from_pretrained(_auto(body), headless, is_trainable=True).training is False
    assert load(load_base(body).model, headless, trainable=True).bank.names == ("headless",)


def test_what_was_drawn_is_saved_with_an_adapter_that_was_trained_around_it(tmp_path: Path) -> None:
    """PEFT's files of a BERT without a pooler had the classifier and another pooler was drawn under it."""
    folder = _save(tmp_path / "masked", hf.BertForMaskedLM(tiny_bert().config))
    model = _auto(folder)
    attach(model, trainable=False)
    model.save_pretrained(tmp_path / "adapter")
    assert load_adapter(tmp_path / "adapter").head_modules == ("bert.pooler", "classifier")
    ids = torch.tensor([[2, 40, 50, 1]])
    again = _auto(folder)
    load(again, tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    bare = write_peft_folder(_auto(folder), tmp_path / "bare", **TARGETS, task_type="SEQ_CLS")
    with pytest.raises(AdapterError, match=r"has 'bert\.pooler', so that"):
        load_predictor(bare, labels=["a", "b"])


def test_a_language_model_without_its_output_matrix_is_refused_by_the_auto_class(tmp_path: Path) -> None:
    config = hf.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=0, bos_token_id=2, eos_token_id=1,
    )  # fmt: skip
    folder = _save(tmp_path / "body", hf.LlamaModel(config))
    model = hf.AutoModelForCausalLM.from_pretrained(folder)
    targets: dict[str, Any] = {"target_modules": ["k_proj", "v_proj"], "feedforward_modules": []}
    adapter = write_peft_folder(model, tmp_path / "adapter", task_type="CAUSAL_LM", **targets)
    with pytest.raises(BaseError, match=r"as a LlamaForCausalLM: its checkpoint lacks 'lm_head\.weight', which"):
        AutoPeftModelForCausalLM.from_pretrained(adapter)


# --- the base's own classifier ---


def test_an_adapter_of_vectors_alone_answers_with_the_classifier_of_its_base(tmp_path: Path) -> None:
    base = _classifier(tmp_path / "base")
    adapter = write_peft_folder(_auto(base), tmp_path / "adapter", **TARGETS)
    predictor = load_predictor(adapter)
    assert predictor.labels == ("neg", "neu", "pos")
    expected = PeftModel.from_pretrained(_auto(base), adapter)
    inputs = tiny_tokenizer("encoder")(TEXTS[:1], return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        shares = expected(**inputs).logits.softmax(-1)[0].tolist()
    found = list(predictor.classify(TEXTS[:1])[0].probabilities.values())
    assert found == pytest.approx(shares, abs=1e-5)


def test_labels_name_the_outputs_of_a_classifier_that_was_saved_without_names(tmp_path: Path) -> None:
    """The classifier was drawn anew, since LABEL_0 is not the name that was given."""
    base = _classifier(tmp_path / "base", id2label=None, label2id=None, num_labels=3)
    adapter = write_peft_folder(_auto(base), tmp_path / "adapter", **TARGETS)
    predictor = load_predictor(adapter, labels=["a", "b", "c"])
    assert predictor.base.head_modules == ()
    assert torch.equal(predictor.base.model.classifier.weight, _auto(base).classifier.weight)
    assert predictor.base.model.config.id2label == {0: "a", 1: "b", 2: "c"}
    with pytest.raises(AdapterError, match=r"has 'classifier', .*Give the base that has them \(for the same labels\)"):
        load_predictor(adapter, labels=["a", "b"])


def test_a_label_for_each_output_of_the_adapters_head(body: Path, tmp_path: Path) -> None:
    adapter = write_peft_folder(_auto(body, num_labels=3), tmp_path / "adapter", **TARGETS, task_type="SEQ_CLS")
    with pytest.raises(SettingsError, match=r"its head has 3 outputs, got 2 labels \('a', 'b'\), expected a label for"):
        load_predictor(adapter, labels=["a", "b"])
    with pytest.raises(SettingsError, match="its head has 3 outputs, got 2 labels"):
        load_predictor(adapter, labels=["a", "b"], base=load_base(body, labels=["a", "b"]))
    with pytest.raises(SettingsError, match="names the labels of the head"):
        load_predictor(adapter)
    assert len(load_predictor(adapter, labels=["a", "b", "c"]).classify(TEXTS)[0].probabilities) == 3


# --- tasks that are not ours ---


@pytest.mark.parametrize(
    ("make", "task", "told"),
    [
        (hf.BertForTokenClassification, "TOKEN_CLS", r"TOKEN_CLS \(a label of each token\)"),
        (hf.BertForQuestionAnswering, "QUESTION_ANS", r"QUESTION_ANS \(a place in a text\)"),
        (hf.BertModel, "FEATURE_EXTRACTION", r"FEATURE_EXTRACTION \(hidden states, without a head\)"),
        (hf.BertForTokenClassification, None, "TOKEN_CLS"),
        (hf.BertForMultipleChoice, None, "BertForMultipleChoice"),
        (hf.BertForMaskedLM, None, "BertForMaskedLM"),
    ],
)
def test_an_adapter_of_another_task_is_refused_by_name(
    make: Any, task: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The head of a token's label was run as the label of a sentence: it has the same name and shape."""
    base = _classifier(tmp_path / "base", make)
    adapter = write_peft_folder(make.from_pretrained(base), tmp_path / "adapter", **TARGETS, task_type=task)
    expected = rf"its task is {told}.*expected one label of each text, or text \(SEQ_2_SEQ_LM, CAUSAL_LM, SEQ_CLS\)"
    with pytest.raises(AdapterError, match=expected):
        load_predictor(adapter, labels=list(NAMES.values()))
    assert main(["merge", str(adapter), "--output", str(tmp_path / "plain")]) == 2
    assert "its task is" in capsys.readouterr().err
    assert main(["show", str(adapter)]) == 0
    shown = capsys.readouterr().out.splitlines()[2]
    assert shown.startswith("task ") and "which ia3 answers in Python alone (ia3.peft)" in shown
    runs = PeftModel.from_pretrained(make.from_pretrained(base), adapter)
    assert isinstance(runs, make)


def test_in_a_store_an_adapter_of_another_task_is_refused_when_its_turn_comes(tmp_path: Path) -> None:
    base = _classifier(tmp_path / "base")
    for name, task in (("text", "SEQ_CLS"), ("token", "TOKEN_CLS")):
        write_peft_folder(_auto(base), tmp_path / "both" / name, **TARGETS, task_type=task)
    assert main(["adapters", "pack", str(tmp_path / "s.ia3"), str(tmp_path / "both")]) == 0
    predictor = load_predictor(f"{tmp_path / 's.ia3'}:text")
    assert len(predictor.classify(TEXTS, adapters=["text", "text"])) == 2
    with pytest.raises(AdapterError, match="Answering with adapter 'token': its task is TOKEN_CLS"):
        predictor.classify(TEXTS, adapters=["text", "token"])


def test_peft_s_names_refuse_an_adapter_on_a_model_for_another_task(tmp_path: Path) -> None:
    base = _classifier(tmp_path / "base", hf.BertForTokenClassification)
    adapter = write_peft_folder(
        hf.BertForTokenClassification.from_pretrained(base), tmp_path / "adapter", **TARGETS, task_type="TOKEN_CLS"
    )
    sentences = _auto(_classifier(tmp_path / "sentences"))
    with pytest.raises(SettingsError, match=r"is for TOKEN_CLS, and the model is a BertForSequenceClassification"):
        PeftModel.from_pretrained(sentences, adapter)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"problem_type": "multi_label_classification"}, "several labels of one text at once"),
        ({"problem_type": "regression"}, r"a number \(regression\)"),
        ({"id2label": {0: "score"}, "label2id": {"score": 0}}, r"a number \(regression\)"),
    ],
)
@pytest.mark.parametrize("task", ["SEQ_CLS", None])
def test_several_labels_and_numbers_are_refused_until_they_are_built(
    task: str | None, config: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The logits of a sigmoid went through a softmax."""
    base = _classifier(tmp_path / "base", **config)
    adapter = write_peft_folder(_auto(base), tmp_path / "adapter", **TARGETS, task_type=task)
    with pytest.raises(IA3Error, match=rf"answers {told}.* not built yet"):
        load_predictor(adapter)
    assert main(["merge", str(adapter), "--output", str(tmp_path / "plain")]) == 2
    assert "not built yet" in capsys.readouterr().err
    names = list(config.get("id2label", NAMES).values())
    if len(names) > 1:
        with pytest.raises(BaseError, match=rf"its classifier answers {told}.*not built yet; give labels of other"):
            load_base(base, labels=names)
    assert load_base(base, labels=["up", "down"]).head_modules == ("classifier",)


def test_a_head_of_one_output_is_a_number(body: Path, tmp_path: Path) -> None:
    adapter = write_peft_folder(_auto(body, num_labels=1), tmp_path / "adapter", **TARGETS, task_type="SEQ_CLS")
    with pytest.raises(AdapterError, match=r"its head has one output, a number \(regression\).*not built yet"):
        load_predictor(adapter, labels=["a", "b"])


def test_a_classifier_of_tokens_is_no_classifier_of_texts(tmp_path: Path) -> None:
    """Both are called `classifier` and have a row for each label, so that the one was kept for the other."""
    base = _classifier(tmp_path / "base", hf.BertForTokenClassification)
    loaded = load_base(base, labels=list(NAMES.values()))
    assert loaded.head_modules == ("bert.pooler", "classifier")
    own = hf.BertForTokenClassification.from_pretrained(base).classifier.weight
    assert not torch.isin(loaded.model.classifier.weight, own).any()


# --- merging ---


def test_a_merged_model_has_the_labels_of_its_adapter(body: Path, tmp_path: Path) -> None:
    first = write_peft_folder(_auto(body), tmp_path / "first", **TARGETS, task_type="SEQ_CLS")
    predictor = load_predictor(first, labels=["a", "b"])
    assert merge(predictor.attachment, "first").config.id2label == {0: "a", 1: "b"}
    shutil.copytree(first, tmp_path / "second")
    attachment = load(predictor.base.model, tmp_path / "second")
    row = attachment.bank.row("second")
    attachment.bank.describe(row, {**attachment.bank.record(row), "labels": ["yes", "no"]})
    merged = merge(attachment, "second")
    assert (merged.config.id2label, merged.config.label2id) == ({0: "yes", 1: "no"}, {"yes": 0, "no": 1})
    assert predictor.base.model.config.id2label == {0: "a", 1: "b"}


def test_the_kind_of_an_adapter_without_a_task_is_that_of_its_base_s_class(tmp_path: Path) -> None:
    base = _classifier(tmp_path / "base")
    adapter: Adapter = load_adapter(write_peft_folder(_auto(base), tmp_path / "adapter", **TARGETS))
    assert adapter.config.task_type is None
    assert adapter.kind == "encoder"


@pytest.mark.parametrize("make", ["Bart", "T5"])
def test_a_saved_classifier_of_an_encoder_decoder_answers_as_it_was_saved(make: str, tmp_path: Path) -> None:
    """It was loaded as a language model, and its classifier was dropped without a word."""
    names = {"id2label": NAMES, "label2id": {v: k for k, v in NAMES.items()}}
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "vocab_size": VOCABULARY}
    shapes = {
        "Bart": {
            "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64,
        },
        "T5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2},
    }  # fmt: skip
    config = getattr(hf, f"{make}Config")(**shapes[make], **tokens, **names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(hf, f"{make}ForSequenceClassification")(config).eval()
    model.save_pretrained(tmp_path / "base")
    tiny_tokenizer("seq2seq").save_pretrained(tmp_path / "base")
    base = load_base(tmp_path / "base", labels=list(NAMES.values()))
    assert (base.kind, base.head_modules) == ("encoder", ())
    attach(base.model, trainable=False)
    base.model.save_pretrained(tmp_path / "adapter")
    found = load_predictor(tmp_path / "adapter").classify(TEXTS)
    for text, one in zip(TEXTS, found, strict=True):
        inputs = base.tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            shares = model(inputs.input_ids).logits.softmax(-1)[0].tolist()
        assert list(one.probabilities.values()) == pytest.approx(shares, abs=1e-5)
