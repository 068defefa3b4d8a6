"""The predictor: from an adapter's folder to answers, the same for a text alone and in a batch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel

from ia3.adapters.attached import adapter_of, attach
from ia3.adapters.folder import save_adapter
from ia3.bases.loading import Base, load_base
from ia3.data.encoding import Encoding
from ia3.data.examples import Example, Origin
from ia3.data.tables import read_table
from ia3.data.templates import Template
from ia3.errors import AdapterError, BaseError, IA3Error, SettingsError, TableError, TemplateError
from ia3.fast.acceleration import acceleration_of
from ia3.inference.loading import load_predictor
from ia3.inference.metrics import MetricsError
from ia3.inference.predictions import Prediction, predictions_of
from ia3.inference.predictor import Predictor
from tests.models import save_tiny_base, tiny_tokenizer

KINDS = ("causal", "seq2seq", "encoder")
LABELS = ("negative", "neutral", "positive")
TEXTS = ["Profit rose.", "Sales fell by 3 % in the third quarter, the company said.", "x", "Orders: none", "Ä漢🙂"]
TABLE = [(text, LABELS[i % 3]) for i, text in enumerate(TEXTS)]


def quiet(line: str) -> None:
    """Take a line of talk and say nothing."""


@cache
def base_of(kind: str, folder: Path) -> Base:
    labels = LABELS if kind == "encoder" else None
    return load_base(save_tiny_base(folder / kind, kind), labels=labels, device="cpu", say=quiet)  # type: ignore[arg-type]


Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that writes an adapter of random vectors for a tiny base, and returns its folder."""
    home = tmp_path_factory.mktemp("predictor")

    def make_adapter(kind: str, name: str = "news", *, bare: bool = False, **record: Any) -> Path:
        base = base_of(kind, home)
        attachment = attach(base.model, head_modules=base.head_modules, name=name)
        width = attachment.bank.plan.width
        attachment.bank.set_vector(name, torch.rand(width, generator=torch.Generator().manual_seed(len(name))) * 2)
        adapter = adapter_of(attachment, name)
        attachment.detach()
        own = {
            "labels": list(LABELS),
            "template": {"prompt": "{{ text }}\nMood:", "target": "{{ label }}"},
            "data": {"text_column": "sentence", "label_column": "mood"},
            "max_length": 60,
            **record,
        }
        folder = home / f"{kind}-{name}"
        save_adapter(replace(adapter, record={"base": adapter.record["base"], **own}), folder)
        if bare:
            (folder / "ia3.json").unlink()
        return folder

    return make_adapter


@pytest.fixture(scope="module")
def predictors(make: Make) -> Mapping[str, Predictor]:
    """Return a predictor of each kind, with a label set."""
    return {kind: load_predictor(make(kind), device="cpu", say=quiet) for kind in KINDS}


@pytest.fixture(scope="module")
def writers(make: Make) -> Mapping[str, Predictor]:
    """Return a predictor of each generating kind that answers with free text."""
    folders = {kind: make(kind, "writer", labels=None) for kind in KINDS if kind != "encoder"}
    return {kind: load_predictor(folder, device="cpu", say=quiet) for kind, folder in folders.items()}


def refused(kind: type[IA3Error], run: Callable[[], Any]) -> str:
    with pytest.raises(kind) as caught:
        run()
    return str(caught.value)


# -- classifying -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_text_gets_a_label_and_a_probability_for_each(predictors: Mapping[str, Predictor], kind: str) -> None:
    found = predictors[kind].classify(TEXTS)

    assert len(found) == len(TEXTS)
    for prediction in found:
        assert tuple(prediction.probabilities) == LABELS
        assert math.isclose(sum(prediction.probabilities.values()), 1)
        assert prediction.probability == max(prediction.probabilities.values())
        assert prediction.probabilities[prediction.prediction] == prediction.probability


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_probabilities_are_the_softmax_of_the_answers_summed_log_probabilities(
    predictors: Mapping[str, Predictor], kind: str
) -> None:
    predictor = predictors[kind]
    tokenizer: Any = predictor.base.tokenizer
    found = predictor.classify(["Profit rose."])[0]

    sums = []
    for label in LABELS:
        prompt = tokenizer("Profit rose.\nMood:")["input_ids"]
        answer = [*tokenizer((" " if kind == "causal" else "") + label, add_special_tokens=False)["input_ids"], 1]
        with torch.inference_mode():
            if kind == "causal":
                logits = predictor.base.model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            else:
                decoder = torch.tensor([[0, *answer[:-1]]])
                logits = predictor.base.model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder).logits[0]
        sums.append(sum(float(logits.log_softmax(-1)[i, token]) for i, token in enumerate(answer)))

    powers = np.exp(np.array(sums) - max(sums))
    assert np.allclose(list(found.probabilities.values()), powers / powers.sum(), atol=1e-4)


