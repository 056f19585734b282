"""8-bit quantization that holds: a search for what a network needs until a gate is met.

A file is first quantized as a whole, with ranges that clip what hardly ever occurs and what
a swish makes nothing of. Where that does not agree with the float network on images that
were not used for calibration, the channels of swishes are equalized (`quantization_graph`
says how), those first whose rounding costs the result most; and where that is not enough
either, parts of the network stay in float, again by what they cost the result.
"""

import contextlib
import io
import re
import time
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_efficientnet.deploy import runtime
from keras_efficientnet.deploy.tflite_graph import INVERSE, MAX_SCALE, UNSCALED, Graph, Swish
from keras_efficientnet.errors import InputError
from keras_efficientnet.native_logs import suppress_native_logs

# Images that ranges are taken from, and that candidates are ranked and checked on, at most.
RANGE_IMAGES = 100
RANKING_IMAGES = 48
CHECK_IMAGES = 500
# Values of each tensor that an image contributes to the distribution that ranges cut.
VALUES_AN_IMAGE = 512
# Positions of a swish's input whose channels are looked at, of each image.
POSITIONS_AN_IMAGE = 32
# Share of the values on each side that a range may leave out.
TAIL = 1e-4
# A swish gives nearly nothing below this, so that values there may as well be clipped.
SWISH_FLOOR = -6.0
# A sigmoid is nearly 0 or 1 beyond this.
SIGMOID_LIMIT = 8.0
# Channels with less than the first are not enlarged further; the negative part counts up to
# the second, where it matters to a swish.
MIN_CHANNEL, NEGATIVE_CHANNEL = 1.0, 4.0
# A swish whose equalization wins less than this, in dB, is left as it is: it would cost time.
MIN_GAIN = 0.2
TURNS = 15  # in which candidates' latencies are compared


@dataclass(frozen=True)
class Int8Options:
    """What is asked of an 8-bit file.

    Attributes:
        min_agreement: share of the check images on which it must name the same class as the
            float network, in [0, 1].
        qat_epochs: passes over the calibration images in which the network is fine-tuned
            under 8 bits before it is quantized; 0 for none.
    """

    min_agreement: float = 0.97
    qat_epochs: int = 0

    def __post_init__(self):
        """Refuses what cannot be met."""
        if not 0 <= self.min_agreement <= 1:
            raise InputError(f"min_agreement={self.min_agreement!r} must be from 0 to 1.")
        if self.qat_epochs < 0:
            raise InputError(f"qat_epochs={self.qat_epochs!r} must be at least 0.")


class GateError(InputError):
    """No 8-bit file agrees with the float network well enough.

    Attributes:
        report: of the best one.
    """

    def __init__(self, message: str, report: "Int8Report"):
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Equalized:
    """A swish whose channels were equalized.

    Attributes:
        layer: the convolution ahead of it.
        gain: what that wins in signal-to-noise ratio of the result, in dB.
        latency: of the network with it over that of the one before it.
    """

    layer: str
    gain: float
    latency: float


@dataclass(frozen=True)
class InFloat:
    """A part of the network that stays in float.

    Attributes:
        part: its name, such as `"block2b"`.
        operators: how many operators it has.
        gain: what that wins in signal-to-noise ratio of the result, in dB.
        size: bytes by which it makes the file larger.
        latency: of the network with it over that of the one before it.
    """

    part: str
    operators: int
    gain: float
    size: int
    latency: float


@dataclass(frozen=True)
class Int8Report:
    """What an 8-bit file is worth, and what it took.

    Attributes:
        agreement: share of the check images with the float network's first class; None
            for a network that does not classify.
        min_agreement: that was asked for.
        check_images: how many images that was found on.
        signal_to_noise: of the logits on calibration images, in dB.
        equalized: swishes with equalized channels.
        in_float: parts that stay in float.
        latency: over that of the float file, on one image, in one run.
        size: over that of the float file.
    """

    agreement: float | None
    min_agreement: float
    check_images: int
    signal_to_noise: float
    equalized: tuple[Equalized, ...] = ()
    in_float: tuple[InFloat, ...] = ()
    latency: float = 1.0
    size: float = 1.0


