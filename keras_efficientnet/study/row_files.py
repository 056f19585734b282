"""Rows of a study as a CSV file."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_efficientnet.files import atomic_write


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as a CSV file, which appears whole or not at all.

    Args:
        path: of the file; one that exists is replaced.
        rows: of any of this package's studies. A list becomes its values with blanks between
            them, and a map one column for each of its entries, named `OUTER_INNER`.

    Raises:
        InputError: if nothing can be written there.
    """
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    with (
        atomic_write(path, overwrite=True) as whole,
        whole.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(flat)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}_{inner}": part for inner, part in _flat(value).items()}
        else:
            flat[name] = " ".join(map(str, value)) if isinstance(value, list) else value
    return flat