def test_an_adapter_that_records_it_ranks_by_the_mean(predictors: Mapping[str, Predictor], make: Make) -> None:
    template = {"prompt": "{{ text }}\nMood:", "target": "{{ label }}", "ranking": "mean"}
    by_mean = load_predictor(make("causal", "mean", template=template), device="cpu", say=quiet)  # the same vectors

    for one, other in zip(predictors["causal"].classify(TEXTS), by_mean.classify(TEXTS), strict=True):
        by_sum, mean = (np.log(list(found.probabilities.values())) for found in (one, other))
        assert math.isclose(by_sum[0] - by_sum[2], 10 * (mean[0] - mean[2]), abs_tol=1e-4)  # ten tokens each
        assert not math.isclose(by_sum[0] - by_sum[1], 10 * (mean[0] - mean[1]), abs_tol=1e-2)  # nine
    assert by_mean.evaluate(TABLE).loss == predictors["causal"].evaluate(TABLE).loss


@settings(max_examples=12, deadline=None)
@given(
    texts=st.lists(st.text(alphabet="abc .漢\n", min_size=1, max_size=40).filter(str.strip), min_size=1, max_size=9),
    kind=st.sampled_from(KINDS),
    budget=st.sampled_from([1, 50, 2048]),
)
def test_a_batch_gives_what_each_text_gets_alone(
    predictors: Mapping[str, Predictor], texts: list[str], kind: str, budget: int
) -> None:
    predictor = replace(predictors[kind], token_budget=budget)

    together = predictor.classify(texts)

    for text, prediction in zip(texts, together, strict=True):
        alone = predictor.classify([text])[0]
        assert alone.prediction == prediction.prediction
        for label in LABELS:
            assert math.isclose(alone.probabilities[label], prediction.probabilities[label], abs_tol=1e-4)


def test_the_adapter_and_not_the_base_answers(predictors: Mapping[str, Predictor]) -> None:
    for predictor in predictors.values():
        with_adapter = predictor.classify(TEXTS)[0].probabilities
        as_base = replace(predictor, adapter="__base__").classify(TEXTS)[0].probabilities
        assert max(abs(with_adapter[label] - as_base[label]) for label in LABELS) > 1e-4


def test_texts_dicts_and_examples_are_the_same(predictors: Mapping[str, Predictor]) -> None:
    predictor = predictors["causal"]
    examples = [Example(text, "no such label", {"other": text}, Origin("a", i)) for i, text in enumerate(TEXTS)]

    as_texts = predictor.classify(TEXTS)

    assert predictor.classify([{"id": 1, "sentence": text, "text": "not this"} for text in TEXTS]) == as_texts
    assert predictor.classify([{"review": text} for text in TEXTS]) == as_texts
    assert predictor.classify(examples) == as_texts
    assert predictor.classify(tuple(TEXTS)) == as_texts


def test_no_texts_give_no_answers(predictors: Mapping[str, Predictor]) -> None:
    assert [predictor.classify([]) for predictor in predictors.values()] == [[], [], []]
    assert predictors["causal"].generate([]) == []


def test_a_single_text_in_place_of_a_list_is_refused(predictors: Mapping[str, Predictor]) -> None:
    told = refused(TableError, lambda: predictors["causal"].classify("Profit rose."))

    assert told == "Reading texts: got a single str, expected a list. Write [text]."


def test_all_empty_texts_are_told_at_once(predictors: Mapping[str, Predictor]) -> None:
    told = refused(TableError, lambda: predictors["causal"].classify(["a", "", "b", " \n"]))

    assert "2 bad rows of 4" in told and "<rows>:2, column 'text': text is empty" in told and "<rows>:4" in told


