"""Records of Parquet files, read a batch of rows at a time; what a row is read as is `arrow`'s matter."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from ia3.data.arrow import BATCH_ROWS, read_batches
from ia3.data.records import Source
from ia3.errors import TableError
from ia3.spelling import first_line


def read_parquet(path: Path) -> Source:
    """Return the opened Parquet file.

    Args:
        path: The file.

    Returns:
        Its columns and records; only one batch of rows is in memory at a time.

    Raises:
        TableError: The file is not Parquet, is damaged, has no columns or names a column twice.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise TableError(f"Reading {path}: not a Parquet file that can be read: {first_line(error)}.") from error
    try:
        return read_batches(str(path), file.schema_arrow, _batches(file))
    except TableError:
        file.close()
        raise


def _batches(file: Any) -> Generator[Any, None, None]:
    with file:
        yield from file.iter_batches(batch_size=BATCH_ROWS)
