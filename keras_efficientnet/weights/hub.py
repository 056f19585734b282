"""Models of the Hugging Face Hub: `hf://owner/name`, and what their configuration says.

Configurations of timm, of transformers and of KerasHub are read; any other says nothing.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from keras_efficientnet import scaling
from keras_efficientnet.errors import InputError, reason
from keras_efficientnet.spec import Interpolation, Pixels
from keras_efficientnet.weights.weight_file import Origin, Usage, WeightFile

WEIGHT_FILES = ("model.safetensors", "model.weights.h5", "pytorch_model.bin")
"""What folders of the Hub hold, the safer ones first."""
CONFIG_FILES = ("config.json", "preprocessor_config.json", "image_converter.json")
MAX_CONFIG_BYTES = 2**24
# A path makes one slash of two.
_ADDRESS = re.compile(r"hf:/+(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
# Pillow's numbers, which transformers writes.
_RESAMPLING: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}


def is_hub(source: str | os.PathLike) -> bool:
    """Whether this is `hf://owner/name`, with or without `@revision`."""
    return _ADDRESS.fullmatch(os.fspath(source)) is not None


def address(source: str | os.PathLike) -> str:
    """Returns `hf://owner/name` for what may have been a path in between."""
    return re.sub("^hf:/+", "hf://", os.fspath(source))


def fetch_hub(source: str | os.PathLike) -> Path:
    """Downloads one weight file and the configuration into huggingface_hub's cache.

    What is there already is used where there is no network. `HF_HUB_OFFLINE`, `HF_HOME` and
    the other variables of huggingface_hub hold.

    Args:
        source: `"hf://owner/name"` or `"hf://owner/name@revision"`.

    Returns:
        The folder of both.

    Raises:
        InputError: if huggingface_hub is not installed, or there is no such file.
    """
    match = _ADDRESS.fullmatch(os.fspath(source))
    assert match
    name = address(source)
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(
            f'{name} needs huggingface_hub; install it with pip install "efficientnet-keras3[hub]".'
        ) from None
    repository, revision = match["repository"], match["revision"]
    api = huggingface_hub.HfApi()
    offline: Exception | None = None
    try:
        there = api.list_repo_files(repository, revision=revision)
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        raise InputError(f"Cannot get {name}: {reason(error)}.") from error
    except Exception as error:  # of the network, in as many types as libraries take part
        there, offline = [*CONFIG_FILES, *WEIGHT_FILES], error

    def get(files: Iterable[str]) -> Iterator[Path]:
        for file in files:
            # Asking the network again takes minutes where there is none.
            options = {"revision": revision, "local_files_only": offline is not None}
            with suppress(huggingface_hub.errors.LocalEntryNotFoundError):
                yield Path(api.hf_hub_download(repository, file, **options))

    try:
        list(get(file for file in CONFIG_FILES if file in there))
        weights = next(get(file for file in WEIGHT_FILES if file in there), None)
    except Exception as error:
        raise InputError(f"Cannot get {name}: {reason(error)}.") from error
    if weights is None and offline:
        raise InputError(
            f"Cannot get {name} ({reason(offline)}), and it is not in the cache; download it "
            "elsewhere and pass the path of its folder."
        ) from offline
    if weights is None:
        raise InputError(f"{name} has none of {', '.join(WEIGHT_FILES)}.")
    return weights.parent


def with_configuration(file: WeightFile, folder: str | os.PathLike) -> WeightFile:
    """Adds to a weight file what the configuration beside it says.

    Args:
        file: of the folder.
        folder: that may have a `config.json`.
    """
    documents = {name: _document(Path(folder, name)) for name in CONFIG_FILES}
    config = documents["config.json"]
    if isinstance(config.get("pretrained_cfg"), dict):
        return _of_timm(file, config)
    if config.get("model_type") == "efficientnet":
        return _of_transformers(file, config, documents["preprocessor_config.json"])
    if documents["image_converter.json"]:
        return _of_keras_hub(file, config, documents["image_converter.json"]["config"])
    return file


def _document(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        content = json.loads(file.read(MAX_CONFIG_BYTES))
    if not isinstance(content, dict):
        raise InputError(f"{str(path)!r} is damaged; a JSON object is accepted.")
    return content


def _of_timm(file: WeightFile, config: Mapping[str, Any]) -> WeightFile:
    """Of timm's networks, `tf_` ones pad as TensorFlow does and keep its epsilon."""
    cfg = config["pretrained_cfg"]
    google = config["architecture"].startswith("tf_")
    usage = Usage(
        (cfg.get("test_input_size") or cfg["input_size"])[-1],
        cfg.get("test_crop_pct") or cfg["crop_pct"],
        _interpolation(cfg.get("interpolation")),
        tuple(cfg.get("label_names") or ()),
    )
    return dataclasses.replace(
        file,
        origin=Origin(
            {"same": 1e-3} if google else {"symmetric": 1e-5},
            _pixels(cfg["mean"], cfg["std"], 1 / 255),
        ),
        usage=usage,
    )


