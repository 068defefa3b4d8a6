"""Whole numbers of any library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ia3.core.whole_numbers import whole_number
from ia3.errors import SettingsError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)])
def test_a_whole_number_of_any_library_is_pythons_own(value: Any) -> None:
    """`max_length=numpy.int64(60)` trained to the end, and could then not be written into the record."""
    found = whole_number("Encoding", "max_length", value)
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize("value", ["3", 3.0, np.float32(3), True, None])
def test_what_is_no_whole_number_is_told(value: Any) -> None:
    with pytest.raises(SettingsError, match=r"Encoding: max_length is .*, expected a whole number"):
        whole_number("Encoding", "max_length", value)
