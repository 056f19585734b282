"""Finds published weights: installed, in Keras' cache, or on their server."""

import getpass
import hashlib
import importlib.metadata
import os
import tarfile
import tempfile
import warnings
import zlib
from pathlib import Path
from urllib.error import HTTPError

import keras

from keras_efficientnet.errors import InputError, reason
from keras_efficientnet.files import atomic_write, keras_home
from keras_efficientnet.weights.registry import PackagedFile, PretrainedWeights

_MD5_DIGITS = 32
# L2's checkpoint, the largest, with averages and the optimizer's state, has half of it.
MAX_UNPACKED_BYTES = 2**34
MAX_MEMBERS = 1000


def fetch(published: PretrainedWeights, include_top: bool = True) -> str:
    """Finds a published file: in an installed package, in Keras' cache, or on its server.

    Args:
        published: an entry of the registry.
        include_top: whether the classifier is wanted; without it, the smaller file is
            downloaded where there is one.

    Returns:
        The path of the file, or of the folder that a TensorFlow checkpoint was unpacked to.

    Raises:
        InputError: if it cannot be found or has the wrong hash. The message names the URL
            and where to put the file by hand.
    """
    if published.packaged and (path := _installed(published.packaged)):
        return path
    remote = published.file if include_top else published.notop or published.file
    url, digest = remote.url, remote.hash
    home, name = cache_folder(), cache_name(published, url)
    cached = os.path.join(home, "models", name)
    is_md5 = digest is not None and len(digest) == _MD5_DIGITS
    try:
        path = keras.utils.get_file(
            name,
            url,
            cache_dir=home,
            cache_subdir="models",
            file_hash=digest if is_md5 else None,
        )
    except Exception as error:  # get_file raises plain Exception when there is no network
        if isinstance(error.__context__, HTTPError):
            error.__context__.close()  # which get_file leaves open
        package = published.packaged and published.packaged.package
        raise InputError(
            f"Cannot get {url} ({str(error).strip()}); "
            f"{f'pip install {package}, or ' if package else ''}download it elsewhere"
            f"{f' (hash {digest})' if digest else ''} and put it at {cached}."
        ) from error
    if digest is not None and not is_md5 and not _sha256(path).startswith(digest):
        raise InputError(
            f"{cached} is not the file published at {url}, whose SHA-256 starts with {digest}; "
            "delete it, download it again and put it there."
        )
    return unpack(path) if _is_archive(url) else path


def is_here(published: PretrainedWeights) -> bool:
    """Whether `fetch` finds weights, with their classifier, without a network."""
    if published.packaged and _installed(published.packaged):
        return True
    name = cache_name(published, published.file.url)
    return os.path.exists(os.path.join(cache_folder(), "models", name))


def _installed(packaged: PackagedFile) -> str | None:
    """Returns the file's path, or None if the package is not installed."""
    try:
        files = importlib.metadata.files(packaged.package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [str(file.locate()) for file in files if file.suffix == ".pth"]
    if len(found) != 1 or _sha256(found[0]) != packaged.sha256:
        raise InputError(
            f"Package {packaged.package!r} does not hold the file of SHA-256 {packaged.sha256}; "
            f"install it again with pip install --force-reinstall {packaged.package}."
        )
    return found[0]


def cache_folder() -> str:
    """Returns Keras' cache folder, or one of this user's for temporary files.

    In a container the home folder may belong to somebody else, or the user may have none.

    Raises:
        InputError: if neither can be written.
    """
    home = keras_home()
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    temporary = os.path.join(tempfile.gettempdir(), f"keras-efficientnet-{user}")
    for folder in (home, temporary):
        if not _can_write(folder, own=folder is temporary):
            continue
        if folder is temporary:
            warnings.warn(
                f"Cannot write to Keras' cache at {home}; {folder} is used. Set KERAS_HOME to a "
                "folder that can be written.",
                stacklevel=2,
            )
        return folder
    raise InputError(
        f"Cannot write to Keras' cache at {home}; set KERAS_HOME to a folder that can be written."
    )


def _can_write(folder: str, own: bool) -> bool:
    """Makes a folder, and says whether files can be put there and, of `own`, by no one else."""
    if folder.startswith("~"):  # the system knows no home folder
        return False
    try:
        os.makedirs(os.path.join(folder, "models"), mode=0o700 if own else 0o777, exist_ok=True)
        status = os.lstat(folder)
    except OSError:
        return False
    shared = own and hasattr(os, "getuid") and status.st_uid != os.getuid()
    return os.access(os.path.join(folder, "models"), os.W_OK) and not shared


def unpack(archive: str | os.PathLike, max_bytes: int = MAX_UNPACKED_BYTES) -> str:
    """Unpacks a tar archive beside it, whole or not at all, unless that has been done.

    Args:
        archive: of files and folders alone.
        max_bytes: that its files may have together; there may be `MAX_MEMBERS` of them.

    Returns:
        The path of the folder.

    Raises:
        InputError: if it is damaged, too large, or has a member that would land elsewhere
            or is a link or a device.
    """
    folder = f"{os.fspath(archive)}_extracted"
    if os.path.isdir(folder):
        return folder
    room = max_bytes
    try:
        with atomic_write(folder) as whole, tarfile.open(archive) as members:
            whole.mkdir()
            for number, member in enumerate(members):
                room -= member.size
                if not _is_file_inside(member, whole):
                    raise InputError(
                        f"{os.fspath(archive)!r} has the member {member.name!r}, which is no file "
                        "inside of it; delete the archive."
                    )
                if room < 0 or number >= MAX_MEMBERS:
                    raise InputError(
                        f"{os.fspath(archive)!r} unpacks to more than {max_bytes:,} bytes or "
                        f"{MAX_MEMBERS:,} files, which no published checkpoint does; delete the "
                        "archive."
                    )
                members.extract(member, whole, filter="data")
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{os.fspath(archive)!r} cannot be unpacked ({reason(error)}); delete it and download "
            "it again."
        ) from error
    return folder


def _is_file_inside(member: tarfile.TarInfo, folder: Path) -> bool:
    """Whether it is a plain file or folder that tarfile's data filter leaves where it is."""
    try:
        kept = tarfile.data_filter(member, str(folder))
    except tarfile.FilterError:
        return False
    plain = (member.isfile() or member.isdir()) and not member.issparse()
    return plain and kept is not None and kept.name == member.name


def cache_name(published: PretrainedWeights, url: str) -> str:
    """The file's name in the cache: keras.applications' own for its files, to share them.

    Google's archives of one network have the same name for every way of training, and files of
    the Hugging Face Hub have one name.
    """
    name = url.rpartition("/")[2]
    if _is_archive(url) or "/resolve/" in url:
        variant = published.variant.lower()
        return f"keras-efficientnet-{variant}-{published.name}.{name.partition('.')[2]}"
    return name


def _is_archive(url: str) -> bool:
    """Whether it is one of a TensorFlow checkpoint's files."""
    return url.endswith((".tar.gz", ".tgz"))


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
