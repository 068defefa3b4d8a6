"""Generation settings of a merged model: without those that have no effect, which transformers refuses to save.

Published checkpoints have them (a temperature beside do_sample=false); transformers loads such settings and saves them
only while nobody has changed them. This file knows generation configs and nothing of how answers are made.
"""

from __future__ import annotations

from typing import Any

_OF_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_OF_BEAMS = ("early_stopping", "length_penalty")
_OF_CACHES = ("cache_implementation", "cache_config")


def drop_unused(settings: Any) -> None:
    """Take the settings off a generation config, in place, that it does not use with those it has."""
    unused: tuple[str, ...] = () if settings.do_sample is True else _OF_SAMPLING
    unused += _OF_BEAMS if settings.num_beams in (None, 1) else ()
    unused += _OF_CACHES if settings.use_cache is False else ()
    unused += () if settings.return_dict_in_generate is True else tuple(settings.extra_output_flags)
    for name in unused:
        if getattr(settings, name, None) is not None:
            setattr(settings, name, None)
