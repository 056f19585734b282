"""Image files: each is decoded once, to find those that cannot be before any work begins."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from keras_efficientnet.data import images
from keras_efficientnet.data.dataset import FileExamples, ImageFile, LeftOut
from keras_efficientnet.data.duplicates import fingerprint
from keras_efficientnet.data.folders import Listing
from keras_efficientnet.data.threads import in_threads
from keras_efficientnet.errors import InputError

ORIENTATION_TAG = 0x0112


def open_files(
    source: str,
    class_names: tuple[str, ...],
    listings: Mapping[str, Listing],
    groups: Mapping[Path, str],
) -> tuple[dict[str, FileExamples], list[LeftOut]]:
    """Decodes all files of some splits.

    Args:
        source: of the files, for messages.
        class_names: by class index.
        listings: the files of each class by split.
        groups: of the files that have one.

    Returns:
        The images by split, and the files that cannot be decoded.

    Raises:
        InputError: if no image of a class of a split can be.
    """
    paths = [path for listing in listings.values() for part in listing.values() for path in part]
    checked = dict(zip(paths, _checked(source, paths), strict=True))
    unusable = [LeftOut(str(path), bad) for path, bad in checked.items() if isinstance(bad, str)]
    splits = {
        name: _examples(source, class_names, listing, checked, groups)
        for name, listing in listings.items()
    }
    return splits, unusable


def _checked(source: str, paths: list[Path]) -> Iterator[tuple[int, int, int, bytes] | str]:
    """Decodes each file once, to find bad ones before training rather than in it."""
    bar = tqdm(total=len(paths), desc=f"Checking {source}", unit="img", leave=False)
    with bar:
        for checked in in_threads(_check, paths):
            bar.update()
            yield checked


def _check(path: Path) -> tuple[int, int, int, bytes] | str:
    """Returns EXIF orientation, height, width and fingerprint, or what is wrong with the file."""
    try:
        image = images.read(path)
    except InputError as error:
        return str(error).removeprefix(f"{path} ")
    with Image.open(path) as header:
        orientation = header.getexif().get(ORIENTATION_TAG, 1)
    known = isinstance(orientation, int) and 1 <= orientation <= 8
    return orientation if known else 1, image.height, image.width, fingerprint(image)


def _examples(
    source: str,
    class_names: tuple[str, ...],
    listing: Listing,
    checked: dict,
    groups: Mapping[Path, str],
) -> FileExamples:
    files = []
    for label, name in enumerate(class_names):
        paths = listing.get(name, [])
        good = [path for path in paths if not isinstance(checked[path], str)]
        if paths and not good:
            raise InputError(
                f"Class {name!r} of {source!r} has no image that can be read; {paths[0]} "
                f"{checked[paths[0]]}"
            )
        files += [
            ImageFile(path, label, *checked[path], group=groups.get(path, "")) for path in good
        ]
    return FileExamples(files)
