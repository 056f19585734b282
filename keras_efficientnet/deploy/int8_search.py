"""Accuracy-gated int8 quantization: the search for an int8 file that decides as the model does.

A network is first quantized as a whole, with ranges that clip what hardly ever occurs and what
a swish makes nothing of, and with weights that are rounded by what their layer gives
(`int8_rounding` says how). Where that does not agree with the float network often enough, the
channels of swishes are equalized (`tflite_graph` says how), those first whose rounding costs the
logits most; and where that is not enough either, parts of the network stay in float32, again by
what they cost the logits. The search sees calibration images alone. Whether its file is used is
decided afterwards on others, see `verification.Gate`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from keras_efficientnet.bars import Bar
from keras_efficientnet.deploy.calibration import CalibrationSet
from keras_efficientnet.deploy.export_options import ExportOptions
from keras_efficientnet.deploy.export_report import Equalized, FloatPart, GateError, Int8Report
from keras_efficientnet.deploy.int8_quantizer import (
    PIXELS,
    Range,
    channel_scales,
    equalized_ranges,
    observe,
    quantize,
    relative_latency,
    run,
    with_input,
    with_uint8_ends,
)
from keras_efficientnet.deploy.int8_rounding import Rounding
from keras_efficientnet.deploy.significance import wilson
from keras_efficientnet.deploy.tflite_graph import INVERSE, UNSCALED, Graph, Swish
from keras_efficientnet.task import SINGLE_LABEL, Task

# Shares of a tensor's values that its range may leave out at either end: the one is taken that
# does better.
TAILS = (1e-4, 1e-5)
# A swish whose equalization gains less than this, in dB, is left as it is: it would cost time.
MIN_GAIN = 0.2
# Equalization goes on up to this signal-to-noise ratio of the logits, in dB, even where agreement
# is reached: it is counted on training images, of which a network is surer than of others, so that
# rounding changes fewer decisions on them. Errors of a tenth of the logits change few on any.
MIN_SIGNAL_TO_NOISE = 20.0


@dataclass(frozen=True, eq=False)
class SearchImages:
    """The images of a search, each `[count, height, width, channels]` as the network takes them.

    Attributes:
        ranges: that ranges of tensors are taken from.
        ranking: on which candidates are ranked by their logits' signal-to-noise ratio.
        agreement: on which agreement is counted, to know when to stop.
    """

    ranges: np.ndarray
    ranking: np.ndarray
    agreement: np.ndarray

    @classmethod
    def of(
        cls,
        calibration: CalibrationSet,
        network_input: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ) -> "SearchImages":
        """Takes a calibration set's parts, and turns pixels into what a network takes."""
        return cls(
            network_input(calibration.range_images),
            network_input(calibration.ranking_images),
            network_input(calibration.search_images),
        )


def quantize_int8(
    content: bytes,
    images: SearchImages,
    min_agreement: float = ExportOptions.min_agreement,
    *,
    task: Task = SINGLE_LABEL,
    reference: bytes | None = None,
    input_range: Range = PIXELS,
) -> tuple[bytes, Int8Report]:
    """Quantizes a float LiteRT network to 8 bits, with uint8 images in and uint8 scores out.

    Args:
        content: of a float32 .tflite file that takes one image.
        images: of the search.
        min_agreement: share of its images on which both networks must decide alike, in [0, 1].
            The search aims higher, because other images decide in the end.
        task: what a decision is.
        reference: the float network to agree with, where that is another than the one to be
            quantized.
        input_range: that the network's input can have.

    Returns:
        The content of the 8-bit file, and what it took.

    Raises:
        GateError: if no file agrees so well.
    """
    search = _Search(content, images, task, reference or content, input_range)
    # At 0, nothing is asked.
    aim = min_agreement + min(1 - min_agreement, min_agreement) / 3
    candidate = search.find(aim, min_agreement)
    report = search.report(candidate, min_agreement)
    if candidate.agreement < min_agreement:
        raise GateError(
            f"No int8 file agrees with the float network on {min_agreement:.1%} of "
            f"{len(images.agreement)} calibration images, the best on {candidate.agreement:.1%}; "
            "use the float file, pass more calibration images, fine-tune with --qat-epochs, or "
            "lower --min-agreement.",
            report,
        )
    return candidate.content, report