def test_a_long_text_is_cut_and_not_refused(predictors: Mapping[str, Predictor]) -> None:
    for predictor in predictors.values():
        assert predictor.classify(["word " * 5000])[0].prediction in LABELS


def test_a_free_text_adapter_has_nothing_to_classify_with(writers: Mapping[str, Predictor]) -> None:
    assert refused(SettingsError, lambda: writers["causal"].classify(TEXTS)) == (
        "Classifying: adapter 'causal-writer' answers with free text and has no labels. Use generate for its texts."
    )


def test_a_template_with_other_columns_needs_them(make: Make) -> None:
    template = {"prompt": "{{ title }}: {{ sentence }}", "target": "{{ mood }}!"}
    predictor = load_predictor(make("seq2seq", "titled", template=template), device="cpu", say=quiet)

    found = predictor.classify([{"title": "News", "sentence": "Profit rose."}, {"title": "Old", "sentence": "x"}])

    assert len(found) == 2
    assert "the prompt has the placeholder 'title'" in refused(TemplateError, lambda: predictor.classify(TEXTS))


def test_a_prediction_becomes_plain_values() -> None:
    prediction = Prediction("a", 0.75, {"a": 0.75, "b": 0.25})

    assert json.loads(json.dumps(prediction.to_json())) == {
        "prediction": "a",
        "probability": 0.75,
        "probabilities": {"a": 0.75, "b": 0.25},
    }


def test_labels_that_do_not_fit_the_head_are_refused() -> None:
    told = refused(SettingsError, lambda: predictions_of(np.zeros((1, 3)), ["a", "b"], []))

    assert told == "Classifying: the head has 3 outputs, got 2 labels (a, b). Give one label for each output."


def test_a_score_that_is_no_number_is_an_error_with_its_row() -> None:
    examples = [Example("t", None, {}, Origin("news.csv", line)) for line in (2, 3)]

    told = refused(MetricsError, lambda: predictions_of(np.array([[0, 0], [0, math.nan]]), ["a", "b"], examples))

    assert told.startswith("Classifying: the scores of news.csv:3 are no numbers (1 rows in all).")


# -- generating --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_generated_answers_are_those_of_each_text_alone(writers: Mapping[str, Predictor], kind: str) -> None:
    predictor = writers[kind]

    answers = predictor.generate(TEXTS, max_new_tokens=8)

    assert answers == [predictor.generate([text], max_new_tokens=8)[0] for text in TEXTS]
    assert all(answer == answer.strip() and "<eos>" not in answer for answer in answers)


def test_the_usual_length_is_that_of_the_longest_label(predictors: Mapping[str, Predictor]) -> None:
    told: list[int] = []
    predictor = predictors["causal"]

    def count(module: Any, args: Any, kwargs: Any) -> None:
        told.append(1)

    handle = predictor.base.model.register_forward_pre_hook(count, with_kwargs=True)
    predictor.generate(["x"])
    handle.remove()

    assert 1 <= len(told) <= len(" negative") + 1


def test_an_encoder_cannot_generate(predictors: Mapping[str, Predictor]) -> None:
    assert "the base is an encoder, which has no words to answer with. Use classify." in refused(
        SettingsError, lambda: predictors["encoder"].generate(TEXTS)
    )


def test_a_long_prompt_leaves_room_for_a_long_answer(writers: Mapping[str, Predictor]) -> None:
    writer = writers["causal"]
    predictor = replace(writer, encoding=writer.encoding.with_max_length(512))
    seen: list[int] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(int(kwargs["position_ids"].max()))

    handle = predictor.base.model.register_forward_pre_hook(note, with_kwargs=True)
    predictor.generate(["word " * 500], max_new_tokens=40)
    handle.remove()

    assert 400 < max(seen) < 512


