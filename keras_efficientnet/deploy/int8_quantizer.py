"""Static int8 quantization of a LiteRT network after training, with ranges chosen here.

`ai-edge-quantizer` writes the file. What a tensor's range is, which channels of a swish get
equalized, and which operators stay in float32 is decided in this package.
"""

import contextlib
import io
import re
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_efficientnet.deploy import runtime
from keras_efficientnet.deploy.calibration import SIGMOID_LIMIT, SWISH_FLOOR, TAIL, RangeObserver
from keras_efficientnet.deploy.tflite_graph import INVERSE, MAX_SCALE, UNSCALED, Graph, Swish
from keras_efficientnet.errors import RunError, reason
from keras_efficientnet.native_logs import suppress_native_logs

Range = tuple[float, float]
WeightRounding = Callable[[Graph, Mapping[str, np.ndarray]], None]
PIXELS: Range = (0.0, 255.0)
# Positions in each image at which the channels of a swish's input are looked at.
POSITIONS_PER_IMAGE = 32
# A channel's magnitude counts as at least the first; its negative part counts up to the second,
# below which a swish gives nearly nothing.
MIN_CHANNEL, NEGATIVE_CHANNEL = 1.0, 4.0
LATENCY_ROUNDS = 15


@dataclass(frozen=True)
class Statistics:
    """What calibration images make of a network's tensors.

    Attributes:
        observers: of the tensors, by name.
        channels: of each swish's input, the magnitude of its channels, by name.
    """

    observers: Mapping[str, RangeObserver]
    channels: Mapping[str, np.ndarray]

    def ranges(self, tail: float = TAIL) -> dict[str, Range]:
        """Returns the range of every tensor, see `RangeObserver.range`."""
        return {name: observer.range(tail) for name, observer in self.observers.items()}


def observe(
    content: bytes, images: np.ndarray, floors: Mapping[str, np.ndarray] | None = None
) -> Statistics:
    """Runs a float network on images and looks at every tensor.

    Args:
        content: of a float32 .tflite file that takes one image.
        images: as the network takes them, `[count, height, width, channels]`.
        floors: lowest value of each channel that counts, by the tensor's name.
    """
    graph = Graph(content)
    ends = graph.ends()
    swishes, sigmoids = graph.swish_inputs(), graph.sigmoid_inputs()
    observers: dict[str, RangeObserver] = {}
    channels: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(0)
    for tensors in computed(content, images, graph.tensors()):
        for name, values in tensors.items():
            if values.dtype != np.float32 or not values.size:
                continue
            if name in swishes:
                rows = values.reshape(-1, values.shape[-1])
                rows = rows[rng.integers(0, len(rows), POSITIONS_PER_IMAGE)]
                size = np.maximum(rows.max(0), np.minimum(-rows.min(0), NEGATIVE_CHANNEL))
                channels[name] = np.maximum(channels.get(name, MIN_CHANNEL), size)
            if floors and name in floors:
                values = np.maximum(values, floors[name])
            if name not in observers:
                reader = "swish" if name in swishes else "sigmoid" if name in sigmoids else ""
                observers[name] = RangeObserver(reader, whole=name in ends)
            observers[name].observe(values)
    return Statistics(observers, channels)


def computed(
    content: bytes, images: np.ndarray, names: Collection[str]
) -> Iterator[dict[str, np.ndarray]]:
    """Runs a network and yields some of its tensors by name, for each image.

    Args:
        content: of a .tflite file that takes one image.
        images: as the network takes them, `[count, height, width, channels]`.
        names: of the tensors.
    """
    interpreter = _interpreter(content, preserve=True)
    indices = {tensor["name"]: tensor["index"] for tensor in interpreter.get_tensor_details()}
    for image in images:
        _invoke(interpreter, image[None])
        yield {name: interpreter.get_tensor(indices[name]) for name in names}


