"""The page at the end of a run: right figures, no foreign markup, and readable in a browser."""

import dataclasses
import html.parser
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import keras_efficientnet as ke
from keras_efficientnet.data.dataset import (
    ArrayExamples,
    Dataset,
    FileExamples,
    ImageFile,
    LeftOut,
)
from keras_efficientnet.deploy.export_report import (
    ExportedFile,
    ExportReport,
    FailedFile,
    FloatPart,
    Int8Report,
)
from keras_efficientnet.report import (
    RunReport,
    RunSettings,
    read_report,
    render,
    summarize_scores,
)

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


SETTINGS = RunSettings(
    variant="B0",
    data="folder:photos",
    train_images=1437,
    image_size=64,
    train_image_size=64,
    seed=0,
    weights=None,
    recipe={"name": "small", "epochs": 3, "augmentation": {"policy": "none"}},
    precision="float32",
    accumulation=1,
    class_weights=False,
)
EXPORT = ExportReport(
    directory="saved_models/photos-b0",
    files=(
        ExportedFile("model.keras", "keras", "float32", 16_000_000, 1.0, 0.0, 0.625),
        ExportedFile(
            *("model_float32.tflite", "tflite", "float32", 16_100_000, 1.0, 1e-6, 0.625, 6.5),
            operators={"CONV_2D": 50},
        ),
        ExportedFile(
            *("model_int8.tflite", "tflite", "int8", 4_900_000, 0.75, 0.25, 0.5, 3.25),
            int8=Int8Report(0.9, 0.98, 32, 21.5, float_parts=(FloatPart("top", 2, 1.5, 99, 1.1),)),
        ),
    ),
    failed=(),
    images=6,
    compared_on="held-out images",
    source_accuracy=0.625,
    preprocessing="inside the graph",
)


def some_data(names=("cat", "dog", "fox"), files=()):
    """A data set of six held-out images, which are files if there are names for them."""
    labels = np.array([0, 0, 1, 1, 2, 2])
    pixels = 40 * (
        np.zeros((6, 64, 64, 3), np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None]
    )
    test = ArrayExamples(pixels, labels)
    if files:
        test = FileExamples(
            [
                ImageFile(Path(file), label, 1, 64, 64)
                for file, label in zip(files, labels, strict=True)
            ]
        )
    left_out = (LeftOut("odd/name.jpg", "truncated"),)
    return Dataset(
        "photos", "folder:photos", tuple(names), ArrayExamples(pixels, labels), test, 1.0, False,
        left_out=left_out,
    )  # fmt: skip


# Three of the six images are wrong: image 4 is the worst mistake, then 1, then 3.
SCORES = np.array(
    [[0.9, 0.1, 0], [0.2, 0.8, 0], [0.1, 0.9, 0], [0.5, 0.4, 0.1], [0, 0.99, 0.01], [0, 0, 1]]
)


def a_report(dataset=None, scores=SCORES, **changes):
    dataset = dataset or some_data()
    found = summarize_scores(scores, dataset.test.labels, dataset, file="model_float32.tflite")
    report = RunReport(
        settings=SETTINGS,
        data=dataset.summary,
        parameters=4_020_358,
        seconds=61.0,
        machine="a processor",
        export=EXPORT,
        evaluation=found,
    )
    return dataclasses.replace(report, **changes)


def evaluation_of(report):
    assert report.evaluation
    return report.evaluation


def a_history(epochs=3):
    return [
        {"epoch": epoch, "stage": "train", "loss": 1 / epoch, "val_loss": 1.2 / epoch,
         "accuracy": epoch / 4, "val_accuracy": epoch / 5, "learning_rate": 0.01 / epoch}
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip


def page_of(report):
    images = [np.zeros((64, 64, 3), np.uint8)] * len(evaluation_of(report).mistakes)
    return render(report, a_history(), images)


def cells(text):
    """The texts of the cells of every table row."""
    return [
        [re.sub("<.*?>", "", cell).replace("\N{NO-BREAK SPACE}", " ") for cell in found]
        for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
        if (found := re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL))
    ]


