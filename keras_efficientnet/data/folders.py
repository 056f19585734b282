"""What a folder of images contains: splits, classes, and what is neither."""

import os
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from keras_efficientnet.data.dataset import LeftOut
from keras_efficientnet.data.images import ACCEPTED, SUFFIXES, is_image
from keras_efficientnet.data.splits import SPLITS, describe_splits, split_of
from keras_efficientnet.errors import InputError
from keras_efficientnet.files import is_text

# What macOS, Synology, Windows and file systems add, beside names that begin with a dot.
_SYSTEM = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "thumbs.db", "desktop.ini"}

Listing = dict[str, list[Path]]
"""The image files of each class."""


@dataclass
class Walk:
    """Finds images, and keeps account of everything that is not taken for one.

    Attributes:
        classes_are_folders: take every folder for a class, even one that looks like a split.
        left_out: files and folders that are not used.
        unreadable: folders and files that cannot be read.
        hidden: number of hidden and system files and folders.
        others: number of other files by suffix.
        by_content: number of images by suffix, where that is none of an image.
        remarks: sentences on anything else that the owner of the data may not expect.
    """

    classes_are_folders: bool = False
    left_out: list[LeftOut] = field(default_factory=list)
    unreadable: list[LeftOut] = field(default_factory=list)
    hidden: int = 0
    others: Counter[str] = field(default_factory=Counter)
    by_content: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    def images(self, root: str | os.PathLike) -> list[Path]:
        """Returns the image files in a folder, at any depth, sorted."""
        found = []
        for folder, folders, files in os.walk(root, onerror=self._failed):
            folders[:] = [name for name in folders if self._is_visible(name)]
            for name in folders:
                if os.path.islink(path := os.path.join(folder, name)):
                    self.leave_out(path, "is a link to a folder, which is not followed.")
            paths = [os.path.join(folder, name) for name in files]
            found += [Path(path) for path in paths if self._is_image(path)]
        return sorted(found)

    def name_unreadable(self, root: str | os.PathLike) -> None:
        """Adds folders in a folder that cannot be read, at any depth, to `unreadable`."""
        for _ in os.walk(root, onerror=self._failed):
            pass

    def folders(self, root: Path) -> tuple[list[Path], int]:
        """Returns the folders directly in a folder, sorted, and the number of images there.

        Raises:
            InputError: if it cannot be read.
        """
        try:
            entries = sorted(root.iterdir())
        except OSError as error:
            raise InputError(f"Folder {str(root)!r} cannot be read: {error.strerror}.") from error
        folders = [each for each in entries if os.path.isdir(each)]
        images = sum(self._is_image(str(each)) for each in entries if not os.path.isdir(each))
        return [each for each in folders if self._is_visible(each.name)], images

    def classes(self, root: Path, but: tuple[Path, ...] = ()) -> Listing:
        """Returns the images of each class of a folder that has a folder for each class.

        Args:
            root: folder of all classes.
            but: folders in it that are no classes.

        Raises:
            InputError: if the folder cannot be read, a name is not text, or the splits are
                inside of the classes.
        """
        listing: Listing = {}
        inside: list[frozenset[str]] = []
        folders, loose = self.folders(root)
        if loose:
            self.leave_out(root, f"has {loose} images outside of class folders, without labels.")
        for folder in folders:
            if folder in but:
                continue
            if not is_text(folder.name):
                raise InputError(
                    f"Class folder {str(folder)!r} has a name that is not text in UTF-8; rename it."
                )
            images = self.images(folder)
            inner = next(os.walk(folder), ("", [], []))[1]
            splits = sorted(filter(split_of, inner))
            if len(set(map(split_of, splits))) > 1 and not self.classes_are_folders:
                raise InputError(
                    f"Class folder {str(folder)!r} has the splits {', '.join(splits)}; put "
                    "class folders into folders of splits, or pass --classes-are-folders."
                )
            if images:
                listing.setdefault(class_name(folder.name), []).extend(images)
                inside.append(frozenset(inner))
            elif str(folder) not in [each.path for each in self.unreadable]:
                self.leave_out(folder, f"has no images; {ACCEPTED}.")
        if len(inside) > 1 and len(inside[0]) > 1 and len(set(inside)) == 1:
            self.remarks.append(  # folds, or years, may have been meant
                f"The classes {', '.join(sorted(listing)[:5])} all have the folders "
                f"{', '.join(sorted(inside[0])[:5])}, which are read as parts of them."
            )
        return listing

    def leave_out(self, path: str | os.PathLike, reason: str) -> None:
        """Adds an entry to `left_out`."""
        self.left_out.append(LeftOut(os.fspath(path), reason))

    def notes(self) -> tuple[str, ...]:
        """Returns the remarks, and sentences on the files that were ignored."""
        notes = list(self.remarks)
        if self.hidden:
            notes.append(f"Ignored {self.hidden} hidden or system files and folders.")
        for files, counts in (
            ("Ignored files with other suffixes than images", self.others),
            ("Read files with other suffixes than images, by their content", self.by_content),
        ):
            if counts:
                each = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
                notes.append(f"{files}: {each}.")
        return tuple(notes)

    def _is_visible(self, name: str) -> bool:
        visible = not name.startswith(".") and name.casefold() not in _SYSTEM
        self.hidden += not visible
        return visible

    def _is_image(self, path: str) -> bool:
        if not self._is_visible(os.path.basename(path)):
            return False
        suffix = os.path.splitext(path)[1].lower()
        if suffix in SUFFIXES:
            return True
        try:
            found = is_image(path)
        except OSError as error:
            self.unreadable.append(LeftOut(path, f"cannot be read: {error.strerror}."))
            return False
        (self.by_content if found else self.others)[suffix or "none"] += 1
        return found

    def _failed(self, error: OSError) -> None:
        self.unreadable.append(LeftOut(str(error.filename), f"cannot be read: {error.strerror}."))