def channel_scales(swishes: Collection[Swish], statistics: Statistics) -> dict[str, np.ndarray]:
    """Returns factors that make the channels of swishes alike in magnitude.

    Args:
        swishes: that `Graph.equalize` can handle.
        statistics: of the network.

    Returns:
        By the name of a swish's input a power of two for each channel, from 1 to `MAX_SCALE`;
        without swishes whose channels are alike already.
    """
    scales = {}
    for name in (swish.tensors[0] for swish in swishes):
        size = statistics.channels[name]
        scale = np.exp2(np.round(np.log2(np.minimum(size.max() / size, MAX_SCALE))))
        if scale.max() > 1:
            scales[name] = scale.astype(np.float32)
    return scales


def equalized_ranges(content: bytes, images: np.ndarray, scales: Mapping[str, np.ndarray]) -> dict:
    """Returns the ranges of a network's tensors once swishes are equalized by these scales."""
    graph = Graph(content)
    graph.equalize(scales)
    floors = {name: SWISH_FLOOR * scale for name, scale in scales.items()}
    ranges = observe(graph.content(), images, floors).ranges()
    for name in scales:
        ranges[name + UNSCALED] = (-SIGMOID_LIMIT, SIGMOID_LIMIT)
        ranges[name + INVERSE] = (0.0, 255 / MAX_SCALE)
    return ranges


def quantize(
    content: bytes,
    ranges: Mapping[str, Range],
    in_float: Collection[str] = (),
    rounding: WeightRounding | None = None,
) -> bytes:
    """Quantizes a network with given ranges, all but some operators.

    Args:
        content: of the float network.
        ranges: of the tensors, by name.
        in_float: names of the outputs of operators that stay in float32.
        rounding: rounds the weights of a graph, given the largest absolute value of each output
            channel by the kernel's name; to the nearest step if None.

    Returns:
        The content of a file with int8 input and output.
    """
    from ai_edge_quantizer import recipe_manager

    recipe = recipe_manager.RecipeManager()
    recipe.add_static_config(".*", "*", activation_num_bits=8, weight_num_bits=8)
    if in_float:
        names = "|".join(map(re.escape, in_float))
        recipe.add_quantization_config(f"^({names});$", "*", algorithm_key="no_quantize")
    graph = Graph(content)
    shapes = graph.shapes()
    limits = {
        name: {
            "min": np.full([1] * len(shapes[name]), low),
            "max": np.full([1] * len(shapes[name]), high),
        }
        for name, (low, high) in ranges.items()
    }
    return _written(graph, recipe, limits, _kernel_limits(graph, ranges), rounding)


def quantize_weights(content: bytes, rounding: WeightRounding | None = None) -> bytes:
    """Quantizes the kernels of a network to 8 bits, and leaves its arithmetic in float32.

    Args:
        content: of the float network.
        rounding: see `quantize`.
    """
    from ai_edge_quantizer import recipe_manager

    recipe = recipe_manager.RecipeManager()
    recipe.add_weight_only_config(".*", "*", num_bits=8)
    graph = Graph(content)
    return _written(graph, recipe, {}, _kernel_limits(graph, {}), rounding)


