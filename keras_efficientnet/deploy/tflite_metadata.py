"""The standard metadata of a .tflite file, which Android and MediaPipe read.

It is a second flatbuffer inside the file, by the schema of
https://github.com/tensorflow/tflite-support/blob/master/tensorflow_lite_support/metadata/metadata_schema.fbs,
and a zip archive of "associated files" behind the network. It is written here because both
packages that could do it have far more dependencies than it takes.
"""

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np

from keras_efficientnet.deploy.exportable import ExportableModel
from keras_efficientnet.description import FILE_NAME, ModelDescription

LABELS = "labels.txt"
# The schema's fields in order, of the tables that are used here.
_FIELDS = {
    "AssociatedFile": ("name", "description", "type"),
    "ImageSize": ("width", "height"),
    "ImageProperties": ("color_space", "default_size"),
    "FeatureProperties": (),
    "Content": ("content_properties_type", "content_properties"),
    "NormalizationOptions": ("mean", "std"),
    "ProcessUnit": ("options_type", "options"),
    "Stats": ("max", "min"),
    "TensorMetadata": (
        *("name", "description", "dimension_names", "content", "process_units", "stats"),
        "associated_files",
    ),
    "SubGraphMetadata": ("name", "description", "input_tensor_metadata", "output_tensor_metadata"),
    "ModelMetadata": (
        *("name", "description", "version", "subgraph_metadata", "author", "license"),
        *("associated_files", "min_parser_version"),
    ),
}
_TENSOR_AXIS_LABELS = 2
_FEATURE_PROPERTIES, _IMAGE_PROPERTIES = 1, 2
_NORMALIZATION_OPTIONS = 1
_COLOR_SPACES = {3: 1, 1: 2}  # RGB and grey; other images have none
# A memory-mapped file's tensors start at multiples of this, says the network's own schema.
_ALIGNMENT = 16


def with_metadata(content: bytes, network: ExportableModel) -> bytes:
    """Adds standard metadata, the class names and this package's description to a network.

    Args:
        content: of a .tflite file.
        network: what it was made of.

    Returns:
        The content of a file that standard readers understand.
    """
    from ai_edge_litert import schema_py_generated as schema

    class AlignedBuffer(schema.BufferT):
        def Pack(self, builder):  # noqa: N802  its name in the base class
            if self.data is not None:
                builder.Prep(_ALIGNMENT, len(self.data))
            return super().Pack(builder)

    model = schema.ModelT.InitFromPackedBuf(content)
    added = schema.BufferT(data=np.frombuffer(_metadata(network), np.uint8))
    model.buffers = [
        AlignedBuffer(buffer.data, buffer.offset, buffer.size) for buffer in [*model.buffers, added]
    ]
    entry = schema.MetadataT(name="TFLITE_METADATA", buffer=len(model.buffers) - 1)
    model.metadata = [*(model.metadata or ()), entry]
    model.description = network.description.title
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    file = io.BytesIO(builder.Output())
    with zipfile.ZipFile(file, "a") as archive:
        for name, text in _files(network.description).items():
            # Without the time, so that one model gives one file.
            archive.writestr(zipfile.ZipInfo(name), text)
    return file.getvalue()


def per_channel(description: ModelDescription) -> bool:
    """Whether an application has to normalize every channel by other values.

    MediaPipe's tasks refuse such a file: they know one mean and one deviation.
    """
    both = (description.pixel_mean, description.pixel_std)
    return any(len(_values(values)) > 1 for values in both if values)


def _values(of_channels: Sequence[float]) -> list[float]:
    values = [float(value) for value in of_channels]
    return values[:1] if len(set(values)) == 1 else values


def _files(description: ModelDescription) -> dict[str, str]:
    """The associated files; they stay uncompressed, as readers demand."""
    files = {FILE_NAME: description.to_json()}
    if description.class_names:
        files[LABELS] = description.labels
    return files


def _metadata(network: ExportableModel) -> bytes:
    """The flatbuffer of a network's metadata."""
    description = network.description
    own_file = _Table("AssociatedFile", name=FILE_NAME, description="The package's own metadata")
    subgraph = _Table(
        "SubGraphMetadata",
        input_tensor_metadata=[_image(network)],
        output_tensor_metadata=[_output(network)],
    )
    root = _Table(
        "ModelMetadata",
        name=description.title,
        description=description.summary or f"{description.title} in Keras",
        subgraph_metadata=[subgraph],
        author=description.author,
        license=description.license,
        associated_files=[own_file],
        min_parser_version="1.0.0",
    )
    builder = flatbuffers.Builder()
    builder.Finish(root.write(builder), b"M001")
    return bytes(builder.Output())


def _image(network: ExportableModel) -> "_Table":
    """Metadata of the input."""
    description, (height, width, channels) = network.description, network.shape
    image = _Table("ImageProperties", default_size=_Table("ImageSize", width=width, height=height))
    if channels in _COLOR_SPACES:
        image.fields["color_space"] = _COLOR_SPACES[channels]
    # One value where one says it: MediaPipe reads no more (see `per_channel`).
    normalization = _Table(
        "NormalizationOptions",
        mean=_values(description.pixel_mean or (0,)),
        std=_values(description.pixel_std or (1,)),
    )
    return _Table(
        "TensorMetadata",
        name="image",
        description=(
            f"The centre square of {100 * description.crop_fraction:g} % of an image's shorter "
            f"side, resized to {width} x {height} pixels with values in 0-255. Preprocessing is "
            f"{description.preprocessing}."
        ),
        content=_content(_IMAGE_PROPERTIES, image),
        process_units=[
            _Table("ProcessUnit", options_type=_NORMALIZATION_OPTIONS, options=normalization)
        ],
        stats=_Table("Stats", max=[255.0], min=[0.0]),
    )


def _output(network: ExportableModel) -> "_Table":
    """Metadata of the output."""
    output = _Table(
        "TensorMetadata",
        name=network.output_name,
        description=("Score of each class" if network.classifies else "Features of the image"),
        content=_content(_FEATURE_PROPERTIES, _Table("FeatureProperties")),
    )
    if network.gives_probabilities:
        output.fields["stats"] = _Table("Stats", max=[1.0], min=[0.0])
    if network.description.class_names:
        output.fields["associated_files"] = [
            _Table(
                "AssociatedFile",
                name=LABELS,
                description="Name of each class",
                type=_TENSOR_AXIS_LABELS,
            )
        ]
    return output


def _content(kind: int, properties: "_Table") -> "_Table":
    return _Table("Content", content_properties_type=kind, content_properties=properties)


class _Table:
    """A table of the schema, with the fields that are set."""

    def __init__(self, kind: str, **fields: Any):
        self.kind, self.fields = kind, fields

    def write(self, builder: flatbuffers.Builder) -> int:
        """Writes what the fields refer to and then the table; returns where it is."""
        names = _FIELDS[self.kind]
        values = {
            name: value if isinstance(value, int) else _write(builder, value)
            for name, value in self.fields.items()
        }
        builder.StartObject(len(names))
        for name, value in values.items():
            slot = names.index(name)
            if name in ("width", "height"):
                builder.PrependUint32Slot(slot, value, 0)
            elif isinstance(self.fields[name], int):
                builder.PrependUint8Slot(slot, value, 0)
            else:
                builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        return builder.EndObject()


def _write(builder: flatbuffers.Builder, value: Any) -> int:
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, _Table):
        return value.write(builder)
    if isinstance(value[0], float):
        return builder.CreateNumpyVector(np.array(value, np.float32))
    items = [_write(builder, item) for item in value]
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        builder.PrependUOffsetTRelative(item)
    return builder.EndVector()