def test_an_answer_has_the_room_that_the_positions_leave(writers: Mapping[str, Predictor]) -> None:
    """A seq2seq base's decoder ended in an IndexError where its config names its positions otherwise (LED), and the
    default of 64 new tokens was refused on a base that has fewer positions.
    """
    writer = writers["causal"]
    model: Any = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=260, n_positions=40))
    short = replace(writer, base=replace(writer.base, model=model), encoding=writer.encoding.with_max_length(40))

    assert short.most_new_tokens() == 20
    assert refused(SettingsError, lambda: short.encode(["x"], 40)) == (
        "Generating: max_new_tokens is 40, and the base has 40 positions for prompt and answer. Ask for fewer."
    )
    assert len(short.encode(["word " * 20], 10)[1][0].prompt_ids) <= 30


def test_texts_that_the_base_cannot_read_are_told(predictors: Mapping[str, Predictor]) -> None:
    predictor = predictors["encoder"]
    tokenizer = tiny_tokenizer("encoder")
    tokenizer.backend_tokenizer.pre_tokenizer = Whitespace()
    heard: list[str] = []
    deaf = replace(predictor, encoding=replace(predictor.encoding, tokenizer=tokenizer), say=heard.append)

    deaf.classify(["abc", "利润"])
    deaf.evaluate([("利润", LABELS[0])])

    assert [note.partition(" to the base")[0] for note in heard] == [
        "1 of 2 texts is mostly unknown",
        "1 of 1 texts is mostly unknown",
    ]


def test_rotary_positions_run_on_and_leave_the_prompt_at_least_half_of_the_trained_length(
    writers: Mapping[str, Predictor],
) -> None:
    writer = writers["causal"]
    predictor = replace(writer, encoding=writer.encoding.with_max_length(512))
    (encoded,) = predictor.encode(["word " * 500], 600)[1]
    assert 240 < len(encoded.prompt_ids) <= 256


# -- evaluating --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_are_those_of_the_predictions(predictors: Mapping[str, Predictor], kind: str) -> None:
    predictor = predictors[kind]
    right = [p.prediction == label for p, (_, label) in zip(predictor.classify(TEXTS), TABLE, strict=True)]

    metrics = predictor.evaluate(TABLE)

    assert metrics.accuracy == sum(right) / len(right) and metrics.labels == LABELS
    assert metrics.loss is not None and metrics.loss > 0
    assert metrics.perplexity == (None if kind == "encoder" else math.exp(metrics.loss))
    assert predictor.evaluate(read_table(TABLE)) == metrics


def test_the_trained_columns_are_taken_where_the_table_has_them(
    predictors: Mapping[str, Predictor], tmp_path: Path
) -> None:
    file = tmp_path / "eval.csv"
    rows = [f"wrong,{label},{text!r},also wrong" for text, label in [("up", "positive"), ("down", "negative")]]
    file.write_text("\n".join(["text,mood,sentence,label", *rows]))

    metrics = predictors["causal"].evaluate(file)

    assert metrics == predictors["causal"].evaluate([("'up'", "positive"), ("'down'", "negative")])
    assert "label 'wrong' is unknown" in refused(
        TableError, lambda: predictors["causal"].evaluate(file, text="label", label="text")
    )


def test_unknown_labels_are_all_told_with_file_and_line(predictors: Mapping[str, Predictor], tmp_path: Path) -> None:
    file = tmp_path / "eval.csv"
    file.write_text("text,label\na,positive\nb,positve\nc,bad\n")

    told = refused(TableError, lambda: predictors["seq2seq"].evaluate(file))

    assert f"{file}:3, column 'label': label 'positve' is unknown. Did you mean 'positive'?" in told
    assert f"{file}:4, column 'label': label 'bad' is unknown" in told
    assert predictors["seq2seq"].evaluate(file, skip_bad_rows=True).rows == 1


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_free_text_is_compared_with_what_is_generated(writers: Mapping[str, Predictor], kind: str) -> None:
    predictor = writers[kind]
    answers = predictor.generate(TEXTS, max_new_tokens=5)
    table = [(text, answer or "none") for text, answer in zip(TEXTS, answers, strict=True)]

    metrics = predictor.evaluate(table)

    assert metrics.rows == len(TEXTS) and metrics.labels == () and metrics.loss is not None
    assert metrics.perplexity == math.exp(metrics.loss)
    assert 0 <= (metrics.accuracy or 0) <= 1


