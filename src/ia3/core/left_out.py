"""What a plan leaves out, and why: each projection without a vector by its pattern, with a reason that is true of it.

A reason that speaks of a vector beside the projection is given only where the same layer has one. This file knows the
paths of projections and sites.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from ia3.core.families import is_foreign
from ia3.core.projections import QUERY_NAMES, pattern_of
from ia3.core.sites import LeftOut, Site

_LAYER = re.compile(r".*?\.[0-9]+(?=\.|$)")  # of a path: up to its first number
# the pattern of a path, the role that its layer must have a vector for, and the reason
_REASONS: tuple[tuple[str, str | None, str], ...] = (
    (
        rf"(?:^|\.)({'|'.join(QUERY_NAMES)})$",
        None,
        "queries are not scaled; under rotary embeddings that is another function",
    ),
    (r"pos_(key_|query_|q_)?proj$", None, "projects positions, not tokens"),
    (r"(wi_0|gate_proj)$", "feedforward", "gate of the feed-forward; the vector is on what it gates"),
    (
        r"(wo|down_proj|mlp\.Wo)$",
        "feedforward",
        "its input is the product that the vector on the linear branch scales already",
    ),
    (
        r"(attention\.output\.dense|(SelfAttention|EncDecAttention|LocalSelfAttention|TransientGlobalSelfAttention)\.o"
        r"|o_proj|out_proj|out_lin|attn\.(c_proj|Wo|o)|attention\.dense|self_attention\.dense|self_attn\.dense)$",
        "value",
        "output of the attention; a vector there would be the value vector a second time",
    ),
    (
        r"(wi|fc1|fc_in|c_fc|lin1|up_proj|dense_h_to_4h|intermediate\.dense|ffn)$",
        "feedforward",
        "first feed-forward projection; the vector is on the activation behind it",
    ),
    (r"(embedding_hidden_mapping_in|embeddings_project)$", None, "maps the embeddings to the width of the blocks"),
    (r"(lm_head|embed_out|output_projection|decoder|predictions.*)$", None, "output head"),
    (
        r"(classifier|score|pooler|pre_classifier|qa_outputs|head)(\..*)?$",
        None,
        "behind the last block: a pooler, or a head, which is trained and saved whole",
    ),
)


def left_out_of(paths: Iterable[str], sites: Sequence[Site], told: Mapping[str, str]) -> tuple[LeftOut, ...]:
    """Return the projections without a vector, grouped by their pattern and reason.

    Args:
        paths: Of every projection.
        sites: Those of the plan.
        told: Reasons that are known already, by path.
    """
    used = {site.module for site in sites}
    roles: dict[str, set[str]] = {}
    for site in sites:
        roles.setdefault(_layer(site.module), set()).add(site.role)
    counts: dict[tuple[str, str], int] = {}
    for path in paths:
        if path not in used:
            pattern = pattern_of(path)
            reason = told.get(path) or _reason(pattern, roles.get(_layer(path), set()))
            counts[pattern, reason] = counts.get((pattern, reason), 0) + 1
    return tuple(LeftOut(pattern, count, reason) for (pattern, reason), count in counts.items())


def _layer(path: str) -> str:
    found = _LAYER.match(path)
    return found.group() if found else ""


def _reason(pattern: str, roles: set[str]) -> str:
    if is_foreign(pattern):
        return "not part of the language model"
    return next(
        (
            why
            for expression, role, why in _REASONS
            if (role is None or role in roles) and re.search(expression, pattern)
        ),
        "not a key, value or feed-forward activation",
    )
