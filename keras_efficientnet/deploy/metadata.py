"""What a model file says about itself: class names, image size and the like.

One JSON document travels with every format. A .keras file is a zip archive and takes it
as one more member; a .tflite file carries associated files as a zip archive behind the
network, as TFLite metadata does; a SavedModel keeps it in `assets.extra`, TensorFlow's
place for what others add.
"""

import dataclasses
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from keras_efficientnet.errors import InputError

FILE_NAME = "keras_efficientnet.json"
_ASSETS = "assets.extra"


@dataclass(frozen=True)
class ModelInfo:
    """What prediction needs to know besides the network.

    Attributes:
        variant: such as `"B0"`.
        class_names: in the order of the outputs.
        image_size: side of the input in pixels.
        crop_fraction: centre crop at evaluation, see `data.images.prepare`.
    """

    variant: str
    class_names: tuple[str, ...]
    image_size: int
    crop_fraction: float

    def __post_init__(self):
        """Refuses values that a stranger's file could bring in."""
        names = self.class_names
        if not (
            isinstance(self.variant, str)
            and isinstance(names, tuple)
            and all(isinstance(name, str) for name in names)
            and isinstance(self.image_size, int)
            and 1 <= self.image_size <= 65_536
            and isinstance(self.crop_fraction, int | float)
            and 0 < self.crop_fraction <= 1
        ):
            raise InputError("The model's own description holds values that make no sense.")


def write_info(path: Path, info: ModelInfo) -> None:
    """Adds the description to a model file or SavedModel folder just written."""
    text = json.dumps(dataclasses.asdict(info), ensure_ascii=False, indent=1)
    if path.is_dir():
        (path / _ASSETS).mkdir(exist_ok=True)
        (path / _ASSETS / FILE_NAME).write_text(text, encoding="utf-8")
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(FILE_NAME, text)


def read_info(path: str | os.PathLike) -> ModelInfo | None:
    """Reads the description back, or returns None where a file has none.

    Raises:
        InputError: if there is one and it is damaged.
    """
    path = Path(path)
    try:
        if path.is_dir():
            text = (path / _ASSETS / FILE_NAME).read_text(encoding="utf-8")
        else:
            with zipfile.ZipFile(path) as archive:
                text = archive.read(FILE_NAME).decode("utf-8")
    except (FileNotFoundError, KeyError, zipfile.BadZipFile):
        return None
    try:
        fields = json.loads(text)
        return ModelInfo(**{**fields, "class_names": tuple(fields["class_names"])})
    except (ValueError, TypeError, KeyError, InputError) as error:
        raise InputError(f"The description inside {str(path)!r} is damaged.") from error
