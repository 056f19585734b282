"""The gate: what it lets pass, of all images and of each class, and what it says."""

import dataclasses

import numpy as np
import pytest

from keras_efficientnet.deploy import GateError
from keras_efficientnet.deploy.verification import Gate
from keras_efficientnet.errors import RunError
from keras_efficientnet.task import SINGLE_LABEL

QUANTIZED = ("float16", "dynamic", "weight8", "int8", "int16x8")
EXPECTED = np.eye(3, dtype=np.float32)[np.arange(60) % 3]
IMAGES = np.zeros((60, 2, 2, 3), np.float32)
GATE = Gate(IMAGES, EXPECTED, np.ones(60, bool), SINGLE_LABEL, 0.97, class_names=("a", "b", "c"))


def otherwise(*images):
    """Outputs that name another class on these images."""
    outputs = EXPECTED.copy()
    outputs[list(images)] = np.roll(outputs[list(images)], 1, 1)
    return outputs


@pytest.mark.parametrize("number_format", QUANTIZED)
def test_every_number_format_passes_the_same_gate(number_format):
    found = GATE.decide(otherwise(7), number_format)
    assert found.agreement == pytest.approx(59 / 60)
    assert found.agreement_interval
    assert found.agreement_interval.low == pytest.approx(0.911, abs=1e-3)
    with pytest.raises(GateError, match=rf"^The {number_format} file agrees .* on 96\.7% \(95%"):
        GATE.decide(otherwise(7, 9), number_format)


@pytest.mark.parametrize("number_format", ["float32", *QUANTIZED])
def test_outputs_that_are_no_numbers_never_pass(number_format):
    outputs = EXPECTED.copy()
    outputs[3] = np.nan  # which NumPy takes for the best of the scores
    gate = dataclasses.replace(GATE, min_agreement=0)
    with pytest.raises(RunError, match="outputs that are no numbers"):
        gate.decide(outputs, number_format)


def test_the_lower_end_decides_where_that_is_asked_for():
    strict = dataclasses.replace(GATE, strict=True)
    message = r"on 100\.0% \(95% interval from 94\.0%\) of 60 held-out images that"
    with pytest.raises(GateError, match=message):
        strict.decide(EXPECTED, "int8")
    dataclasses.replace(strict, min_agreement=0.93).decide(EXPECTED, "int8")


def test_the_gate_holds_for_each_class():
    """Of 12 defects a third is lost, which is a small share of all images."""
    labels = np.array([0] * 48 + [1] * 12)
    gate = dataclasses.replace(GATE, labels=labels, min_agreement=0.92)
    with pytest.raises(GateError, match=r"on 93\.3% of 60 .*, but only on 8 of 12 of 'b', and 92"):
        gate.decide(otherwise(56, 57, 58, 59), "int8")
    gate.decide(otherwise(0, 15, 30, 59), "int8")
    few = np.array([0] * 51 + [1] * 9)
    assert dataclasses.replace(gate, labels=few).decide(EXPECTED, "int8").unjudged_classes == 1
    # Without labels, a class is what the model takes for one.
    unlabelled = dataclasses.replace(gate, labels=None)
    with pytest.raises(GateError, match=r"but only on 14 of 20 of 'a'"):
        dataclasses.replace(unlabelled, min_agreement=0.9).decide(
            otherwise(*range(0, 18, 3)), "int8"
        )


def test_accuracy_comes_from_images_that_do_not_decide():
    deciding = np.arange(60) < 30
    labels = EXPECTED.argmax(1)
    gate = dataclasses.replace(GATE, deciding=deciding, labels=labels, min_agreement=0.97)
    found = gate.decide(otherwise(30, 31, 32), "int8")
    assert found.agreement == 1
    assert found.accuracy == pytest.approx(0.9)
    change = found.accuracy_change
    assert change
    assert (change.lost, change.gained) == (3, 0)
    assert change.p_value == pytest.approx(0.25)


def test_of_a_float32_file_the_numbers_decide():
    with pytest.raises(RunError, match="other outputs than the model, by up to 1"):
        GATE.decide(otherwise(7), "float32")
    assert GATE.decide(EXPECTED, "float32").max_abs_difference == 0