def _written(
    graph: Graph,
    recipe: Any,
    limits: dict[str, dict[str, np.ndarray]],
    kernels: Mapping[str, np.ndarray],
    rounding: WeightRounding | None,
) -> bytes:
    """Lets the quantizer write a file, by the limits of tensors and of kernels."""
    from ai_edge_quantizer import quantizer

    if rounding:
        rounding(graph, kernels)
    limits |= {name: {"min": -limit, "max": limit} for name, limit in kernels.items()}
    made = quantizer.Quantizer(bytearray(graph.content()), recipe.get_quantization_recipe())
    # It shows a bar of its own, and warns of keeping every tensor.
    with (
        suppress_native_logs(),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            result = made.quantize(limits, enable_progress_bar=False, enable_progress_report=False)
        except Exception as error:  # of whatever kind: it is not this package's
            raise RunError(f"ai-edge-quantizer cannot quantize it: {reason(error)}.") from error
    assert result.quantized_model is not None
    return bytes(result.quantized_model)


def _kernel_limits(graph: Graph, ranges: Mapping[str, Range]) -> dict[str, np.ndarray]:
    """Returns the largest value of each output channel of the kernels, by name."""
    limits = {}
    for layer in graph.convolutions():
        axis = layer.kernel.ndim - 1 if layer.depthwise else 0
        others = tuple(other for other in range(layer.kernel.ndim) if other != axis)
        limit = np.maximum(np.abs(layer.kernel).max(others, keepdims=True), 1e-12)
        if layer.bias is not None and layer.source in ranges:
            low, high = ranges[layer.source]
            # A channel that is all but dead would have steps so fine that its bias overflows.
            least = 127 * np.abs(layer.bias) * 255 / ((high - low) * 2**30)
            limit = np.maximum(limit, least.reshape(limit.shape))
        limits[layer.kernel_name] = limit
    return limits


def plain_int8(
    content: bytes, images: np.ndarray, tail: float = TAIL, input_range: Range = PIXELS
) -> bytes:
    """Quantizes the whole of a network, without a search and without a check.

    Args:
        content: of a float32 .tflite file that takes one image.
        images: that ranges are taken from, `[count, height, width, channels]` as the network
            takes them; training images.
        tail: share of a tensor's values that its range may leave out at either end.
        input_range: that the network's input can have.

    Returns:
        The content of a .tflite file with uint8 images in and uint8 scores out.
    """
    ranges = observe(content, images).ranges(tail)
    return with_uint8_ends(quantize(content, with_input(content, ranges, input_range)))


def with_input(content: bytes, ranges: Mapping[str, Range], input_range: Range) -> dict[str, Range]:
    """Sets the range of the input.

    It must not follow from the images: bytes are handed over as they are, so that a step of the
    input has to be one of a pixel.
    """
    return {**ranges, Graph(content).tensors()[0]: input_range}


def with_uint8_ends(content: bytes) -> bytes:
    """Makes a network with int8 input and output one with uint8."""
    graph = Graph(content)
    graph.take_uint8()
    return graph.content()


def run(content: bytes, images: np.ndarray) -> np.ndarray:
    """Runs a LiteRT network on images.

    Args:
        content: of a .tflite file that takes one image.
        images: as the float network takes them, `[count, height, width, channels]`.

    Returns:
        float32 outputs, one for each image.
    """
    interpreter = _interpreter(content)
    return np.concatenate([_invoke(interpreter, image[None]) for image in images])


def relative_latency(content: bytes, other: bytes, image: np.ndarray) -> float:
    """Returns one network's latency over another's, each the best of interleaved rounds."""
    interpreters = [_interpreter(content), _interpreter(other)]
    best = [np.inf, np.inf]
    for _ in range(LATENCY_ROUNDS):
        for index, interpreter in enumerate(interpreters):
            _invoke(interpreter, image[None])  # the other one has used the caches
            started = time.perf_counter()
            _invoke(interpreter, image[None])
            best[index] = min(best[index], time.perf_counter() - started)
    return best[0] / best[1]


def _interpreter(content: bytes, preserve: bool = False) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings():
        # That keeping every tensor takes memory is known.
        warnings.filterwarnings("ignore", ".*experimental_preserve_all_tensors", UserWarning)
        interpreter = Interpreter(
            model_content=content,
            num_threads=runtime.available_cores(),
            experimental_preserve_all_tensors=preserve,
        )
    interpreter.allocate_tensors()
    return interpreter


def _invoke(interpreter: Any, image: np.ndarray) -> np.ndarray:
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(source["index"], runtime.quantize(image, source))
    interpreter.invoke()
    return runtime.dequantize(interpreter.get_tensor(target["index"]), target)
