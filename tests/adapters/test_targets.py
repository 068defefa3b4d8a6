"""Names of modules: PEFT's rules for what they select, and names that select exactly the given modules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ia3.adapters.config import AdapterConfig
from ia3.adapters.targets import find_heads, full_targets, is_feedforward, is_target, spell_targets

BERT = [
    f"bert.encoder.layer.{n}.{end}"
    for n in (0, 1, 10)
    for end in ("attention.self.key", "attention.output.dense", "intermediate.dense", "output.dense")
]


def selected(paths: list[str], targets: object, feedforward: object) -> tuple[set[str], set[str]]:
    """Return what PEFT scales on the output, and on the input."""
    config = AdapterConfig(target_modules=targets, feedforward_modules=feedforward)  # type: ignore[arg-type]
    found = {path for path in paths if is_target(config, path)}
    inputs = {path for path in found if is_feedforward(config, path)}
    return found - inputs, inputs


def test_names_are_the_shortest_ends_that_catch_nothing_else() -> None:
    outputs = [p for p in BERT if p.endswith("key")]
    inputs = [p for p in BERT if p.endswith("output.dense") and "attention" not in p]
    targets, feedforward = spell_targets(BERT, outputs, inputs)
    assert targets == ("key", "0.output.dense", "1.output.dense", "10.output.dense")
    assert feedforward == ("0.output.dense", "1.output.dense", "10.output.dense")


def test_a_regular_expression_says_what_no_name_can() -> None:
    paths = ["wo", "dense.wo"]  # every name of the first is an end of the second
    targets, feedforward = spell_targets(paths, [], ["wo"])
    assert (targets, feedforward) == ("wo", "wo")
    assert selected(paths, targets, feedforward) == (set(), {"wo"})


PATHS = st.lists(
    st.lists(st.sampled_from(["a", "b", "ab", "0", "10"]), min_size=1, max_size=3).map(".".join),
    min_size=1, max_size=8, unique=True,
)  # fmt: skip


@given(paths=PATHS, chosen=st.data())
def test_spelled_names_select_exactly_the_given_modules(paths: list[str], chosen: st.DataObject) -> None:
    sides = [chosen.draw(st.sampled_from(["output", "input", "none"])) for _ in paths]
    outputs = [p for p, side in zip(paths, sides, strict=True) if side == "output"]
    inputs = [p for p, side in zip(paths, sides, strict=True) if side == "input"]
    if not outputs and not inputs:
        return
    targets, feedforward = spell_targets(paths, outputs, inputs)
    assert selected(paths, targets, feedforward) == (set(outputs), set(inputs))
    if isinstance(targets, tuple):
        assert set(feedforward) <= set(targets)  # PEFT demands it


def test_full_paths_stand_in_where_there_is_no_model() -> None:
    assert full_targets(["a.k"], ["a.wo"]) == (("a.k", "a.wo"), ("a.wo",))
    assert full_targets(["k"], []) == ("k", ())
    targets, feedforward = full_targets(["a.b.wo"], ["b.wo"])  # PEFT would take the first for an input by that name
    assert selected(["a.b.wo", "b.wo"], targets, feedforward) == ({"a.b.wo"}, {"b.wo"})


@pytest.mark.parametrize(
    ("config", "path", "expected"),
    [
        (AdapterConfig(target_modules=("k",)), "a.k", True),
        (AdapterConfig(target_modules=("k",)), "a.xk", False),
        (AdapterConfig(target_modules=r".*\.k"), "a.k", True),
        (AdapterConfig(target_modules=r"a"), "a.k", False),
        (AdapterConfig(target_modules=("k",), exclude_modules=("0.k",)), "a.0.k", False),
        (AdapterConfig(target_modules=("k",), exclude_modules=r".*1\.k"), "a.0.k", True),
        (AdapterConfig(target_modules=("dense",), modules_to_save=("classifier",)), "classifier.dense", False),
        (AdapterConfig(target_modules=("dense",), modules_to_save=("classifier",)), "pre_classifier.dense", True),
        (AdapterConfig(), "a.k", False),
    ],
)
def test_targets_are_what_peft_takes_them_for(config: AdapterConfig, path: str, expected: bool) -> None:
    assert is_target(config, path) is expected


def test_feedforward_names_match_without_a_dot_as_in_peft() -> None:
    assert is_feedforward(AdapterConfig(feedforward_modules=("wo",)), "a.two")
    assert not is_feedforward(AdapterConfig(feedforward_modules="wo"), "a.wo")
    assert not is_feedforward(AdapterConfig(), "a.wo")


def test_heads_are_the_outermost_modules_with_such_an_end() -> None:
    paths = ["bert", "pre_classifier", "classifier", "classifier.classifier", "classifier.dense"]
    assert find_heads(paths, ["classifier", "score"]) == ("pre_classifier", "classifier")
