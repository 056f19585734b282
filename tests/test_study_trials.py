import csv
import dataclasses
import json

import numpy as np
import pytest
from filelock import FileLock

import keras_efficientnet as ke
from keras_efficientnet import study
from keras_efficientnet.cli import group
from keras_efficientnet.data.dataset import ArrayExamples, Dataset
from keras_efficientnet.study import scale_network, trials
from keras_efficientnet.study.scalable_networks import TINY, network_cost
from keras_efficientnet.training import plan_stages, recipe

# The fewest blocks and channels with every stage.
SMALLEST = scale_network(TINY, depth=0.1, width=0.1)


@pytest.fixture(scope="module")
def data():
    """Two classes told apart by their brightness."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    pixels = (60 + 120 * labels[:, None, None, None] + rng.integers(0, 40, (40, 32, 32, 3))).astype(
        np.uint8
    )
    train, test = ArrayExamples(pixels[:24], labels[:24]), ArrayExamples(pixels[24:], labels[24:])
    return Dataset("brightness", "brightness", ("dark", "light"), train, test, 1.0, True)


@pytest.fixture
def plan(data, tmp_path):
    chosen = recipe("small", epochs=8, batch_size=8, batch_norm_momentum=0.5)
    return study.Plan(data, chosen, tmp_path / "results.csv", seeds=1)


@pytest.fixture
def canned(monkeypatch):
    """Accuracies by trial and seed in place of training; returns what was trained."""
    trained = []

    def can(accuracies):
        def train(trial, plan, seed):
            trained.append((trial.name, seed))
            figures = dict.fromkeys(trials.COLUMNS, 0) | {"trial": trial.name, "seed": seed}
            return figures | {"accuracy": accuracies[trial.name][seed], "seconds": 2.0}

        monkeypatch.setattr(trials, "train_once", train)
        return trained

    return can


def test_a_network_is_trained_once_and_its_result_kept(plan, monkeypatch):
    wider = scale_network(SMALLEST, width=1.001)  # rounds to the same
    asked = [study.Trial("one", SMALLEST), study.Trial("two", wider)]
    (row, same) = study.run_trials(asked, plan)
    assert row["accuracy"] > 0.8
    assert {**same, "trial": "one"} == row
    assert (row["train_images"], row["test_images"], row["epochs"]) == (24, 16, 8)
    assert row["multiply_adds"] == network_cost(SMALLEST, 2).multiply_adds
    (kept,) = trials.read_results(plan.results)
    assert kept == row
    assert [path.name for path in plan.results.parent.iterdir()] == ["results.csv"]

    def refuse(*_, **__):
        raise AssertionError("It was trained already.")

    monkeypatch.setattr(trials, "train_once", refuse)
    assert study.run_trials(asked, plan) == [row, same]
    # Whatever decides a result makes another one.
    longer = dataclasses.replace(plan, recipe=recipe("small", epochs=9, batch_size=8))
    with pytest.raises(AssertionError, match="trained already"):
        study.run_trials(asked, longer)
    assert trials.read_results(plan.results) == [kept]


def test_an_interrupted_study_continues_where_it_was(plan, canned):
    plan = dataclasses.replace(plan, seeds=2)
    wide = scale_network(SMALLEST, width=8)
    asked = [study.Trial("a", SMALLEST), study.Trial("b", wide)]
    trained = canned({"a": [0.1, 0.2], "b": [0.3]})  # the last one fails
    with pytest.raises(IndexError):
        study.run_trials(asked, plan)
    assert [row["accuracy"] for row in trials.read_results(plan.results)] == [0.1, 0.3, 0.2]
    trained.clear()
    canned({"a": [], "b": [0.0, 0.4]})
    rows = study.run_trials(asked, plan)
    assert trained == [("b", 1)]
    assert [(r["trial"], r["seed"], r["accuracy"]) for r in rows] == [
        ("a", 0, 0.1),
        ("b", 0, 0.3),
        ("a", 1, 0.2),
        ("b", 1, 0.4),
    ]


def test_summaries_and_differences():
    rows = [
        {"trial": "a", "seed": seed, "accuracy": value, "seconds": 1.0 + seed}
        for seed, value in ((1, 0.6), (0, 0.5), (2, 0.7))
    ]
    total = study.summarize_trial(rows, "a")
    assert total["accuracies"] == [0.5, 0.6, 0.7]
    assert (total["accuracy"], total["spread"], total["seconds"]) == pytest.approx((0.6, 0.1, 2.0))
    other = study.summarize_trial([{**row, "accuracy": 0.4} for row in rows], "a")
    gain = study.accuracy_difference(total, other)
    assert gain["differences"] == pytest.approx([0.1, 0.2, 0.3])
    assert (gain["mean"], gain["standard_error"]) == pytest.approx((0.2, 0.1 / 3**0.5))
    single = study.summarize_trial(rows[:1], "a")
    assert single["spread"] is study.accuracy_difference(single, single)["standard_error"] is None


def test_a_batch_is_no_larger_than_the_data_set(plan, canned, monkeypatch):
    canned({"a": [0.5]})
    train, sizes = trials.train_once, []

    def spy(trial, plan, seed):
        sizes.append(trial.recipe.batch_size)
        return train(trial, plan, seed)

    monkeypatch.setattr(trials, "train_once", spy)
    plan = dataclasses.replace(plan, recipe=recipe("small", epochs=1, batch_size=4096))
    study.run_trials([study.Trial("a", SMALLEST)], plan)
    assert sizes == [24]


def test_compound_is_compared_with_the_best_single_dimension(plan, canned):
    plan = dataclasses.replace(plan, seeds=2)
    canned(
        {
            "base": [0.1, 0.1],
            "depth": [0.2, 0.3],
            "width": [0.6, 0.4],
            "resolution": [0.4, 0.4],
            "compound": [0.7, 0.3],
        }
    )
    document = study.compare_scaling(study.scaled_networks("tiny", 3, classes=2), plan)
    verdict = document["verdict"]
    assert verdict["best_single"] == "width"
    assert verdict["differences"] == pytest.approx([0.1, -0.1])
    assert [row["accuracy"] for row in document["rows"]] == pytest.approx(
        [0.1, 0.25, 0.5, 0.4, 0.5]
    )


def test_candidates_are_ranked_and_the_cheaper_of_equals_comes_first(plan, canned):
    rows = [
        {"alpha": alpha, "beta": 1.0, "gamma": gamma, "multiply_adds": cost}
        for alpha, gamma, cost in ((2.0, 1.0, 9), (1.0, 1.4, 5), (4.0, 1.0, 1))
    ]
    canned({"2, 1, 1": [0.5], "1, 1, 1.4": [0.5], "4, 1, 1": [0.4]})
    ranked = study.search_coefficients("tiny", rows, plan)
    assert [(row["rank"], row["alpha"]) for row in ranked] == [(1, 1.0), (2, 2.0), (3, 4.0)]
    assert ranked[0]["spread"] is None


def test_an_ablation_changes_one_thing_at_a_time(plan, canned, monkeypatch):
    asked = {}
    run = trials.run_trials

    def spy(wanted, plan):
        asked.update({trial.name: trial for trial in wanted})
        return run(wanted, plan)

    monkeypatch.setattr("keras_efficientnet.study.ablation.run_trials", spy)
    canned({"base": [0.5], **{name: [0.4] for name in study.ABLATIONS}})
    rows = study.ablate("tiny", plan)
    assert [row["name"] for row in rows] == ["base", *study.ABLATIONS]
    assert "against_base" not in rows[0]
    assert all(row["against_base"]["mean"] == pytest.approx(-0.1) for row in rows[1:])
    assert rows[1]["trainable"] < rows[0]["trainable"] == rows[2]["trainable"]

    base = asked["base"]
    assert not any(b.se_filters for b in ke.scaling.expand_blocks(asked["se"].network))
    assert asked["swish"].network == dataclasses.replace(base.network, activation="relu")
    depth = asked["stochastic-depth"]
    assert (depth.network, depth.recipe.drop_connect_rate) == (base.network, 0)
    growing = asked["progressive"]
    assert dataclasses.replace(growing.recipe, progressive=None) == base.recipe
    stages = plan_stages(growing.recipe, 48)
    assert [stage.image_size for stage in stages] == [32, 40, 48]
    assert {(s.dropout_rate, s.augmentation) for s in stages} == {(0.2, base.recipe.augmentation)}


@pytest.mark.slow
def test_progressive_and_changed_networks_really_train(plan):
    plan = dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, epochs=3))
    rows = study.ablate(dataclasses.replace(SMALLEST, resolution=48), plan, ["progressive"])
    assert [row["name"] for row in rows] == ["base", "progressive"]
    assert all(0 <= row["accuracy"] <= 1 and row["seconds"] > 0 for row in rows)


def test_peers_train_too(plan):
    resnet = scale_network(study.get_network("ResNet50"), depth=0.1, width=0.1, resolution=0.1)
    (row,) = study.run_trials([study.Trial("r", resnet)], plan)
    assert row["accuracy"] > 0.8


def test_some_images_of_every_class(data):
    smaller = study.subset(data, 8, 5)
    assert list(smaller.train.labels) == [0, 1] * 4
    assert len(smaller.test) == 4
    assert study.subset(data, None, 1000).test is data.test
    with pytest.raises(ke.InputError, match="1 images are too few for 2 classes"):
        study.subset(data, 1, None)
    stream = dataclasses.replace(data, source="tfds:x", train=list(range(9)))
    with pytest.raises(ke.InputError, match="--train-split"):
        study.subset(stream, 4, None)


def test_wrong_plans_and_files_are_refused(plan, data):
    trial = [study.Trial("a", SMALLEST)]
    with pytest.raises(ke.InputError, match="seeds=0"):
        dataclasses.replace(plan, seeds=0)
    with pytest.raises(ke.InputError, match="from scratch"):
        study.Plan(data, recipe("finetune"), plan.results)
    for content in ("a,b\n1,2\n", ",".join(trials.COLUMNS) + "\nx\n", "\0"):
        plan.results.write_text(content)
        with pytest.raises(ke.InputError, match="not a file of study results"):
            study.run_trials(trial, plan)
        assert plan.results.read_text() == content
    plan.results.unlink()
    with (
        FileLock(plan.results.with_name(".results.csv.lock")),
        pytest.raises(ke.InputError, match="Another study is writing"),
    ):
        study.run_trials(trial, plan)
    with pytest.raises(ke.InputError, match="Unknown ablation 'se2'; choose se, swish"):
        study.ablate("tiny", plan, ["se2"])
    with pytest.raises(ke.InputError, match="ResNet50 has none"):
        study.ablate("ResNet50", plan)


def run_scale(capsys, *arguments):
    group.main(["scale", *map(str, arguments)], standalone_mode=False)
    return capsys.readouterr().out


def test_the_commands_train_and_print(capsys, canned, tmp_path):
    dimensions = ("base", "depth", "width", "resolution", "compound")
    every = {name: [0.5, 0.7] for name in dimensions}
    canned({**every, "se": [0.4, 0.4]})
    results, table = tmp_path / "results.csv", tmp_path / "rows.csv"
    small = ("--small", "--output", results)
    drawn = ("--plot", tmp_path / "scaling.svg")
    document = json.loads(run_scale(capsys, "compare", *small, "--json", "--csv", table, *drawn))
    assert "compound" in (tmp_path / "scaling.svg").read_text(encoding="utf-8")
    assert [row["accuracies"] for row in document["rows"]] == [[0.5, 0.7]] * 5
    assert document["base"] == "tiny"
    with table.open(newline="", encoding="utf-8") as file:
        assert [row["dimension"] for row in csv.DictReader(file)][-1] == "compound"
    text = run_scale(capsys, "ablate", *small, "--only", "se", "--csv", table)
    with table.open(newline="", encoding="utf-8") as file:
        change = list(csv.DictReader(file))[1]
    assert (change["accuracies"], change["against_base_differences"][:4]) == ("0.4 0.4", "-0.0")
    assert "without SE" in text
    assert "-20.0 ± 10.0 points" in text
    assert "1,437 training and 360 held-out images of digits, 3 epochs, 2 seeds" in text
    # The unchanged network's results came from the file.
    names = [row["trial"] for row in trials.read_results(results)]
    assert names.count("base") == 2
    with pytest.raises(Exception, match="ablate needs --data or --small"):
        group.main(["scale", "ablate"], standalone_mode=False)


def test_examples_in_the_help_keep_their_lines(capsys):
    with pytest.raises(SystemExit):
        group.main(["scale", "compare", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert "    keras-efficientnet scale compare --small" in lines
    with pytest.raises(SystemExit):
        group.main(["scale", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in ("table", "phi", "compare", "search", "ablate"))


def test_a_search_ends_with_what_to_do_next(capsys, canned, tmp_path):
    rows = study.search_candidates("tiny", study.Constraint(step=0.5), 10)
    names = ["{alpha:g}, {beta:g}, {gamma:g}".format(**row) for row in rows]
    canned({name: [0.1 + 0.1 * index, 0.2] for index, name in enumerate(names)})
    picture = tmp_path / "ranking.svg"
    options = ("--small", "--step", 0.5, "--output", tmp_path / "r.csv", "--plot", picture)
    text = run_scale(capsys, "search", *options)
    best = rows[-1]
    assert f"scale phi 2 --alpha {best['alpha']:g} --beta {best['beta']:g}" in text
    assert "growth of width" in picture.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--plot", "p.svg"], "--plot draws accuracies, and needs --data or --small"),
        (["--small", "--plot", "p.gif"], r"--plot 'p.gif' must end in .svg, .png, .pdf"),
    ],
)
@pytest.mark.parametrize("command", ["compare", "search"])
def test_a_picture_is_refused_before_the_training(command, arguments, complaint):
    with pytest.raises(Exception, match=complaint):
        group.main(["scale", command, *arguments], standalone_mode=False)
