"""Predicting tables: every row in its order beside its prediction, in windows, and faults told before anything runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from ia3.adapters.attached import attach
from ia3.bases.loading import load_base
from ia3.data.encoding import Encoding
from ia3.data.templates import Template
from ia3.errors import RunError, TableError, TemplateError
from ia3.inference.column_types import ColumnTypes
from ia3.inference.predictor import Predictor
from ia3.inference.table_prediction import PredictSummary, predict_table
from tests.inference.test_predictor import refused
from tests.models import save_tiny_base

LABELS = ("down", "up")
ROWS = [(f"{i}", "word " * (i * 7 % 11) + f"row {i}", "n/a" if i % 2 else "up") for i in range(23)]


def quiet(line: str) -> None:
    """Take a line of talk and say nothing."""


@pytest.fixture(scope="module")
def predictors(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Predictor]:
    """Return a predictor with a label set of each kind, and one of free text."""
    found = {}
    for kind in ("causal", "seq2seq", "encoder", "free"):
        base_kind: Any = "seq2seq" if kind == "free" else kind
        folder = save_tiny_base(tmp_path_factory.mktemp(kind), base_kind)
        base = load_base(folder, labels=LABELS if kind == "encoder" else None, device="cpu", say=quiet)
        attachment = attach(base.model, head_modules=base.head_modules, name="a")
        width = attachment.bank.plan.width
        attachment.bank.set_vector("a", torch.rand(width, generator=torch.Generator().manual_seed(1)) * 2)
        labels = () if kind == "free" else LABELS
        encoding = Encoding(base.tokenizer, base_kind, Template("{{ text }}"), "sentence", labels, 100)
        found[kind] = Predictor(base, "a", encoding)
    return found


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return a table of 23 rows of mixed lengths, its labels other than the adapter's."""
    path = tmp_path / "in.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "sentence", "label"), *ROWS])
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def never(self: Predictor, texts: Sequence[Any], *rest: Any, **options: Any) -> list[Any]:
    raise AssertionError("the model was run")


# -- what is written ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "encoder"])
@pytest.mark.parametrize("window", [5, 4096])
def test_every_row_stands_in_its_order_beside_its_prediction(
    predictors: Mapping[str, Predictor], table: Path, kind: str, window: int
) -> None:
    output = table.with_name("out.csv")

    summary = predict_table(predictors[kind], table, output, window_rows=window)

    rows = read_csv(output)
    expected = predictors[kind].classify([text for _, text, _ in ROWS])
    assert list(rows[0]) == [
        "id",
        "sentence",
        "label",
        "prediction",
        "probability",
        "probability_down",
        "probability_up",
    ]
    assert [(row["id"], row["sentence"], row["label"]) for row in rows] == ROWS
    for row, found in zip(rows, expected, strict=True):
        assert row["prediction"] == found.prediction
        assert abs(float(row["probability"]) - found.probability) < 1e-4
        assert abs(float(row["probability_up"]) - found.probabilities["up"]) < 1e-4
    counts = {label: sum(found.prediction == label for found in expected) for label in LABELS}
    assert summary == PredictSummary(str(output), 23, 0, (), counts)


def test_all_formats_hold_the_same(predictors: Mapping[str, Predictor], table: Path) -> None:
    predictor = predictors["encoder"]
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        predict_table(predictor, table, table.with_name(f"out.{suffix}"))

    rows = read_csv(table.with_name("out.csv"))
    lines = [json.loads(line) for line in table.with_name("out.jsonl").read_text().splitlines()]
    parquet = pyarrow.parquet.read_table(table.with_name("out.parquet")).to_pylist()
    with table.with_name("out.tsv").open(newline="") as file:
        assert list(csv.DictReader(file, delimiter="\t")) == rows
    for row, line, record in zip(rows, lines, parquet, strict=True):
        assert list(row) == list(line) == list(record)
        for name, value in row.items():
            is_number = name.startswith("probability")
            assert (float(value) == line[name]) if is_number else (value == line[name] == record[name])
            assert not is_number or abs(record[name] - line[name]) < 1e-8


def test_free_text_has_a_prediction_and_no_probability(predictors: Mapping[str, Predictor], table: Path) -> None:
    output = table.with_name("out.jsonl")

    summary = predict_table(predictors["free"], table, output, window_rows=4)

    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["prediction"] for line in lines] == predictors["free"].generate([text for _, text, _ in ROWS])
    assert list(lines[0]) == ["id", "sentence", "label", "prediction"]
    assert (summary.rows, summary.counts) == (23, {})


