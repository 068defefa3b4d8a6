"""`ia3 adapters`: the verbs for adapters as things to keep, to pack into one file, and to make others of."""

from __future__ import annotations

from ia3.cli import combine, compare, import_adapter, packing, stores
from ia3.cli.parsing import Verb

# in the order of the help: packed stores, then single adapters
VERBS: tuple[Verb, ...] = (*packing.VERBS, *stores.VERBS, combine.VERB, compare.VERB, import_adapter.VERB)


VERB = Verb(
    name="adapters",
    summary="Keep many adapters of one base in one file; combine, compare and import adapters.",
    usage="VERB …",
    examples=(
        "ia3 adapters pack news.ia3 runs/",
        "ia3 adapters list news.ia3",
        "ia3 adapters combine runs/news runs/mail --output runs/both",
    ),
    verbs=VERBS,
)