def class_name(text: str) -> str:
    """Returns a class name in the composed Unicode form, in which equal names are equal."""
    return unicodedata.normalize("NFC", text)


def read_splits(root: Path, walk: Walk) -> tuple[dict[str, Listing], str | None]:
    """Finds the splits and classes of a folder.

    Args:
        root: of all. Where it has one folder and nothing else, that one is read.
        walk: that keeps account of what is left out.

    Returns:
        The images of each split, by its name in `SPLITS`, in that order; and how the splits came
        about, or None where there is one alone.

    Raises:
        InputError: if the splits are ambiguous, or a folder cannot be read.
    """
    folders, images = Walk().folders(root)
    while len(folders) == 1 and not images and (inner := Walk().folders(folders[0]))[0]:
        root, (folders, images) = folders[0], inner
        walk.remarks.append(f"Read {root}, the only folder there.")
    splits = {} if walk.classes_are_folders else _split_folders(root, folders, walk)
    if not splits:
        return {"train": walk.classes(root)}, None
    found: dict[str, Listing] = {}
    if splits.get("train") == root:
        _, (name, folder) = splits.items()
        found = {"train": walk.classes(root, (folder,)), name: walk.classes(folder)}
        return found, f"folder {folder.name} and the classes beside it"
    folders, images = walk.folders(root)
    if images:
        walk.leave_out(root, f"has {images} images outside of its splits, without labels.")
    for folder in folders:
        if folder not in splits.values():
            walk.leave_out(folder, "lies beside the folders of the splits.")
    for name, folder in splits.items():
        listing, known = walk.classes(folder), set().union(*found.values())
        if known and len(listing) == 1 and not listing.keys() & known:
            walk.leave_out(folder, "has none of the classes, so its images have no labels.")
        elif listing or name == "train":
            found[name] = listing
    return found, describe_splits("folders", [splits[name].name for name in found])


def _split_folders(root: Path, folders: list[Path], walk: Walk) -> dict[str, Path]:
    """Returns the folder of each split, in the order of `SPLITS`; none if there are no splits."""
    found = [(split, folder) for folder in folders if (split := split_of(folder.name))]
    splits = {name: folder for name in SPLITS for split, folder in found if split == name}
    if len(splits) < len(found):
        names = ", ".join(folder.name for _, folder in found)
        raise InputError(
            f"Folder {str(root)!r} has several folders of one split: {names}; rename one, or pass "
            "--classes-are-folders."
        )
    if len(splits) == 1 and len(folders) > 1:
        return _lone_split(*found[0], root, folders, walk)
    return splits


def _lone_split(
    split: str, folder: Path, root: Path, folders: list[Path], walk: Walk
) -> dict[str, Path]:
    """Tells by its content whether a folder beside others is a split or a class of that name."""
    classes = {inner.name for inner in Walk().folders(folder)[0] if Walk().images(inner)}
    if split == "train" and len(classes) > 1:
        if sum(bool(Walk().images(other)) for other in folders) > 2:
            raise InputError(
                f"Folder {str(folder)!r} may be a split or a class beside the others; rename it, "
                "or pass --classes-are-folders."
            )
        return {"train": folder}
    if split != "train" and classes and classes <= {each.name for each in folders}:
        return {"train": root, split: folder}
    walk.remarks.append(f"Folder {folder} is taken for a class, as the folders beside it are.")
    return {}
