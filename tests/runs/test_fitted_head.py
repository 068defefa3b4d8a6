"""A head in closed form is scikit-learn's logistic regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from ia3.runs.fitted_head import STRENGTH, fit_linear


@pytest.mark.parametrize(("rows", "width"), [(60, 5), (12, 40)], ids=["more rows", "more columns"])
@pytest.mark.parametrize("strength", [1.0, STRENGTH, 300.0])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_it_is_scikit_learns_at_the_same_strength(rows: int, width: int, strength: float, scale: float) -> None:
    random = torch.Generator().manual_seed(rows)
    labels = torch.arange(rows) % 3
    centres = torch.randn(3, width, generator=random, dtype=torch.float64)
    unit = nn.functional.normalize(centres[labels] + torch.randn(rows, width, generator=random), dim=1).double()
    theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(unit.numpy(), labels.numpy())
    weight, bias = fit_linear(unit * scale, labels, 3, strength)
    assert (weight.dtype, bias.dtype) == (torch.float64, torch.float64)
    # float32 steps end where no slope of the sum is above rows · 1e-5; along the weights it bends by 1 / C or more
    within = min(rows * 1e-5 * (3 * (width + 1)) ** 0.5 * strength, 0.05)
    np.testing.assert_allclose(weight.numpy() * scale, theirs.coef_, rtol=0, atol=within)
    np.testing.assert_allclose(bias - bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), rtol=0, atol=within)
    shares = nn.functional.linear(unit * scale, weight, bias).softmax(dim=1)
    np.testing.assert_allclose(shares.numpy(), theirs.predict_proba(unit.numpy()), rtol=0, atol=2e-3)


def test_a_label_without_rows_is_the_least_probable_everywhere() -> None:
    inputs, labels = torch.eye(4, dtype=torch.float64), torch.tensor([0, 0, 2, 2])
    weight, bias = fit_linear(inputs, labels, 3)
    assert nn.functional.linear(inputs, weight, bias).argmin(dim=1).tolist() == [1] * 4
