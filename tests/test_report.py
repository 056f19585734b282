"""The page at the end of a run: right figures, no foreign markup, and readable in a browser."""

import csv
import dataclasses
import html.parser
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

import keras_efficientnet as ke
from keras_efficientnet import report as report_page
from keras_efficientnet.data.dataset import ArrayExamples, Dataset, FileExamples, ImageFile

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
HOSTILE = (
    "<img src=x onerror=\"document.title='broken'\">",
    "</title><script>document.title='broken'</script>",
    "\"'&amp; $x^2 {0} %s 犬",
)


class Page(html.parser.HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def a_report(**changes):
    return {
        "variant": "B0",
        "data": "folder:photos",
        "train_images": 1437,
        "image_size": 64,
        "seed": 0,
        "recipe": {"name": "small", "augmentation": {"policy": "none"}},
        "epochs": 3,
        "parameters": 4_020_358,
        "test_images": 6,
        "skipped": [{"file": "odd/name.jpg", "reason": "truncated"}],
        "agreement": {"keras": 1.0, "tflite_float32": 1.0, "tflite_int8": 0.75},
        "max_abs_difference": {"keras": 0.0, "tflite_float32": 1e-6, "tflite_int8": 0.25},
        "test_accuracy": {"keras": 0.625, "tflite_float32": 0.625, "tflite_int8": 0.5},
        "files": {"model.keras": 16e6, "model_float32.tflite": 16.1e6, "model_int8.tflite": 4.9e6},
        "seconds": 61.0,
        **changes,
    }


def a_history(epochs=3):
    return [
        {"epoch": epoch, "stage": "train", "loss": 1 / epoch, "val_loss": 1.2 / epoch,
         "accuracy": epoch / 4, "val_accuracy": epoch / 5, "learning_rate": 0.01 / epoch}
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip


def some_details(names=("cat", "dog", "fox"), files=()):
    """Six images, three of them wrong: image 4 worst, then 1, then 3."""
    scores = np.array(
        [[0.9, 0.1, 0], [0.2, 0.8, 0], [0.1, 0.9, 0], [0.5, 0.4, 0.1], [0, 0.99, 0.01], [0, 0, 1]]
    )
    labels = np.array([0, 0, 1, 1, 2, 2])
    images = np.zeros((6, 64, 64, 3), np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None]
    return report_page.Details(tuple(names), 40 * images, labels, scores, names=tuple(files))


def page_of(details=None, **changes):
    latencies = {"model_float32.tflite": 6.5, "model_int8.tflite": 3.25}
    return report_page.html(a_report(**changes), a_history(), latencies, details or some_details())


def cells(text):
    """The texts of the cells of every table row."""
    return [
        [re.sub("<.*?>", "", cell).replace("\N{NO-BREAK SPACE}", " ") for cell in found]
        for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
        if (found := re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL))
    ]


def test_every_file_has_its_accuracy_fidelity_size_and_latency():
    rows = cells(page_of())
    assert ["model.keras", "more training", "62.5 %", "100.0 %", "0.0e+00", "16.0 MB", "-"] in rows
    assert [
        *("model_int8.tflite", "phones", "50.0 %", "75.0 %", "2.5e-01", "4.9 MB", "3.25 ms"),
    ] in rows
    assert ["recipe.augmentation.policy", "none"] in rows
    assert ["odd/name.jpg", "truncated"] in rows


def test_classes_and_confusions_are_counted():
    details = some_details()
    np.testing.assert_array_equal(details.counts, [[1, 1, 0], [1, 1, 0], [0, 1, 1]])
    rows = cells(page_of(details))
    # images, recall, precision
    assert ["cat", "2", "50.0 %", "50.0 %", ""] in rows
    assert ["dog", "2", "50.0 %", "33.3 %", ""] in rows
    assert ["fox", "2", "50.0 %", "100.0 %", ""] in rows
    confused = [row for row in rows if len(row) == 3]
    assert sorted(confused) == [["cat", "dog", "1"], ["dog", "cat", "1"], ["fox", "dog", "1"]]


def test_the_worst_mistakes_come_first():
    text = page_of(some_details(files=[f"/photos/{index}.jpg" for index in range(6)]))
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    plain = [re.sub("<.*?>", " ", caption).split() for caption in captions]
    assert [(words[0], words[3].rstrip(","), words[-1]) for words in plain] == [
        ("fox", "dog", "4.jpg"),
        ("cat", "dog", "1.jpg"),
        ("dog", "cat", "3.jpg"),
    ]


def test_a_run_without_mistakes_says_so():
    details = some_details()
    right = dataclasses.replace(details, labels=details.scores.argmax(1))
    assert "<h2>Mistakes</h2><p>None.</p>" in page_of(right)


def test_names_cannot_become_markup():
    files = [f"/photos/{name}.jpg" for name in HOSTILE * 2]
    text = page_of(
        some_details(HOSTILE, files),
        data=f"folder:{HOSTILE[1]}",
        skipped=[{"file": HOSTILE[0], "reason": HOSTILE[1]}],
        recipe={"name": HOSTILE[0], HOSTILE[1]: HOSTILE[2]},
        files={HOSTILE[0]: 1},
    )
    page = Page(text)
    plain = Page(page_of(some_details(files=["x.jpg"] * 6)))
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements}
    allowed = {"src", "alt", "class", "style", "title", "lang", "charset", "content", "name"}
    for tag, attributes in page.elements:
        assert set(attributes) <= allowed | {"http-equiv"}, tag
        assert not any(name.startswith("on") for name in attributes)
        if "src" in attributes:
            assert attributes["src"].startswith(("data:image/svg+xml;", "data:image/jpeg;"))
    for name in HOSTILE:
        assert name in page.text
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import|https?://", re.sub(r"base64,[^\"]*", "", text))