@dataclass(frozen=True)
class _Candidate:
    """An int8 file, how often it decides as the float network does, and how it came about."""

    content: bytes
    agreement: float
    signal_to_noise: float
    swishes: tuple[Swish, ...]
    parts: tuple[str, ...]
    equalized: tuple[Equalized, ...] = ()
    float_parts: tuple[FloatPart, ...] = ()


class _Search:
    """Tries int8 files of one network."""

    def __init__(
        self,
        content: bytes,
        images: SearchImages,
        task: Task,
        reference: bytes,
        input_range: Range,
    ):
        self.content, self.images, self.task = content, images, task
        graph = Graph(content)
        statistics = observe(content, images.ranges)
        self.rounding = Rounding(content, images.ranges)
        self.equalized_ranges: dict[str, Range] = {}
        self.scales = channel_scales(graph.equalizable(), statistics)
        self.swishes = tuple(s for s in graph.equalizable() if s.tensors[0] in self.scales)
        self.parts = graph.parts()
        graph.strip_softmax()
        self.logits = run(graph.content(), images.ranking)
        self.expected = run(reference, images.agreement)
        self.classifies = self.expected.ndim == 2 and self.expected.shape[1] > 1
        self.ranges = self._best_ranges(
            [with_input(content, statistics.ranges(tail), input_range) for tail in TAILS]
        )

    def _best_ranges(self, choices: Sequence[dict[str, Range]]) -> dict[str, Range]:
        """Returns the ranges that leave the logits nearest to those of the float network."""
        graph = Graph(self.content)
        graph.strip_softmax()

        def signal_to_noise(ranges: dict[str, Range]) -> float:
            file = quantize(graph.content(), ranges, rounding=self.rounding.apply)
            return self._decibels(run(file, self.images.ranking))

        return max(choices, key=signal_to_noise)

    def find(self, aim: float, least_agreement: float) -> _Candidate:
        """Returns the first candidate that agrees as often as is aimed for, or else the best one.

        Equalization, which costs little, goes on until the logits are near enough as well. Where
        even a network with every part in float32 agrees far less often than is asked for, as
        where scores differ by less than a step of 8 bits, nothing is searched for.
        """
        best = candidate = self._try_candidate((), ())
        if not self.classifies or not aim:
            return candidate
        if candidate.agreement < least_agreement:
            all_in_float = self._try_candidate((), tuple(self.parts))
            count = len(self.images.agreement)
            if wilson(round(all_in_float.agreement * count), count).high < least_agreement:
                return max(candidate, all_in_float, key=lambda each: each.agreement)
        for extend, least in ((self._equalize, MIN_SIGNAL_TO_NOISE), (self._keep_float, -np.inf)):
            extended = extend(candidate)
            while candidate.agreement < aim or candidate.signal_to_noise < least:
                if (following := next(extended, None)) is None:
                    break
                candidate = following
                best = max(best, candidate, key=lambda each: each.agreement)
        return candidate if candidate.agreement >= aim else best

    def _equalize(self, candidate: _Candidate) -> Iterator[_Candidate]:
        """Equalizes one more swish at a time, those first that gain most for the time they cost."""
        if not self.swishes:
            return
        self.equalized_ranges = equalized_ranges(self.content, self.images.ranges, self.scales)
        best = self._signal_to_noise(self.swishes, ())
        gains = {}
        for swish in Bar(self.swishes, "Ranking swishes", leave=False):
            others = tuple(other for other in self.swishes if other is not swish)
            gains[swish] = best - self._signal_to_noise(others, ())
        chosen = [swish for swish in self.swishes if gains[swish] >= MIN_GAIN]
        for swish in sorted(chosen, key=lambda swish: -gains[swish] / swish.elements):
            tried = self._try_candidate((*candidate.swishes, swish), ())
            latency = self._latency(tried, candidate)
            record = Equalized(swish.layer, gains[swish], latency)
            candidate = replace(tried, equalized=(*candidate.equalized, record))
            yield candidate

    def _keep_float(self, candidate: _Candidate) -> Iterator[_Candidate]:
        """Keeps one more part in float32 at a time, those first that gain most."""
        swishes = candidate.swishes
        gains = {
            part: self._signal_to_noise(swishes, (part,)) - candidate.signal_to_noise
            for part in Bar(self.parts, "Ranking parts", leave=False)
        }
        for part in sorted(self.parts, key=lambda part: -gains[part]):
            tried = self._try_candidate(swishes, (*candidate.parts, part))
            record = FloatPart(
                part,
                operators=len(self.parts[part]),
                gain=gains[part],
                size=len(tried.content) - len(candidate.content),
                latency=self._latency(tried, candidate),
            )
            candidate = replace(
                tried,
                equalized=candidate.equalized,
                float_parts=(*candidate.float_parts, record),
            )
            yield candidate

    def report(self, candidate: _Candidate, min_agreement: float) -> Int8Report:
        """Returns what reports say of a candidate."""
        return Int8Report(
            agreement=candidate.agreement if self.classifies else None,
            min_agreement=min_agreement,
            images=len(self.images.agreement),
            signal_to_noise=candidate.signal_to_noise,
            equalized=candidate.equalized,
            float_parts=candidate.float_parts,
            latency=relative_latency(candidate.content, self.content, self.images.ranges[0]),
            size=len(candidate.content) / len(self.content),
        )

    def _try_candidate(self, swishes: tuple[Swish, ...], parts: tuple[str, ...]) -> _Candidate:
        """Makes a file, and counts how often it decides as the float network does."""
        content = with_uint8_ends(self._quantized(swishes, parts, logits=False))
        agreement = 1.0
        if self.classifies:
            scores = run(content, self.images.agreement)
            agreement = float(self.task.agree(scores, self.expected).mean())
        noise = self._signal_to_noise(swishes, parts)
        return _Candidate(content, agreement, noise, swishes, parts)

    def _quantized(self, swishes: tuple[Swish, ...], parts: tuple[str, ...], logits: bool) -> bytes:
        graph = Graph(self.content)
        graph.equalize({swish.tensors[0]: self.scales[swish.tensors[0]] for swish in swishes})
        if logits:
            graph.strip_softmax()
        ranges = dict(self.ranges)
        in_float = [name for part in parts for name in self.parts[part]]
        for swish in swishes:
            first = swish.tensors[0]
            added = (first + UNSCALED, first + INVERSE)
            ranges |= {name: self.equalized_ranges[name] for name in (*swish.tensors, *added)}
            if first in in_float:
                in_float.append(first + UNSCALED)
        scales = {
            name: self.scales[swish.tensors[0]] for swish in swishes for name in swish.tensors
        }
        rounding = partial(self.rounding.apply, scales=scales, left_alone=frozenset(in_float))
        return quantize(graph.content(), ranges, in_float, rounding)

    def _signal_to_noise(self, swishes: tuple[Swish, ...], parts: tuple[str, ...]) -> float:
        """Returns how far the logits lie above their error on the ranking images, in dB."""
        return self._decibels(
            run(self._quantized(swishes, parts, logits=True), self.images.ranking)
        )

    def _decibels(self, found: np.ndarray) -> float:
        expected = self.logits
        if self.classifies:  # what all classes have in common decides nothing
            expected = expected - expected.mean(-1, keepdims=True)
            found = found - found.mean(-1, keepdims=True)
        noise = np.square(found - expected).sum()
        return float(10 * np.log10(np.square(expected).sum() / max(noise, 1e-12)))

    def _latency(self, tried: _Candidate, before: _Candidate) -> float:
        return relative_latency(tried.content, before.content, self.images.ranges[0])