def quantize_int8(
    content: bytes,
    images: np.ndarray,
    check: np.ndarray,
    min_agreement: float = Int8Options.min_agreement,
    reference: bytes | None = None,
) -> tuple[bytes, Int8Report]:
    """Quantizes a float LiteRT network to 8 bits, with uint8 images in and uint8 scores out.

    Args:
        content: of a float32 .tflite file that takes one image.
        images: calibration images as the network takes them, float32 `[count, height,
            width, channels]`; training images.
        check: other images of the same kind, on which the two networks are compared.
        min_agreement: share of them on which both must name the same class, in [0, 1].
        reference: the float network to agree with, where that is another than the one to be
            quantized.

    Returns:
        The content of the 8-bit file, and what it is worth.

    Raises:
        GateError: if no file agrees so well.
    """
    if len(check) > CHECK_IMAGES:
        check = check[np.linspace(0, len(check) - 1, CHECK_IMAGES).round().astype(int)]
    search = _Search(content, images, check, min_agreement, reference or content)
    search.equalize_until_it_holds()
    search.keep_float_until_it_holds()
    return search.result()


def plain_int8(content: bytes, images: np.ndarray, tail: float = TAIL) -> bytes:
    """Quantizes the whole of a network, without a search and without a check.

    Args:
        content: see `quantize_int8`.
        images: see `quantize_int8`.
        tail: share of the values on each side that a range may leave out.
    """
    return _finished(_quantized(content, _ranges(content, _observe(content, images), tail), ()))


@dataclass
class _Observed:
    """Values of one tensor over the calibration images."""

    low: float = np.inf
    high: float = -np.inf
    samples: list[np.ndarray] = field(default_factory=list)
    # Of the channels, over some positions; the input of a swish has them.
    channel_low: Any = np.inf
    channel_high: Any = -np.inf


def _observe(
    content: bytes, images: np.ndarray, floors: Mapping[str, np.ndarray] | None = None
) -> dict[str, _Observed]:
    """Runs a float network and looks at every tensor.

    Args:
        content: the network.
        images: that it is run on.
        floors: lowest value of each channel that counts, by the tensor's name.
    """
    graph = Graph(content)
    swishes, floors = graph.swish_inputs(), floors or {}
    interpreter = _interpreter(content, preserve=True)
    indices = {tensor["name"]: tensor["index"] for tensor in interpreter.get_tensor_details()}
    source = interpreter.get_input_details()[0]["index"]
    observed = {name: _Observed() for name in graph.tensors()}
    rng = np.random.default_rng(0)
    for image in images[:RANGE_IMAGES]:
        interpreter.set_tensor(source, image[None])
        interpreter.invoke()
        for name, seen in observed.items():
            values = interpreter.get_tensor(indices[name])
            if values.dtype != np.float32 or not values.size:
                continue
            if name in swishes:
                rows = values.reshape(-1, values.shape[-1])
                rows = rows[rng.integers(0, len(rows), POSITIONS_AN_IMAGE)]
                seen.channel_low = np.minimum(seen.channel_low, rows.min(0))
                seen.channel_high = np.maximum(seen.channel_high, rows.max(0))
            if name in floors:
                values = np.maximum(values, floors[name])
            seen.low = min(seen.low, float(values.min()))
            seen.high = max(seen.high, float(values.max()))
            values = values.ravel()
            if values.size > VALUES_AN_IMAGE:
                values = values[rng.integers(0, values.size, VALUES_AN_IMAGE)]
            seen.samples.append(values.copy())
    return {name: seen for name, seen in observed.items() if seen.samples}


def _ranges(
    content: bytes, observed: Mapping[str, _Observed], tail: float = TAIL
) -> dict[str, tuple[float, float]]:
    """Chooses the range of every tensor."""
    graph = Graph(content)
    swishes, sigmoids = graph.swish_inputs(), graph.sigmoid_inputs()
    ends = graph.ends()
    ranges = {}
    for name, seen in observed.items():
        low, high = seen.low, seen.high
        # A step of the input is one of a pixel, and readers want all of the output.
        if name not in ends:
            values = np.concatenate(seen.samples)
            low, high = np.quantile(values, [tail, 1 - tail])
        if name in swishes:
            low = max(low, SWISH_FLOOR)
        elif name in sigmoids:
            low, high = max(low, -SIGMOID_LIMIT), min(high, SIGMOID_LIMIT)
        # A range has zero in it, and is one.
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        ranges[name] = (low, high if high > low else low + 1e-6)
    return ranges


def _channel_scales(graph: Graph, observed: Mapping[str, _Observed]) -> dict[str, np.ndarray]:
    """Returns by the names of swishes' inputs what makes their channels equally large."""
    scales = {}
    for swish in graph.equalizable():
        seen = observed[swish.tensors[0]]
        size = np.maximum(seen.channel_high, np.minimum(-seen.channel_low, NEGATIVE_CHANNEL))
        size = np.maximum(size, MIN_CHANNEL)
        scale = np.exp2(np.round(np.log2(np.minimum(size.max() / size, MAX_SCALE))))
        if scale.max() > 1:
            scales[swish.tensors[0]] = scale.astype(np.float32)
    return scales