def test_free_text_without_a_right_answer_is_refused(writers: Mapping[str, Predictor]) -> None:
    table = read_table([("up", "rose"), ("down", "")], labels_required=False)

    told = refused(SettingsError, lambda: writers["causal"].evaluate(table))

    assert "1 of 2 rows have no answer to compare with, the first is row 2" in told


def test_a_right_free_text_counts_and_a_wrong_one_does_not(
    writers: Mapping[str, Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = writers["seq2seq"]
    tokenizer: Any = predictor.base.tokenizer
    answers = {3: "rose by 3 %", 2: "fell"}

    def answer(base: Any, encoded: Sequence[Any], **options: Any) -> list[tuple[int, ...]]:
        assert options["max_new_tokens"] == len("rose by 3 %") + 1
        return [tuple(tokenizer(answers[3 - e.index], add_special_tokens=False)["input_ids"]) for e in encoded]

    monkeypatch.setattr("ia3.inference.answerer.generate_tokens", answer)

    assert predictor.evaluate([("up", "rose by 3 %"), ("down", "fell.")]).accuracy == 0.5


# -- loading -----------------------------------------------------------------------------------------------------------


def test_what_was_recorded_is_what_is_used(predictors: Mapping[str, Predictor]) -> None:
    encoding = predictors["causal"].encoding

    assert (encoding.labels, encoding.text_column, encoding.label_column, encoding.max_length) == (
        LABELS,
        "sentence",
        "mood",
        60,
    )
    assert encoding.template == Template("{{ text }}\nMood:") and predictors["causal"].adapter == "causal-news"


def test_a_loaded_base_takes_several_adapters(make: Make) -> None:
    first, second = make("causal", "one"), make("causal", "other")
    base = load_base(json.loads((first / "ia3.json").read_text())["base"]["name"], device="cpu", say=quiet)

    one = load_predictor(first, base=base)
    alone = one.classify(TEXTS)
    other = load_predictor(second, base=base, name="second")

    assert other.base is one.base and other.attachment is one.attachment
    assert one.attachment.bank.names == ("causal-one", "second")
    assert one.classify(TEXTS) == alone != other.classify(TEXTS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_adapter_answers_through_faster_passes_as_through_the_models_own(make: Make, kind: str) -> None:
    predictor = load_predictor(make(kind, "fast"), device="cpu", say=quiet)
    faster = acceleration_of(predictor.base.model)
    assert faster is not None and sum(faster.counts.values()) > 0
    again = load_predictor(make(kind, "again"), base=predictor.base)  # on a model that has them
    assert acceleration_of(again.base.model) is not None
    found = [one.probabilities for one in predictor.classify(TEXTS)]
    faster = acceleration_of(predictor.base.model)
    assert faster is not None
    faster.remove()
    for one, plain in zip(found, predictor.classify(TEXTS), strict=True):
        assert one == pytest.approx(plain.probabilities, abs=1e-5)


def test_a_folder_of_pefts_answers_with_the_labels_and_template_given(make: Make) -> None:
    folder = make("causal", "bare", bare=True)
    whole = load_predictor(make("causal", "bare"), device="cpu", say=quiet)
    (folder / "ia3.json").unlink()

    predictor = load_predictor(folder, labels=LABELS, template="{{ text }}\\nMood:", device="cpu", say=quiet)

    short = [text for text in TEXTS if len(text) < 40]  # without a record nothing says where to cut
    for found, expected in zip(predictor.classify(short), whole.classify(short), strict=True):
        assert found.prediction == expected.prediction
        assert math.isclose(found.probability, expected.probability, abs_tol=1e-5)


def test_a_folder_of_pefts_without_labels_answers_with_free_text(make: Make) -> None:
    predictor = load_predictor(make("causal", "free", bare=True), device="cpu", say=quiet)

    assert predictor.labels == () and predictor.encoding.template == Template("{{ text }}\nlabel:")
    assert predictor.encoding.max_length == 512
    assert len(predictor.generate(["x"], max_new_tokens=3)) == 1


def test_an_encoder_of_pefts_needs_labels(make: Make) -> None:
    folder = make("encoder", "bare", bare=True)

    told = refused(SettingsError, lambda: load_predictor(folder, device="cpu", say=quiet))

    assert told == (
        f"Loading adapter from {folder}: neither its record nor the base's config names the labels of the head. Give "
        "them in the order of the head's outputs: labels=['negative', 'positive']."
    )
    predictor = load_predictor(folder, labels=LABELS, device="cpu", say=quiet)
    assert predictor.classify(["x"])[0].prediction in LABELS


def test_an_encoder_of_pefts_takes_the_labels_of_its_bases_config(make: Make) -> None:
    folder = make("encoder", "named", bare=True)
    base_folder = Path(json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"])
    config = json.loads((base_folder / "config.json").read_text())
    named = {**config, "id2label": {"0": "down", "1": "flat", "2": "up"}, "label2id": {"down": 0, "flat": 1, "up": 2}}
    (base_folder / "config.json").write_text(json.dumps(named))
    try:
        predictor = load_predictor(folder, device="cpu", say=quiet)
        loaded = load_predictor(folder, base=predictor.base, name="again")
    finally:
        (base_folder / "config.json").write_text(json.dumps(config))

    assert predictor.labels == loaded.labels == ("down", "flat", "up")


def test_other_labels_or_words_than_the_recorded_ones_are_refused(make: Make) -> None:
    folder = make("causal", "kept")

    told = refused(SettingsError, lambda: load_predictor(folder, labels=["yes", "no"], device="cpu", say=quiet))
    assert told == (
        f"Loading adapter from {folder}: its record has another label set than the one given, ('negative', 'neutral', "
        "'positive'). The adapter was trained with that; leave yours out."
    )
    told = refused(SettingsError, lambda: load_predictor(folder, template="{{ text }}?", device="cpu", say=quiet))
    assert "its record has another template than the one given" in told
    assert load_predictor(folder, labels=list(LABELS), device="cpu", say=quiet).labels == LABELS


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"labels": ["a", 1]}, "labels in ia3.json cannot be used. Save the adapter again."),
        ({"template": {"prompt": "{{ text }}"}, "max_length": "60"}, "template, max_length in ia3.json cannot be used"),
        ({"max_length": True}, "max_length in ia3.json cannot be used"),
        ({"text_column": 3}, "text_column or label_column in ia3.json cannot be used"),
    ],
)
def test_a_record_of_wrong_types_is_refused(make: Make, record: dict[str, Any], told: str) -> None:
    folder = make("causal", "wrong", **record)

    assert told in refused(AdapterError, lambda: load_predictor(folder, device="cpu", say=quiet))


