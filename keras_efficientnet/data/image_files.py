"""Image files: each is decoded once, to find those that cannot be before any work begins."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from keras_efficientnet.bars import Bar
from keras_efficientnet.data import images
from keras_efficientnet.data.dataset import FileExamples, ImageFile, LeftOut
from keras_efficientnet.data.duplicates import fingerprint
from keras_efficientnet.data.folders import Listing
from keras_efficientnet.data.threads import in_threads
from keras_efficientnet.errors import InputError


def open_files(
    source: str,
    class_names: tuple[str, ...],
    listings: Mapping[str, Listing],
    groups: Mapping[Path, str],
    pixel_range: images.PixelRange | None,
) -> tuple[dict[str, FileExamples], list[LeftOut], list[str]]:
    """Decodes all files of some splits.

    Args:
        source: of the files, for messages.
        class_names: by class index.
        listings: the files of each class by split.
        groups: of the files that have one.
        pixel_range: see `sources.load`.

    Returns:
        The images by split, the files that cannot be decoded, and a note on files that Pillow
        warns of.

    Raises:
        InputError: if no image of a class of a split can be.
    """
    paths = [path for listing in listings.values() for part in listing.values() for path in part]
    checked, notes = _checked(source, paths, pixel_range)
    unusable = [LeftOut(str(path), bad) for path, bad in checked.items() if isinstance(bad, str)]
    splits = {
        name: FileExamples(
            _files(source, class_names, listing, checked, groups), pixel_range=pixel_range
        )
        for name, listing in listings.items()
    }
    return splits, unusable, notes


def _checked(
    source: str, paths: list[Path], pixel_range: images.PixelRange | None
) -> tuple[dict[Path, tuple[int, int, int, bytes] | str], list[str]]:
    """Decodes each file once, to find bad ones before training rather than in it."""
    check = partial(_check, pixel_range=pixel_range)
    bar = Bar(total=len(paths), desc=f"Checking {source}", unit="img", leave=False)
    found = {}
    with bar, images.collected_warnings() as warned:
        for path, checked in zip(paths, in_threads(check, paths), strict=True):
            found[path] = checked
            bar.update()
    if not warned:
        return found, []
    first, texts = next(iter(sorted(warned.items())))
    what = texts[0].rstrip(".")
    return found, [f"Pillow warns of {len(warned)} images, such as {first}: {what}."]


def _check(path: Path, pixel_range: images.PixelRange | None) -> tuple[int, int, int, bytes] | str:
    """Returns EXIF orientation, height, width and fingerprint, or what is wrong with the file."""
    try:
        image = images.read(path, pixel_range)
    except InputError as error:
        return str(error).removeprefix(f"{path} ")
    return images.orientation(path), image.height, image.width, fingerprint(image)


def _files(
    source: str,
    class_names: tuple[str, ...],
    listing: Listing,
    checked: dict,
    groups: Mapping[Path, str],
) -> list[ImageFile]:
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
    return files
