"""The parts of a whole run that can be had alone; test_cli.py and test_resume.py run it whole."""

import numpy as np

import keras_efficientnet as ke
from keras_efficientnet import run
from keras_efficientnet.data.dataset import ArrayExamples, Dataset, FileExamples, ImageFile


def test_held_out_images_are_classified_by_a_file(model_files, tmp_path, capfd):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), np.uint8)
    labels = np.arange(10) % 3
    files = [ImageFile(tmp_path / f"{i}.png", int(labels[i]), 1, 64, 64) for i in range(10)]
    train = ArrayExamples(pixels, labels)
    data = Dataset("p", "folder:p", ("chat", "犬", "лиса"), train, FileExamples(files), 1.0, False)
    scores = ke.Predictor(model_files["float32"]).scores(pixels)
    capfd.readouterr()

    found, images = run.evaluate_file(model_files["float32"], data, (pixels, labels))
    assert capfd.readouterr().err == ""
    assert (found.file, found.result.images) == ("float32.tflite", 10)
    wrong = set(np.flatnonzero(scores.argmax(1) != labels).tolist())
    assert {each.index for each in found.mistakes} == wrong != set()
    for mistake, image in zip(found.mistakes, images, strict=True):
        assert mistake.path == str(tmp_path / f"{mistake.index}.png")
        np.testing.assert_array_equal(image, pixels[mistake.index])

    # There is time for four: those are spread evenly.
    slow = 1000 * run.EVALUATION_SECONDS / 4
    found, images = run.evaluate_file(model_files["float32"], data, (pixels, labels), slow)
    assert found.result.images == 4
    assert {each.index for each in found.mistakes} == wrong & {0, 3, 6, 9}