def test_a_base_that_is_gone_is_told_with_the_way_out(make: Make, tmp_path: Path) -> None:
    folder = make("causal", "lost", base={"name": str(tmp_path / "gone"), "kind": "causal"})

    told = refused(BaseError, lambda: load_predictor(folder, device="cpu", say=quiet))

    assert "The adapter names this base; if it lies elsewhere, say where: base=… (--base)." in told
    there = json.loads((make("causal", "there") / "ia3.json").read_text())["base"]["name"]
    assert load_predictor(folder, base=there, device="cpu", say=quiet).labels == LABELS


def test_a_base_of_another_kind_or_other_weights_is_refused(make: Make, tmp_path: Path) -> None:
    folder = make("causal", "strict")
    other = load_base(save_tiny_base(tmp_path / "seq2seq", "seq2seq"), device="cpu", say=quiet)
    twin = load_base(save_tiny_base(tmp_path / "causal", "causal", seed=7), device="cpu", say=quiet)

    told = refused(AdapterError, lambda: load_predictor(folder, base=other))
    assert told.endswith(f"it is for a base of kind causal, got {other.name!r}, which is seq2seq.")
    assert "fingerprint" in refused(AdapterError, lambda: load_predictor(folder, base=twin))


def test_a_predictor_can_be_put_together_by_hand(tmp_path: Path) -> None:
    base = load_base(save_tiny_base(tmp_path, "seq2seq"), device="cpu", say=quiet)
    attach(base.model, name="mine")
    encoding = Encoding(base.tokenizer, "seq2seq", Template("{{ text }}"), "text", ("yes", "no"))

    predictor = Predictor(base, "mine", encoding)

    assert predictor.classify(["x"])[0].prediction in ("yes", "no")
