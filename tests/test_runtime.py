"""Running model files: numbers, threads, and what a file may look like."""

import threading

import numpy as np
import pytest
from ai_edge_litert import interpreter

from keras_efficientnet import deploy
from keras_efficientnet.deploy import runtime


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (70, 64, 64, 3), np.uint8)


def test_quantize_and_dequantize_follow_the_affine_rule():
    tensor = {"quantization": (0.5, 10), "dtype": np.uint8}
    values = np.array([-5.0, -100.0, 0.0, 1.3, 1000.0])
    assert runtime.quantize(values, tensor).tolist() == [0, 0, 10, 13, 255]
    assert runtime.dequantize(np.array([0, 10, 13], np.uint8), tensor).tolist() == [-5, 0, 1.5]
    plain = {"quantization": (1.0, 0), "dtype": np.uint8}
    every = np.arange(256, dtype=np.uint8)
    assert runtime.quantize(every, plain) is every
    assert runtime.quantize(every + 0.4, plain).tolist() == every.tolist()
    signed = {"quantization": (1.0, -128), "dtype": np.int8}
    assert runtime.quantize(every, signed).tolist() == list(range(-128, 128))


@pytest.mark.parametrize("name", ["keras", "saved_model", "float32", "int8"])
def test_many_images_give_what_each_alone_gives(model_files, pixels, name):
    runner = runtime.open_model(model_files[name], threads=2)
    assert (runner.input_shape, runner.output_shape) == ((64, 64, 3), (3,))
    together = runner.run(pixels)  # more than one batch
    assert together.shape == (70, 3)
    assert together.dtype == np.float32
    alone = np.concatenate([runner.run(pixels[index : index + 1]) for index in range(0, 70, 9)])
    np.testing.assert_allclose(together[::9], alone, atol=1e-5)
    assert np.ptp(together, axis=0).min() > 0.01  # not one answer for all


@pytest.mark.parametrize("threads", [1, 3])
def test_interpreters_are_made_when_needed_and_no_more_than_threads(
    model_files, pixels, threads, monkeypatch
):
    made = []
    make = interpreter.Interpreter

    def counted(num_threads, **options):
        made.append(num_threads)
        return make(num_threads=num_threads, **options)

    monkeypatch.setattr(interpreter, "Interpreter", counted)
    runner = runtime.open_model(model_files["float32"], threads)
    for image in pixels[:3]:
        runner.run(image[None])
    assert made == [threads]
    callers = [threading.Thread(target=runner.run, args=(pixels,)) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert made[0] == threads
    assert set(made[1:]) == {1}
    assert len(made) <= 1 + threads


def test_a_failed_call_gives_its_interpreter_back(model_files, pixels):
    runner = runtime.open_model(model_files["float32"], threads=1)
    for _ in range(3):
        for count in (1, 2):
            with pytest.raises(ValueError, match="Dimension mismatch"):
                runner.run(pixels[:count, :32])
    assert runner.run(pixels[:2]).shape == (2, 3)


def test_an_onnx_file_gives_the_scores_of_the_keras_model(model_files, pixels, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    import keras

    model = keras.saving.load_model(model_files["keras"], compile=False)
    expected = model.predict(pixels, verbose=0)
    deploy.export_onnx(model, tmp_path / "model.onnx", dynamic_batch=True)
    runner = runtime.open_model(tmp_path / "model.onnx", threads=1)
    assert (runner.input_shape, runner.output_shape) == ((64, 64, 3), (3,))
    np.testing.assert_allclose(runner.run(pixels), expected, atol=1e-4)


def test_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"nor an \.onnx file"):
        runtime.open_model(tmp_path / "model.pt")