def test_values_keep_their_spelling(predictors: Mapping[str, Predictor], tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    rows = [
        '{"text": "a", "id": 7.50, "tags": ["x", 1e2, null], "big": 12345678901234567890, "no": null, "is": true}',
        '{"is": false, "text": "b", "deep": {"b": [1.0, {}], "a": NaN}, "id": -0}',
    ]
    source.write_text("".join(f"{row}\n" for row in rows))

    predict_table(predictors["encoder"], source, tmp_path / "out.jsonl")
    predict_table(predictors["encoder"], source, tmp_path / "out.csv")

    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [line.partition(', "prediction"')[0] + "}" for line in lines] == rows
    first = read_csv(tmp_path / "out.csv")[0]
    assert (first["id"], first["tags"], first["big"], first["no"]) == (
        "7.50",
        '["x", 1e2, null]',
        "12345678901234567890",
        "",
    )


WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TYPED: Mapping[str, pyarrow.Array] = {
    "text": pyarrow.array([f"row {i}" for i in range(5)], pyarrow.large_string()),
    "int64": pyarrow.array([7, None, 2**60 + 1, -1, 0]),
    "uint8": pyarrow.array([1, None, 255, 0, 3], pyarrow.uint8()),
    "float32": pyarrow.array([0.1, None, float("nan"), 1e30, -0.0], pyarrow.float32()),
    "bool": pyarrow.array([True, None, False, True, True]),
    "decimal": pyarrow.array(
        [Decimal("1.50"), None, Decimal("-2.25"), Decimal(0), Decimal(9)], pyarrow.decimal128(9, 2)
    ),
    "date": pyarrow.array([WHEN.date(), None, WHEN.date(), None, None], pyarrow.date32()),
    "time": pyarrow.array([WHEN, None, WHEN, None, WHEN], pyarrow.timestamp("us", "Europe/Berlin")),
    "nanoseconds": pyarrow.array([1, None, 3, 10**18 + 1, 5], pyarrow.int64()).cast(pyarrow.timestamp("ns")),
    "duration": pyarrow.array([1, None, 3, 4, 5], pyarrow.int64()).cast(pyarrow.duration("ns")),
    "bytes": pyarrow.array([b"\x00\xff", None, b"", b"a", b"b"]),
    "list": pyarrow.array([[1, None], [], None, [2], [3]]),
    "struct": pyarrow.array([{"a": 1, "b": None}, None, {"a": None, "b": "x"}, {"a": 2, "b": "y"}, None]),
    "map": pyarrow.array([[("k", 1)], None, [], [("l", 2)], None], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    "category": pyarrow.array(["u", None, "v", "u", "u"]).dictionary_encode(),
    "nothing": pyarrow.nulls(5),
}


def _typed(path: Path) -> pyarrow.Table:
    """Write a table of many types in row groups of two, and return it as Parquet gives it."""
    table = pyarrow.table(TYPED).replace_schema_metadata({"from": "a test"})
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    return pyarrow.parquet.read_table(path)


@pytest.mark.parametrize("window", [1, 3, 4096])
def test_parquet_from_parquet_keeps_types_nulls_and_metadata(
    predictors: Mapping[str, Predictor], tmp_path: Path, window: int
) -> None:
    """Every column came back as text: a null of an id was an empty string, and a list of tags was JSON."""
    table = _typed(tmp_path / "in.parquet")

    predict_table(predictors["encoder"], tmp_path / "in.parquet", tmp_path / "out.parquet", window_rows=window)

    out = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    same = [name for name in table.column_names if name != "float32"]
    assert out.select(same).equals(table.select(same))
    assert str(out["float32"].to_pylist()) == str(table["float32"].to_pylist())  # NaN is not equal to NaN
    assert out.schema.metadata == table.schema.metadata
    assert out.column_names[-4:] == ["prediction", "probability", "probability_down", "probability_up"]


def test_rows_left_out_of_parquet_leave_the_others_what_they_are(
    predictors: Mapping[str, Predictor], tmp_path: Path
) -> None:
    table = pyarrow.table({"text": ["a", None, "b", "", "c"], "id": [1, 2, None, 4, 5]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    predict_table(predictors["encoder"], tmp_path / "in.parquet", tmp_path / "out.parquet", skip_bad_rows=True)
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet")["id"].to_pylist() == [1, None, 5]


def test_a_table_in_memory_is_written_with_its_types(predictors: Mapping[str, Predictor], tmp_path: Path) -> None:
    table = pyarrow.table(TYPED)
    predict_table(predictors["encoder"], table, tmp_path / "table.parquet")
    assert (
        pyarrow.parquet.read_schema(tmp_path / "table.parquet").field("struct").type
        == table.schema.field("struct").type
    )
    predict_table(predictors["encoder"], table.to_reader(), tmp_path / "reader.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "reader.parquet")["list"].to_pylist() == table["list"].to_pylist()


def test_class_numbers_stay_in_parquet_and_are_names_in_text(
    predictors: Mapping[str, Predictor], tmp_path: Path
) -> None:
    features = {"info": {"features": {"label": {"names": ["down", "up"], "_type": "ClassLabel"}}}}
    table = pyarrow.table({"text": ["a", "b", "c"], "label": [1, 0, -1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    for suffix in ("parquet", "csv", "jsonl"):
        predict_table(predictors["encoder"], tmp_path / "in.parquet", tmp_path / f"out.{suffix}")
    out = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert out["label"].to_pylist() == [1, 0, -1] and b"huggingface" in out.schema.metadata
    assert [row["label"] for row in read_csv(tmp_path / "out.csv")] == ["up", "down", ""]
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["up", "down", None]


def test_json_lines_from_parquet_have_its_values(predictors: Mapping[str, Predictor], tmp_path: Path) -> None:
    _typed(tmp_path / "in.parquet")
    predict_table(predictors["encoder"], tmp_path / "in.parquet", tmp_path / "out.jsonl")
    first, second, third, *_ = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert all(second[name] is None for name in TYPED if name not in ("text", "list"))
    assert (first["int64"], first["uint8"], first["float32"], first["bool"], first["decimal"]) == (7, 1, 0.1, True, 1.5)
    assert (first["bytes"], first["list"], first["struct"]) == ("AP8=", [1, None], {"a": 1, "b": None})
    assert (third["int64"], third["float32"], first["category"]) == (2**60 + 1, None, "u")
    assert first["date"] == "2026-01-02"


@pytest.mark.parametrize(
    ("values", "kind", "read"),
    [
        (["1", "null", "3"], "int64", [1, None, 3]),
        (["1", "2.5", "1e2"], "double", [1.0, 2.5, 100.0]),
        ([str(2**53 + 1), "0.5", "1"], "string", [str(2**53 + 1), "0.5", "1"]),
        ([str(2**64), "1", "null"], "string", [str(2**64), "1", None]),
        (["true", "null", "false"], "bool", [True, None, False]),
        (["true", "1", '"a"'], "string", ["true", "1", "a"]),
        (["null", "null", "null"], "string", [None, None, None]),
        (["[1]", "[]", "null"], "list<element: int64>", [[1], [], None]),
        (['{"a": 1}', '{"b": [null]}', "null"], "string", None),
        (['{"a": 1}', '{"b": ["x"]}', "null"], None, [{"a": 1, "b": None}, {"a": None, "b": ["x"]}, None]),
        (["{}", "{}", "null"], "string", ["{}", "{}", None]),
        (['"a"', '""', "null"], "string", ["a", "", None]),
    ],
)
def test_parquet_from_json_has_the_type_that_all_values_share(
    predictors: Mapping[str, Predictor], tmp_path: Path, values: list[str], kind: str | None, read: list[Any] | None
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"text": "a", "x": {value}}}\n' for value in values))
    predict_table(predictors["encoder"], source, tmp_path / "out.parquet", window_rows=2)
    out = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert kind in (None, str(out.schema.field("x").type))
    assert read in (None, out["x"].to_pylist())


def test_types_hold_over_the_whole_table(predictors: Mapping[str, Predictor]) -> None:
    """What is found in the first thousand rows is not the type of the next thousand."""
    for first, later, kind in (
        (1, 1.5, pyarrow.float64()),
        (2**53 + 1, 1.5, pyarrow.string()),
        (1.5, 2**53 + 1, pyarrow.string()),
        (None, "a", pyarrow.string()),
        ([], [1], pyarrow.list_(pyarrow.int64())),
        ([1], [1.5], pyarrow.string()),
        ({"a": 1}, {"b": None}, pyarrow.string()),
    ):
        types = ColumnTypes()
        for value in (*[first] * 1500, *[later] * 1500):
            types.look({"x": value})
        assert types.found() == {"x": kind}, (first, later)


def test_a_column_called_labels_may_hold_anything(predictors: Mapping[str, Predictor], tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a", "labels": ["x", "y"]}\n{"text": "b", "labels": []}\n')

    predict_table(predictors["encoder"], source, tmp_path / "out.csv")

    assert [row["labels"] for row in read_csv(tmp_path / "out.csv")] == ['["x", "y"]', "[]"]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_a_table_without_rows_gives_a_file_without_rows(
    predictors: Mapping[str, Predictor], tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "classify", never)
    source = tmp_path / "in.csv"
    source.write_text("id,sentence\n")
    output = tmp_path / f"out.{suffix}"

    summary = predict_table(predictors["encoder"], source, output)

    assert (summary.rows, summary.counts) == (0, {"down": 0, "up": 0})
    columns = ["id", "sentence", "prediction", "probability", "probability_down", "probability_up"]
    if suffix == "csv":
        assert output.read_text() == ",".join(columns) + "\n"
    elif suffix == "parquet":
        assert pyarrow.parquet.read_table(output).column_names == columns
    else:
        assert output.read_bytes() == b""


def test_the_text_column_is_the_trained_one_or_the_named_one(
    predictors: Mapping[str, Predictor], tmp_path: Path
) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text,sentence,review\nfirst,second,third\n")
    predictor = predictors["encoder"]

    predict_table(predictor, source, tmp_path / "own.jsonl")
    predict_table(predictor, source, tmp_path / "named.jsonl", text="review")

    for name, text in (("own", "second"), ("named", "third")):
        line = json.loads((tmp_path / f"{name}.jsonl").read_text())
        assert abs(line["probability_up"] - predictor.classify([text])[0].probabilities["up"]) < 1e-6


def test_rows_in_memory_are_predicted_too(predictors: Mapping[str, Predictor], tmp_path: Path) -> None:
    predictor = predictors["encoder"]
    texts = [text for _, text, _ in ROWS]
    totals: list[int | None] = []

    def rows() -> Iterator[dict[str, str]]:
        for text in texts:
            yield {"sentence": text}

    predict_table(predictor, [{"sentence": text} for text in texts], tmp_path / "list.csv")
    predict_table(predictor, rows(), tmp_path / "once.csv", on_progress=lambda done, total: totals.append(total))

    assert (tmp_path / "list.csv").read_text() == (tmp_path / "once.csv").read_text()
    assert set(totals) == {None}


def test_progress_counts_rows_over_all_windows(predictors: Mapping[str, Predictor], table: Path) -> None:
    told: list[tuple[int, int | None]] = []
    predictor = replace(predictors["encoder"], token_budget=200)

    predict_table(
        predictor, table, table.with_name("o.csv"), window_rows=8, on_progress=lambda d, t: told.append((d, t))
    )

    assert told == sorted(told) and told[-1] == (23, 23) and len(told) > 3


def test_only_a_window_of_rows_is_in_memory(
    predictors: Mapping[str, Predictor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    classify = Predictor.classify

    def counted(self: Predictor, texts: Sequence[Any], **options: Any) -> Any:
        sizes.append(len(texts))
        return classify(self, texts, **options)

    monkeypatch.setattr(Predictor, "classify", counted)
    read = 0

    def rows() -> Iterator[str]:
        nonlocal read
        for i in range(40):
            read += 1
            assert read - sum(sizes) <= 11, "read ahead of the window"
            yield f"row {i}"

    predict_table(predictors["encoder"], rows(), tmp_path / "out.csv", window_rows=10)

    assert sizes == [10, 10, 10, 10]


# -- what is refused before anything is run ----------------------------------------------------------------------------


@pytest.fixture
def idle(predictors: Mapping[str, Predictor], monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """Return a predictor that must not run."""
    monkeypatch.setattr(Predictor, "classify", never)
    return predictors["encoder"]


@pytest.mark.parametrize("column", ["prediction", "probability", "probability_up"])
def test_a_column_that_the_output_needs_is_named(idle: Predictor, tmp_path: Path, column: str) -> None:
    source = tmp_path / "in.csv"
    source.write_text(f"text,{column}\na,b\n")

    assert refused(TableError, lambda: predict_table(idle, source, tmp_path / "out.csv")) == (
        f"Predicting {source}: the table has a column '{column}' already, which the output needs for the prediction. "
        "Rename it in the table."
    )
    assert not (tmp_path / "out.csv").exists()


def test_a_column_of_that_kind_for_another_label_passes(predictors: Mapping[str, Predictor], tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text,probability_other\na,b\n")

    assert predict_table(predictors["encoder"], source, tmp_path / "out.csv").rows == 1


def test_all_bad_rows_are_told_before_the_first_is_predicted(idle: Predictor, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("id,text\n1,a\n2,\n3,b\n4,x,y\n5,c\n")

    told = refused(TableError, lambda: predict_table(idle, source, tmp_path / "out.csv"))

    assert told.splitlines() == [
        f"Reading {source}: 2 bad rows of 5.",
        f"{source}:3, column 'text': text is empty",
        f"{source}:5: row has 3 values, expected 2 (a value with a separator in it must stand in quotes)",
        "Mend them, or give --skip-bad-rows to leave them out.",
    ]
    assert not (tmp_path / "out.csv").exists()


def test_the_first_twenty_of_many_bad_rows_are_shown(idle: Predictor, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("id,text\n1,a\n" + "2,\n" * 50)

    told = refused(TableError, lambda: predict_table(idle, source, tmp_path / "out.csv"))

    assert "50 bad rows of 51" in told and "… and 30 more." in told and len(told.splitlines()) == 23


def test_a_table_of_bad_rows_only_is_told_even_if_they_may_be_skipped(idle: Predictor, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("id,text\n1,\n")

    told = refused(TableError, lambda: predict_table(idle, source, tmp_path / "out.csv", skip_bad_rows=True))

    assert f"{source}:2, column 'text': text is empty" in told


def test_bad_rows_may_be_left_out_and_are_counted(predictors: Mapping[str, Predictor], tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("id,text\n1,a\n2,\n3,b\n4,x,y\n5,c\n")

    summary = predict_table(predictors["encoder"], source, tmp_path / "out.csv", skip_bad_rows=True)

    assert [row["id"] for row in read_csv(tmp_path / "out.csv")] == ["1", "3", "5"]
    assert (summary.rows, summary.skipped) == (3, 2)
    assert summary.to_json()["faults"][0] == f"{source}:3, column 'text': text is empty"


def test_a_late_column_of_a_file_is_written_for_all_rows(predictors: Mapping[str, Predictor], tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a"}\n' * 150 + '{"text": "b", "late": "here"}\n')

    predict_table(predictors["encoder"], source, tmp_path / "out.csv", window_rows=64)

    assert [row["late"] for row in read_csv(tmp_path / "out.csv")] == [""] * 150 + ["here"]


def test_a_late_column_of_rows_that_are_read_once_is_refused(
    predictors: Mapping[str, Predictor], tmp_path: Path
) -> None:
    rows = ({"text": "a"} if i < 150 else {"text": "b", "late": "x"} for i in range(151))

    told = refused(TableError, lambda: predict_table(predictors["encoder"], rows, tmp_path / "out.csv", window_rows=64))

    assert told == (
        "Predicting <rows>:151: the row has a column 'late' that the rows before it do not have. Give every row the "
        "same columns."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_template_that_needs_another_column_is_told_first(idle: Predictor, table: Path) -> None:
    predictor = replace(idle, encoding=replace(idle.encoding, template=Template("{{ title }}: {{ text }}")))

    told = refused(TemplateError, lambda: predict_table(predictor, table, table.with_name("out.csv")))

    assert "the prompt has the placeholder 'title', the table has no such column" in told


def test_an_output_that_cannot_be_written_is_told_before_the_table_is_read(idle: Predictor, tmp_path: Path) -> None:
    (tmp_path / "out.csv").touch()

    told = refused(RunError, lambda: predict_table(idle, tmp_path / "none.csv", tmp_path / "out.csv"))
    assert "the file is there already" in told
    told = refused(RunError, lambda: predict_table(idle, tmp_path / "none.csv", tmp_path / "out.xls"))
    assert "expected one of .csv .tsv .jsonl .parquet" in told


def test_ctrl_c_leaves_no_half_file(
    predictors: Mapping[str, Predictor], table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classify = Predictor.classify
    windows: list[int] = []

    def interrupted(self: Predictor, texts: Sequence[Any], **options: Any) -> Any:
        windows.append(len(texts))
        if len(windows) == 3:
            raise KeyboardInterrupt
        return classify(self, texts, **options)

    monkeypatch.setattr(Predictor, "classify", interrupted)

    with pytest.raises(KeyboardInterrupt):
        predict_table(predictors["encoder"], table, table.with_name("out.parquet"), window_rows=5)

    assert windows == [5, 5, 5] and list(table.parent.iterdir()) == [table]
