"""Loading without transformers' own talk: its reports, progress bars and warnings stay off for the length of a scope.

What they report (missing weights, for one) is read from the loading info and told in our own sentences instead.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
from transformers.utils import logging as talk


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers inside the scope; every setting is as before after it, errors included."""
    verbosity, had_bars, hub_had_none = (
        talk.get_verbosity(),
        talk.is_progress_bar_enabled(),
        are_progress_bars_disabled(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        talk.set_verbosity(talk.CRITICAL)
        talk.disable_progress_bar()
        try:
            yield
        finally:
            talk.set_verbosity(verbosity)
            if had_bars:
                talk.enable_progress_bar()  # the hub's bars as well
                if hub_had_none:
                    disable_progress_bars()
