"""Export reports as JSON, and what errors say of them."""

import dataclasses
import json
from dataclasses import asdict

import pytest

from keras_efficientnet import errors
from keras_efficientnet.data.dataset import LeftOut
from keras_efficientnet.deploy import ExportError, GateError
from keras_efficientnet.deploy.export_report import (
    Equalized,
    ExportedFile,
    ExportReport,
    FailedFile,
    FloatPart,
    Int8Report,
)
from keras_efficientnet.deploy.significance import AccuracyChange, Interval

REPORT = ExportReport(
    directory="phone",
    files=(
        ExportedFile("saved_model", "saved_model", "float32", 9, None, 1e-6),
        ExportedFile(
            name="model_int8.tflite",
            format="tflite",
            number_format="int8",
            size=3,
            agreement=0.98,
            max_abs_difference=0.1,
            accuracy=0.9,
            latency_ms=1.5,
            agreement_interval=Interval(0.95, 0.99),
            accuracy_interval=Interval(0.85, 0.95),
            accuracy_change=AccuracyChange(-0.01, Interval(-0.02, 0.01), 2, 1, 1.0),
            unjudged_classes=1,
            operators={"CONV_2D": 4},
            int8=Int8Report(
                *(0.99, 0.97, 500, 21.0),
                equalized=(Equalized("block1a", 1.5, 1.01),),
                float_parts=(FloatPart("stem", 3, 2.5, 1000, 1.2),),
            ),
        ),
    ),
    failed=(FailedFile("model.onnx", "No runtime."), FailedFile("model.keras", "Disk full.")),
    images=12,
    compared_on="held-out images",
    source_accuracy=0.91,
    preprocessing="inside the graph",
    left_out=(LeftOut("bad.jpg", "is no image."),),
    warnings=("Few images.",),
)


def test_a_report_goes_through_json_and_back():
    assert ExportReport.from_dict(json.loads(json.dumps(asdict(REPORT)))) == REPORT
    assert ExportReport.from_dict(asdict(REPORT)) == REPORT


def test_files_are_found_by_name():
    assert REPORT.file("model_int8.tflite").latency_ms == 1.5
    with pytest.raises(KeyError, match=r"model\.onnx"):  # it is not in place
        REPORT.file("model.onnx")


def test_errors_say_what_failed_and_what_is_in_place():
    error = ExportError(REPORT)
    assert str(error) == (
        "model.onnx, model.keras could not be made; in place are saved_model, model_int8.tflite: "
        "No runtime. Disk full."
    )
    assert error.report is REPORT
    assert isinstance(error, errors.RunError)
    assert isinstance(GateError("below."), errors.RunError)
    assert not isinstance(GateError("below."), errors.InputError)


def test_an_int8_file_that_is_mostly_float_is_said_so():
    int8 = REPORT.file("model_int8.tflite").int8
    assert int8
    small = dataclasses.replace(int8, size=0.3, latency=0.5)
    assert small.disappointment == ""
    large = dataclasses.replace(small, size=0.9)
    assert large.disappointment == (
        "The int8 file has 90% of the float32 file's size and 50% of its latency: for agreement, "
        "stem had to stay in float32."
    )
    slow = dataclasses.replace(small, latency=1.1, float_parts=())
    assert "its operators are few or not faster in 8 bits" in slow.disappointment
