"""Brings published weights into Keras' cache."""

import hashlib
import os
import shutil
import tarfile
import zlib
from pathlib import Path
from urllib.error import HTTPError

import keras

from keras_efficientnet.errors import InputError, reason
from keras_efficientnet.files import atomic_write
from keras_efficientnet.weights.registry import PretrainedWeights

_MD5_DIGITS = 32
# L2's checkpoint, the largest, with averages and the optimizer's state, has half of it.
MAX_UNPACKED_BYTES = 2**34


def fetch(published: PretrainedWeights, include_top: bool = True) -> str:
    """Downloads a published file into Keras' cache, if it is not there yet, and checks it.

    Args:
        published: an entry of the registry.
        include_top: whether the classifier is wanted; without it, the smaller file is
            taken where there is one.

    Returns:
        The path of the file, or of the folder that a TensorFlow checkpoint was unpacked to.

    Raises:
        InputError: if it cannot be had or has the wrong hash. The message names the URL
            and where to put the file by hand.
    """
    url, digest = published.url, published.hash
    if not include_top and published.notop_url:
        url, digest = published.notop_url, published.notop_hash
    name = cache_name(published, url)
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    cached = os.path.join(home, "models", name)
    os.makedirs(home, exist_ok=True)  # get_file leaves a cache that is not there for /tmp
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
        raise InputError(
            f"Cannot get {url} ({str(error).strip()}); download it elsewhere"
            f"{f' (hash {digest})' if digest else ''} and put it at {cached}."
        ) from error
    if digest is not None and not is_md5 and not _sha256(path).startswith(digest):
        raise InputError(
            f"{cached} is not the file published at {url}, whose SHA-256 starts with {digest}; "
            "delete it, download it again and put it there."
        )
    return unpack(path) if published.layout == "tf1-checkpoint" else path


def unpack(archive: str | os.PathLike, max_bytes: int = MAX_UNPACKED_BYTES) -> str:
    """Unpacks a tar archive beside it, whole or not at all, unless that has been done.

    Args:
        archive: of files and folders alone.
        max_bytes: that its files may have together.

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
            for member in members:
                room -= member.size
                target = Path(os.path.normpath(whole / member.name))
                if not (member.isfile() or member.isdir()) or not target.is_relative_to(whole):
                    raise InputError(
                        f"{os.fspath(archive)!r} has the member {member.name!r}, which is no file "
                        "inside of it; delete the archive."
                    )
                if room < 0:
                    raise InputError(
                        f"{os.fspath(archive)!r} unpacks to more than {max_bytes:,} bytes, which "
                        "no published checkpoint does; delete the archive."
                    )
                content = members.extractfile(member)
                if content is None:
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with content, target.open("wb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{os.fspath(archive)!r} cannot be unpacked ({reason(error)}); delete it and download "
            "it again."
        ) from error
    return folder


def cache_name(published: PretrainedWeights, url: str) -> str:
    """The file's name in the cache: keras.applications' own for its files, to share them.

    Google's archives of one network have the same name for every way of training.
    """
    name = url.rpartition("/")[2]
    if published.layout == "tf1-checkpoint":
        variant = published.variant.lower()
        return f"keras-efficientnet-{variant}-{published.name}.{name.partition('.')[2]}"
    return name


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