def _quantized(
    content: bytes, ranges: Mapping[str, tuple[float, float]], in_float: Collection[str]
) -> bytes:
    """Quantizes a network with given ranges, all but some operators.

    Args:
        content: the float network.
        ranges: of the tensors, by name.
        in_float: names of the outputs of operators that stay as they are.

    Returns:
        A network with int8 input and output.
    """
    from ai_edge_quantizer import qtyping, quantizer

    every = qtyping.TFLOperationName.ALL_SUPPORTED
    made = quantizer.Quantizer(bytearray(content))
    made.add_static_config(".*", every, activation_num_bits=8, weight_num_bits=8)
    if in_float:
        names = "|".join(map(re.escape, in_float))
        made.update_quantization_recipe(f"^({names});$", every, algorithm_key="no_quantize")
    graph = Graph(content)
    shapes = graph.shapes()
    statistics = {
        name: {
            "min": np.full([1] * len(shapes[name]), low),
            "max": np.full([1] * len(shapes[name]), high),
        }
        for name, (low, high) in ranges.items()
    }
    for source, kernel, largest, bias in graph.biased():
        if source in ranges:
            low, high = ranges[source]
            # A channel that is all but dead would have steps so fine that its bias overflows.
            least = 127 * np.abs(bias) * 255 / ((high - low) * 2**30)
            limit = np.maximum(largest, np.maximum(least, 1e-12))
            statistics[kernel] = {"min": -limit, "max": limit}
    # It shows a bar of its own, and warns of keeping every tensor.
    with (
        suppress_native_logs(),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        result = made.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    assert result.quantized_model is not None
    return bytes(result.quantized_model)


def _finished(content: bytes) -> bytes:
    """Makes a network with int8 input and output one with uint8."""
    graph = Graph(content)
    graph.take_uint8()
    return graph.content()


class _Search:
    """The candidates so far: a network, what is equalized in it, and what is in float."""

    def __init__(self, content, images, check, min_agreement, reference):
        self.content, self.images, self.check = content, images, check
        self.min_agreement = min_agreement
        observed = _observe(content, images)
        self.ranges = _ranges(content, observed)
        graph = Graph(content)
        scales = _channel_scales(graph, observed)
        self.swishes = [swish for swish in graph.equalizable() if swish.tensors[0] in scales]
        self.scales, self.parts = scales, graph.parts()
        graph.strip_softmax()
        self.ranking = images[:RANKING_IMAGES]
        self.logits = _run(graph.content(), self.ranking)
        self.expected = _run(reference, check)
        self.classifies = self.expected.ndim == 2 and self.expected.shape[1] > 1
        self.equalized: list[Equalized] = []
        self.in_float: list[InFloat] = []
        self._take((), ())

    def equalize_until_it_holds(self) -> None:
        """Equalizes swishes, those first that win most for the time they cost."""
        # Above the gate by a margin, because the check images are a sample only.
        aim = self.min_agreement + (1 - self.min_agreement) / 3
        if not self.swishes or not self.classifies or self.agreement >= aim:
            return
        self._observe_equalized()
        every = tuple(self.swishes)
        best = self._signal_to_noise(every, ())
        gains = {}
        for swish in tqdm(self.swishes, "Ranking swishes", leave=False, disable=None):
            others = tuple(other for other in every if other is not swish)
            gains[swish] = best - self._signal_to_noise(others, ())
        worth = [swish for swish in self.swishes if gains[swish] >= MIN_GAIN]
        worth.sort(key=lambda swish: -gains[swish] / swish.elements)
        for swish in worth:
            before = self.candidate
            self._take((*self.chosen, swish), ())
            latency = _latency(self.candidate, before, self.images[0])
            self.equalized.append(Equalized(swish.layer, gains[swish], latency))
            if self.agreement >= aim:
                return

    def keep_float_until_it_holds(self) -> None:
        """Leaves parts in float, those first that win most.

        Raises:
            GateError: if nothing is left to be kept.
        """
        if self.holds():
            return
        here = self._signal_to_noise(self.chosen, ())
        gains = {
            part: self._signal_to_noise(self.chosen, (part,)) - here
            for part in tqdm(self.parts, "Ranking parts", leave=False, disable=None)
        }
        for part in sorted(self.parts, key=lambda part: -gains[part]):
            before = self.candidate
            self._take(self.chosen, (*(kept.part for kept in self.in_float), part))
            self.in_float.append(
                InFloat(
                    part,
                    len(self.parts[part]),
                    gains[part],
                    len(self.candidate) - len(before),
                    _latency(self.candidate, before, self.images[0]),
                )
            )
            if self.holds():
                return
        raise GateError(
            f"No int8 file agrees with the float network on {self.min_agreement:.1%} of "
            f"{len(self.check)} images, the best on {self.agreement:.1%}; use the float file, "
            "pass more calibration images, fine-tune with --qat-epochs, or lower "
            "--min-agreement.",
            self._report(),
        )

    def holds(self) -> bool:
        return not self.classifies or self.agreement >= self.min_agreement

    def result(self) -> tuple[bytes, Int8Report]:
        return self.candidate, self._report()

    def _report(self) -> Int8Report:
        return Int8Report(
            agreement=self.agreement if self.classifies else None,
            min_agreement=self.min_agreement,
            check_images=len(self.check),
            signal_to_noise=self._signal_to_noise(
                self.chosen, tuple(kept.part for kept in self.in_float)
            ),
            equalized=tuple(self.equalized),
            in_float=tuple(self.in_float),
            latency=_latency(self.candidate, self.content, self.images[0]),
            size=len(self.candidate) / len(self.content),
        )

    def _take(self, swishes: tuple[Swish, ...], parts: tuple[str, ...]) -> None:
        """Makes a candidate the current one."""
        self.chosen = swishes
        self.candidate = _finished(self._quantized(swishes, parts, logits=False))
        scores = _run(self.candidate, self.check)
        same = scores.argmax(-1) == self.expected.argmax(-1)
        self.agreement = float(np.mean(same))

    def _quantized(self, swishes, parts, logits: bool) -> bytes:
        graph = Graph(self.content)
        graph.equalize({swish.tensors[0]: self.scales[swish.tensors[0]] for swish in swishes})
        if logits:
            graph.strip_softmax()
        ranges = dict(self.ranges)
        for swish in swishes:
            first = swish.tensors[0]
            ranges |= {name: self.equalized_ranges[name] for name in swish.tensors}
            ranges[first + UNSCALED] = (-SIGMOID_LIMIT, SIGMOID_LIMIT)
            ranges[first + INVERSE] = (0.0, 255 / MAX_SCALE)
        in_float = [name for part in parts for name in self.parts[part]]
        in_float += [
            swish.tensors[0] + UNSCALED for swish in swishes if swish.tensors[0] in in_float
        ]
        return _quantized(graph.content(), ranges, in_float)

    def _observe_equalized(self) -> None:
        graph = Graph(self.content)
        graph.equalize(self.scales)
        floors = {name: SWISH_FLOOR * scale for name, scale in self.scales.items()}
        content = graph.content()
        self.equalized_ranges = _ranges(content, _observe(content, self.images, floors))

    def _signal_to_noise(self, swishes, parts) -> float:
        """Returns how far the logits lie above their error on the ranking images, in dB."""
        expected = self.logits
        found = _run(self._quantized(swishes, parts, logits=True), self.ranking)
        if self.classifies:  # what all classes have in common decides nothing
            expected = expected - expected.mean(-1, keepdims=True)
            found = found - found.mean(-1, keepdims=True)
        noise = np.square(found - expected).sum()
        return float(10 * np.log10(np.square(expected).sum() / max(noise, 1e-12)))


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


def _run(content: bytes, images: np.ndarray) -> np.ndarray:
    """Runs a network on images as the float network takes them; returns float32 outputs."""
    interpreter = _interpreter(content)
    return np.concatenate([_invoke(interpreter, image[None]) for image in images])


def _invoke(interpreter: Any, image: np.ndarray) -> np.ndarray:
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(source["index"], runtime.quantize(image, source))
    interpreter.invoke()
    return runtime.dequantize(interpreter.get_tensor(target["index"]), target)


def _latency(content: bytes, other: bytes, image: np.ndarray) -> float:
    """Returns one network's latency over another's: the best of turns that both take."""
    peers = [_interpreter(content), _interpreter(other)]
    best = [np.inf, np.inf]
    for _ in range(TURNS):
        for index, peer in enumerate(peers):
            _invoke(peer, image[None])  # the other one has used the caches
            started = time.perf_counter()
            _invoke(peer, image[None])
            best[index] = min(best[index], time.perf_counter() - started)
    return best[0] / best[1]
