"""Export reports as JSON, and what errors say of them."""

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