@pytest.fixture
def finished(tmp_path, model_files):
    """A run's folder before its page is written, the data and the held-out images."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(model_files["keras"], folder / "model.keras")
    shutil.copytree(model_files["saved_model"], folder / "saved_model")
    shutil.copy(model_files["float32"], folder / "model_float32.tflite")
    shutil.copy(model_files["int8"], folder / "model_int8.tflite")
    with (folder / "history.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(a_history()[0]))
        writer.writeheader()
        writer.writerows(a_history())
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (10, 64, 64, 3), np.uint8)
    labels = np.arange(10) % 3
    files = []
    for index, image in enumerate(pixels):
        path = tmp_path / f"{index}.png"
        Image.fromarray(image).save(path)
        files.append(ImageFile(path, int(labels[index]), 1, 64, 64))
    train = ArrayExamples(pixels, labels)
    data = Dataset("p", "folder:p", ("chat", "犬", "лиса"), train, FileExamples(files), 1.0, False)
    names = ("model.keras", "saved_model", "model_float32.tflite", "model_int8.tflite")
    report = a_report(files=dict.fromkeys(names, 1e6), test_images=10)
    return folder, report, data, (pixels, labels)


def test_the_files_of_a_run_are_timed_and_asked(finished, capfd):
    folder, report, data, held_out = finished
    report_page.write_report(*finished)
    assert capfd.readouterr().err == ""
    text = (folder / "report.html").read_text(encoding="utf-8")
    rows = {row[0]: row for row in cells(text) if len(row) == 7}
    assert set(rows) == set(report["files"])
    assert all(float(row[-1].removesuffix(" ms")) > 0 for row in rows.values())
    predicted = ke.Predictor(folder / "model_float32.tflite").scores(held_out[0]).argmax(1)
    wrong = {f"{index}.png" for index in np.flatnonzero(predicted != held_out[1])}
    assert set(re.findall(r"<small.*?>(.*?)</small>", text)) == wrong
    assert wrong
    for name in data.class_names:
        assert name in text


def test_fewer_images_are_looked_at_where_there_is_no_time(finished):
    folder, _, data, held_out = finished
    file = folder / report_page.DETAILS_FROM
    details = report_page._details(file, data, held_out, 1000 * report_page.DETAILS_SECONDS / 4)
    assert [name.rpartition("/")[2] for name in details.names] == [
        f"{index}.png" for index in (0, 3, 6, 9)
    ]
    np.testing.assert_array_equal(details.images, held_out[0][[0, 3, 6, 9]])
    assert "From 4 of the 6 held-out images" in page_of(details)


def test_a_file_that_could_not_be_made_is_told(finished):
    folder, report, data, held_out = finished
    del report["files"]["model_float32.tflite"]
    report |= {"failed": {"tflite_float32": "no <b> room"}, "warnings": ["few images"]}
    report_page.write_report(folder, report, data, held_out)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "<p>tflite_float32 could not be made: no &lt;b&gt; room</p><p>few images</p>" in text
    assert "From model.keras, the worst class first." in text


def test_a_page_that_fails_costs_nothing(finished, capsys):
    folder, *_ = finished
    (folder / "history.csv").unlink()
    report_page.write_report(*finished)
    assert "report.html could not be written: " in capsys.readouterr().err
    assert not (folder / "report.html").exists()
    assert (folder / "model.keras").exists()


def chromium(path, tmp_path, *options):
    result = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-quic", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--hide-scrollbars"),
            *("--window-size=1000,3000", *options, path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return result.stdout


def colour(code):
    return np.array([int(code[start : start + 2], 16) for start in (1, 3, 5)])


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(("theme", "setting"), [("light", 1), ("dark", 0)])
def test_a_browser_shows_it_in_light_and_dark(theme, setting, tmp_path):
    path = tmp_path / "report.html"
    names = (*HOSTILE[:2], "fox")
    path.write_text(page_of(some_details(names)), encoding="utf-8")
    shot = tmp_path / "shot.png"
    scheme = f"--blink-settings=preferredColorScheme={setting}"
    chromium(path, tmp_path, scheme, f"--screenshot={shot}")
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    colours = ke.plots.THEMES[theme]

    def share(code, within=slice(None)):
        return (np.abs(pixels[within] - colour(code)).max(-1) <= 3).mean()

    assert share(colours.surface) > 0.6
    # The pictures, which are images inside the page, follow it: curves and matrix.
    for code in (colours.series[0], colours.series[1], colours.grid):
        assert share(code) > 1e-4
    other = ke.plots.THEMES["dark" if theme == "light" else "light"]
    assert share(other.surface) < 0.05
    if theme == "light":
        page = Page(chromium(path, tmp_path, scheme, "--dump-dom"))
        assert [tag for tag, _ in page.elements].count("title") == 1
        assert "EfficientNet-B0 on folder:photos" in page.text
        assert "script" not in {tag for tag, _ in page.elements}
