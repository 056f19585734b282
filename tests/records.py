"""What the campaigns have found, a line of JSON for each part."""

import json
from pathlib import Path
from typing import Any


def record(figures: dict[str, Any], path: Path | None) -> None:
    """Prints figures, and adds them as a line to a file, if there is one."""
    print(figures, flush=True)
    if path:
        with path.open("a") as file:
            file.write(json.dumps(figures) + "\n")