def test_the_json_gives_the_report_back(tmp_path):
    undecodable = os.fsdecode(b"/photos/\xff.jpg")
    report = a_report(some_data(files=[undecodable] * 6))
    report.write(tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == report
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (content["version"], content["data"]["images"]["test"]) == (2, 6)
    assert content["export"]["files"][2]["int8"]["float_parts"][0]["part"] == "top"
    assert content["evaluation"]["mistakes"][0]["path"] == undecodable
    no_evaluation = a_report(evaluation=None)
    no_evaluation.write(tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == no_evaluation


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1}', '{"version": 2}', "\0"])
def test_what_is_no_report_is_refused(tmp_path, content):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(ke.InputError, match="is not a run's report of version 2"):
        read_report(tmp_path / "report.json")


def test_the_page_begins_with_what_was_read():
    dataset = dataclasses.replace(some_data(), notes=("3 images are copies.",))
    page = Page(page_of(a_report(dataset))).text
    first, second = page.index("3 images are copies."), page.index("odd/name.jpg")
    assert page.index("Left out: 1 files and folders") < second < page.index("Learning curves")
    assert page.index(f"{dataset.source}: {dataset.split}.") < first < second
    assert ["fox", "2", "2"] in cells(page_of(a_report(dataset)))


def test_every_file_has_its_accuracy_fidelity_size_and_latency():
    rows = cells(page_of(a_report()))
    assert ["model.keras", "more training", "62.5 %", "100.0 %", "0.0e+00", "16.0 MB", "-"] in rows
    assert [
        *("model_int8.tflite", "phones", "50.0 %", "75.0 %", "2.5e-01", "4.9 MB", "3.25 ms"),
    ] in rows
    assert ["recipe.augmentation.policy", "none"] in rows
    assert ["odd/name.jpg", "truncated"] in rows


def test_classes_and_confusions_are_counted():
    report = a_report()
    assert evaluation_of(report).matrix == ((1, 1, 0), (1, 1, 0), (0, 1, 1))
    rows = cells(page_of(report))
    # images, recall, precision
    assert ["cat", "2", "50.0 %", "50.0 %", ""] in rows
    assert ["dog", "2", "50.0 %", "33.3 %", ""] in rows
    assert ["fox", "2", "50.0 %", "100.0 %", ""] in rows
    confused = [row for row in rows if len(row) == 3 and not row[1].isdecimal()]
    assert sorted(confused) == [["cat", "dog", "1"], ["dog", "cat", "1"], ["fox", "dog", "1"]]


def test_many_classes_have_no_matrix():
    names = [f"class {index}" for index in range(61)]
    report = a_report(some_data(names), np.eye(6, 61))
    assert evaluation_of(report).matrix is None
    assert 'alt="Confusion matrix"' not in page_of(report)


def test_the_worst_mistakes_come_first():
    report = a_report(some_data(files=[f"/photos/{index}.jpg" for index in range(6)]))
    assert [
        (each.index, each.label, each.taken_for) for each in evaluation_of(report).mistakes
    ] == [
        (4, "fox", "dog"),
        (1, "cat", "dog"),
        (3, "dog", "cat"),
    ]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page_of(report), re.DOTALL)
    plain = [re.sub("<.*?>", " ", caption).split() for caption in captions]
    assert [(words[0], words[3].rstrip(","), words[-1]) for words in plain] == [
        ("fox", "dog", "4.jpg"),
        ("cat", "dog", "1.jpg"),
        ("dog", "cat", "3.jpg"),
    ]


def test_a_page_says_of_how_few_images_it_speaks():
    found = evaluation_of(a_report())
    few = dataclasses.replace(found, result=dataclasses.replace(found.result, images=4))
    assert "From 4 of the 6 held-out images." in page_of(a_report(evaluation=few))
    assert "of the 6 held-out images." not in page_of(a_report())


def test_a_run_without_mistakes_says_so():
    text = page_of(a_report(scores=np.eye(3)[[0, 0, 1, 1, 2, 2]]))
    assert re.search(r"<h2>Mistakes</h2>\s*<p>None.</p>", text)


def test_a_file_that_could_not_be_made_is_named():
    export = dataclasses.replace(
        EXPORT,
        failed=(FailedFile("model_int8.tflite", "no <b> room"),),
        warnings=("few images",),
    )
    text = page_of(a_report(export=export))
    assert "<p>model_int8.tflite could not be made: no &lt;b&gt; room</p>" in text
    assert "<p>few images</p>" in text
    assert "From model_float32.tflite, the worst class first." in text


def test_an_evaluation_that_failed_leaves_the_rest():
    text = render(a_report(evaluation=None), a_history())
    assert "<h2>Files</h2>" in text
    assert "<h2>Classes</h2>" not in text


def test_names_cannot_become_markup():
    files = [f"/photos/{name}.jpg" for name in HOSTILE * 2]
    file = dataclasses.replace(EXPORT.files[0], name=HOSTILE[0])
    data = dataclasses.replace(some_data(HOSTILE, files), left_out=(LeftOut(*HOSTILE[:2]),))
    recipe = {"name": HOSTILE[0], "epochs": 3, HOSTILE[1]: HOSTILE[2]}
    text = page_of(
        a_report(
            data,
            settings=dataclasses.replace(SETTINGS, data=f"folder:{HOSTILE[1]}", recipe=recipe),
            export=dataclasses.replace(EXPORT, files=(file,), warnings=(HOSTILE[0],)),
            machine=HOSTILE[1],
        )
    )
    page = Page(text)
    plain = Page(page_of(a_report(some_data(files=["x.jpg"] * 6))))
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
    path.write_text(page_of(a_report(some_data(names))), encoding="utf-8")
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
