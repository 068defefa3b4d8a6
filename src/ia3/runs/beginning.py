"""What a row begins with: ones and drawn numbers, those of a start, and a head that is fitted before the first step.

With a handful of rows a drawn head pulls the vectors to wherever it happens to point before it knows a label. One that
begins with the logistic regression on what it reads leaves them what they know (Kumar et al. 2022, arXiv 2202.10054).
This file knows banks and starts.
"""

from __future__ import annotations

from collections.abc import Sequence

from ia3.bases.loading import Base
from ia3.core.attach import Attachment
from ia3.data.encoding import Encoded
from ia3.runs.fitted_head import fit_head
from ia3.starts.start import Start, begin_from
from ia3.training.settings import Settings, is_settled_by_rows


def begin_row(
    base: Base,
    attachment: Attachment,
    row: str,
    start: Start | None,
    labels: Sequence[str],
    examples: Sequence[Encoded],
    settings: Settings,
) -> list[str]:
    """Give a row in training the numbers that its settings and its start say, and return what was done.

    Args:
        base: The base.
        attachment: Of the base; its bank has the row, of ones and with drawn heads.
        row: Name of the row.
        start: An adapter to begin with; None for ones.
        labels: Of the task, in the order of its head; empty for free text.
        examples: The training rows.
        settings: Of the training.

    Raises:
        AdapterError: If the plan has no place for a vector of the start.
    """
    is_fitted = settings.fit_head and base.kind == "encoder"
    told = [] if not base.head_modules else [_told_of_drawn(base, settings.seed)]
    told += [] if start is None else [begin_from(attachment, row, start, labels, with_head=not is_fitted)]
    if is_fitted and not is_settled_by_rows(settings):  # else it is fitted to what is read of them there
        told.append(fit_head(base, attachment, row, examples))
    share = settings.frozen_blocks
    if share and not attachment.bank.plan.sites_of_first_blocks(share):
        told.append(
            f"The base has too few blocks for frozen_blocks {share:g} to be one of them: all vectors are trained."
        )
    return told


def _told_of_drawn(base: Base, seed: int) -> str:
    names = ", ".join(base.head_modules)
    return f"The checkpoint has no head for these labels: {names} is drawn at random (seed {seed}) and trained."