def _of_transformers(
    file: WeightFile, config: Mapping[str, Any], processor: Mapping[str, Any]
) -> WeightFile:
    """Its image processor divides by the deviation twice for a network with its top.

    It squeezes whole images into a square; here, their centre square is taken.
    """
    names = config.get("id2label") or {}
    labels = tuple(names[key] for key in sorted(names, key=int))
    usage = Usage(
        config.get("image_size"),
        1.0,
        _RESAMPLING.get(processor.get("resample", 0)),
        () if all(label.startswith("LABEL_") for label in labels) else labels,
    )
    pixels = None
    if processor:
        own = "EfficientNet" in processor.get("image_processor_type", "EfficientNet")
        power = 2 if own and processor.get("include_top", True) else 1
        normalized = processor.get("do_normalize", True)
        pixels = _pixels(
            processor["image_mean"] if normalized else (0.0,) * 3,
            [value**power for value in processor["image_std"]] if normalized else (1.0,) * 3,
            processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0,
            1.0 if processor.get("rescale_offset") else 0.0,
        )
    epsilon = config.get("batch_norm_eps", 1e-3)
    origin = Origin(dict.fromkeys(file.origin.epsilons, epsilon), pixels)
    return dataclasses.replace(file, origin=origin, usage=usage)


def _of_keras_hub(
    file: WeightFile, config: Mapping[str, Any], converter: Mapping[str, Any]
) -> WeightFile:
    """Its image converter multiplies pixels and adds an offset."""
    epsilon = config["config"].get("batch_norm_epsilon")
    epsilons = {padding: epsilon or known for padding, known in file.origin.epsilons.items()}
    scale, offset = (
        _three(converter.get(name), default) for name, default in (("scale", 1.0), ("offset", 0.0))
    )
    pairs = list(zip(scale, offset, strict=True))
    pixels = _pixels([-b / a for a, b in pairs], [1 / a for a, _ in pairs], 1.0)
    size = (converter.get("image_size") or (None,))[0]
    usage = Usage(size, 1.0, _interpolation(converter.get("interpolation")))
    return dataclasses.replace(
        file, origin=dataclasses.replace(file.origin, epsilons=epsilons, pixels=pixels), usage=usage
    )


def _three(values: Any, default: float) -> list[float]:
    values = default if values is None else values
    return [float(value) for value in (values if isinstance(values, list) else [values] * 3)]


def _pixels(mean: Any, std: Any, factor: float, offset: float = 0.0) -> Pixels:
    """Mean and deviation in 0-255 of `(pixels * factor - offset - mean) / std`."""
    return scaling.pixel_values(
        (
            tuple((value + offset) / factor for value in mean),
            tuple(value / factor for value in std),
        )
    )


def _interpolation(name: Any) -> Interpolation | None:
    return name if name in get_args(Interpolation) else None
