from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import ia3

ROOT = Path(__file__).parents[1]


def test_every_public_name_is_there_and_there_are_few() -> None:
    assert 1 <= len(ia3.__all__) <= 20
    assert sorted(ia3.__all__) == list(dir(ia3))
    for name in ia3.__all__:
        assert getattr(ia3, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    try:
        ia3.no_such_name  # noqa: B018
    except AttributeError as error:
        assert "no_such_name" in str(error)
    else:
        raise AssertionError("expected an AttributeError")


def test_importing_the_package_imports_no_torch() -> None:
    heavy = ("torch", "transformers", "numpy")
    code = f"import sys, ia3, ia3.errors, ia3.cli.main; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_error_is_drawn_in_the_tree() -> None:
    errors = importlib.import_module("ia3.errors")
    classes = [n for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, errors.IA3Error)]
    assert all(name in (errors.__doc__ or "") for name in classes)


def test_every_file_that_is_no_python_is_told_to_the_build() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["ia3"]
    source = ROOT / "src" / "ia3"
    packed = {path for pattern in told for path in source.glob(pattern)}
    assert [p for p in source.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc") and p not in packed] == []
