"""`keras-efficientnet scale`: the paper's experiments."""

import csv
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import click

from keras_efficientnet.cli.common import (
    DATA_HELP,
    count,
    data_options,
    import_tensorflow,
    json_option,
    narrow_table,
    percent,
    print_json,
    print_table,
    setting,
)
from keras_efficientnet.cli.plot import SUFFIXES, check_suffix, write_picture

# What --small stands for: minutes on two cores. The recipe takes few, large steps.
SMALL_BASE = "tiny"
SMALL_DATA = "digits"
SMALL_SEEDS = 2
SMALL_RECIPE = {
    "epochs": 3,
    "batch_size": 32,
    "base_learning_rate": 0.024,
    "batch_norm_momentum": 0.9,
}


@click.group()
def scale() -> None:
    """Compound scaling to try out: the paper's tables, searches and ablations."""


base_option = click.option(
    "--base",
    help="Network to scale: a variant, MobileNetV1, MobileNetV2, ResNet50, or tiny, a B0 for "
    "images of 32 px. [default: B0, with --small tiny]",
)
csv_option = click.option(
    "--csv", "csv_file", type=click.Path(path_type=Path), help="Write the rows to this file too."
)
plot_option = click.option(
    "--plot",
    "picture",
    type=click.Path(path_type=Path),
    help=f"Draw the accuracies to this file too: {', '.join(SUFFIXES)}.",
)


def growth_options(command: Callable) -> Callable:
    """Adds `--alpha`, `--beta` and `--gamma`, the paper's if not given."""
    from keras_efficientnet import scaling

    for name, default, what in (
        ("gamma", scaling.GAMMA, "resolution"),
        ("beta", scaling.BETA, "width"),
        ("alpha", scaling.ALPHA, "depth"),
    ):
        command = click.option(
            f"--{name}",
            type=float,
            default=default,
            show_default=True,
            help=f"Growth of {what} for one unit of phi.",
        )(command)
    return command


def plan_options(command: Callable) -> Callable:
    """Adds what is trained on and how, as one argument `make_plan`, None without data."""

    @data_options("--data", f"{DATA_HELP} Without it nothing is trained.")
    @click.option("--recipe", "recipe_name", default="small", show_default=True)
    @click.option("--epochs", type=int, help="[default: the recipe's]")
    @click.option("--batch-size", type=int, help="[default: the recipe's]")
    @click.option(
        "--set",
        "settings",
        metavar="NAME=VALUE",
        multiple=True,
        help="Any other value of the recipe, such as dropout_rate=0; repeatable.",
    )
    @click.option("--seeds", type=int, help="Trainings of each network. [default: 3]")
    @click.option("--train-images", type=int, help="Learn from so many only, the same of a class.")
    @click.option("--test-images", type=int, help="Judge by so many only.")
    @click.option("--precision", default="float32", show_default=True)
    @click.option("--devices", type=int, help="Devices that share each batch. [default: all GPUs]")
    @click.option(
        "--output",
        type=click.Path(path_type=Path),
        help="CSV file that keeps each result as it comes; what is in it is not trained again. "
        "[default: saved_models/study-DATA.csv]",
    )
    @click.option("--overwrite", is_flag=True, help="Forget what is in the output.")
    @click.option(
        "--small",
        is_flag=True,
        help="Minutes on two cores: the tiny network, digits, few epochs, two seeds.",
    )
    @wraps(command)
    def with_plan(load_data, small, base, **options):
        from keras_efficientnet.study import scalable_networks

        names = ("recipe_name", "epochs", "batch_size", "settings", "seeds", "train_images")
        names += ("test_images", "precision", "devices", "output", "overwrite")
        asked = {name: options.pop(name) for name in names} | {"small": small}
        base = base or (SMALL_BASE if small else "B0")
        scalable_networks.get_network(base)  # what is wrong shows before TensorFlow is loaded
        make_plan = (lambda: _plan(load_data, asked)) if load_data or small else None
        return command(base=base, make_plan=make_plan, **options)

    return with_plan


def _plan(load_data: Callable | None, asked: dict[str, Any]):
    """Makes of the options of `plan_options` a `study.Plan`."""
    overrides: dict[str, Any] = dict(SMALL_RECIPE) if asked["small"] else {}
    overrides |= {n: asked[n] for n in ("epochs", "batch_size") if asked[n] is not None}
    overrides |= dict(setting(text) for text in asked["settings"])
    import_tensorflow()
    from keras_efficientnet import data as sources
    from keras_efficientnet.run import OUTPUT_ROOT
    from keras_efficientnet.study import Plan, subset
    from keras_efficientnet.training import RunConfig, recipe

    chosen = recipe(asked["recipe_name"], **overrides)
    run_config = RunConfig(precision=asked["precision"], devices=asked["devices"])
    data = load_data() if load_data else sources.load(SMALL_DATA)
    data = subset(data, asked["train_images"], asked["test_images"])
    # A set smaller than a batch would give no step at all.
    chosen = replace(chosen, batch_size=min(chosen.batch_size, len(data.train)))
    output = asked["output"] or OUTPUT_ROOT / f"study-{data.name}.csv"
    seeds = asked["seeds"]
    if seeds is None:
        seeds = SMALL_SEEDS if asked["small"] else Plan.seeds
    plan = Plan(data, chosen, output, seeds, run_config)
    if asked["overwrite"]:
        output.unlink(missing_ok=True)
    return plan


@scale.command("table")
@click.option("--family", default="V1", show_default=True, help="V1, Lite, EdgeTPU or V2.")
@csv_option
@json_option
def family_table(family, csv_file, as_json):
    """Show a family as its papers print it and as it is computed."""
    from keras_efficientnet.study.family import family_table as run

    rows = run(family)
    if _written(rows, csv_file, as_json, rows):
        return
    shown = narrow_table(
        *("", "width", "depth", "px", "blocks", "params", "paper\nM", "MACs", "paper\nG", "top-1 %")
    )
    for row in rows:
        shown.add_row(
            row["variant"],
            f"{row['width']:g}",
            f"{row['depth']:g}",
            str(row["resolution"]),
            str(row["blocks"]),
            count(row["trainable"]),
            _printed(row["paper_parameters"], 1e6, row["parameters_agree"]),
            count(row["multiply_adds"]),
            _printed(row["paper_multiply_adds"], 1e9, row["multiply_adds_agree"]),
            " / ".join(f"{value:.1f}" for value in row["top1"].values()) or "-",
        )
    print_table(shown)
    click.echo("* The computed figure does not round to the printed one.")
    print_sources(rows)


def print_sources(rows: list[dict[str, Any]]) -> None:
    """Says where the accuracies of a table come from, in the order they stand in."""
    by_sources: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        name = row.get("variant") or row["network"]
        by_sources.setdefault(tuple(row["top1"]), []).append(name)
    for sources, names in by_sources.items():
        if sources:
            click.echo(f"Top-1 of {', '.join(names)}: {' / '.join(sources)}.")


def _printed(value: float | None, unit: float, agrees: bool | None) -> str:
    return "-" if value is None else f"{value / unit:g}{'' if agrees else '*'}"


@scale.command()
@click.argument("phi", type=float)
@growth_options
@click.option("--base", default="B0", show_default=True, help="Variant to scale.")
@json_option
def phi(phi, alpha, beta, gamma, base, as_json):
    """Say what the compound coefficient PHI makes of a network."""
    from keras_efficientnet.study.family import compound_scaling, released_phi

    result = compound_scaling(phi, alpha, beta, gamma, base)
    released = released_phi(alpha, beta, gamma)
    if as_json:
        print_json({**result, "released": released})
        return
    click.echo(
        f"depth x{result['depth']:.3f}, width x{result['width']:.3f}, "
        f"resolution x{result['resolution']:.3f}\n"
        f"EfficientNet-{result['base']} becomes {result['image_size']} px, "
        f"{result['blocks']} blocks, {result['trainable']:,} trainable parameters, "
        f"{result['multiply_adds'] / 1e9:.3f} G multiply-adds\n"
        f"multiply-adds x{result['ratio']:.2f}; x{result['predicted_ratio']:.2f} before rounding\n"
        f"alpha * beta^2 * gamma^2 = {result['constraint']:.4f}, "
        f"{result['from_two']:+.4f} from 2\n\n"
        "The released variants are hand-picked and follow no single phi. Fitted to each\n"
        "dimension with these growths:"
    )
    shown = narrow_table("", "depth", "width", "resolution")
    for row in released:
        fitted = (row[name] for name in ("depth", "width", "resolution"))
        shown.add_row(row["variant"], *("-" if v is None else f"{v:.2f}" for v in fitted))
    print_table(shown)


@scale.command()
@base_option
@click.option(
    "--ratio", type=float, default=4.0, show_default=True, help="Multiply-adds over the base's."
)
@click.option(
    "--paper", is_flag=True, help="The multipliers of the paper's Table 7 (B0) or 3 instead."
)
@growth_options
@plan_options
@csv_option
@plot_option
@json_option
def compare(base, ratio, paper, alpha, beta, gamma, make_plan, csv_file, picture, as_json):
    r"""Compare single-dimension and compound scaling at equal multiply-adds.

    Finds the networks that cost the same by depth, width, resolution and all three, and with
    --data trains each by one recipe with several seeds.

    \b
    Examples:
      keras-efficientnet scale compare --base B0 --paper
      keras-efficientnet scale compare --small
      keras-efficientnet scale compare --base tiny --data folder:cifar10 --plot scaling.svg
    """
    from keras_efficientnet.study import comparison

    _check_picture(picture, make_plan)
    plan = make_plan() if make_plan else None
    classes = plan.classes if plan else 1000
    if paper:
        found = comparison.paper_networks(base)
    else:
        growths = {"alpha": alpha, "beta": beta, "gamma": gamma}
        found = comparison.scaled_networks(base, ratio, **growths, classes=classes)
    if plan:
        document: dict[str, Any] = comparison.compare_scaling(found, plan)
    else:
        document = {"rows": comparison.comparison_rows(found, classes)}
    rows = document["rows"]
    _draw(picture, "scaling_comparison", rows)
    if _written({"base": found["base"].name, **document}, csv_file, as_json, rows):
        return
    shown = narrow_table(
        *("", "depth", "width", "resol.", "px"),
        *(() if plan else ("blocks",)),
        *("params", "MACs", "ratio"),
        *(() if plan else ("paper\nG",)),
        "paper\ntop-1",
        *(("accuracy",) if plan else ()),
    )
    for row in rows:
        shown.add_row(
            row["dimension"],
            *(f"{row[name]:.2f}" for name in ("depth", "width", "resolution")),
            str(row["image_size"]),
            *(() if plan else (str(row["blocks"]),)),
            count(row["trainable"]),
            count(row["multiply_adds"]),
            f"{row['ratio']:.2f}",
            *(() if plan else (_printed(row["paper_multiply_adds"], 1e9, True),)),
            f"{row['paper_top1']:.1f}" if row["paper_top1"] else "-",
            *((_accuracy(row),) if plan else ()),
        )
    print_table(shown)
    click.echo(f"Paper: {rows[0]['paper_base']} on ImageNet.")
    if plan:
        verdict = document["verdict"]
        click.echo(f"Compound over {verdict['best_single']}: {_gain(verdict)}.")
        _print_plan(plan)


@scale.command()
@base_option
@click.option("--step", type=float, default=0.2, show_default=True, help="Of the grid.")
@click.option(
    "--ratio", type=float, default=2.0, show_default=True, help="Cost at phi = 1, of the base's."
)
@click.option(
    "--tolerance", type=float, default=0.05, show_default=True, help="Share of it to be off by."
)
@click.option(
    "--budget",
    default="product",
    show_default=True,
    help="What the cost is: product (alpha * beta^2 * gamma^2), multiply-adds, parameters, or "
    "latency of the exported file on this machine.",
)
@plan_options
@csv_option
@plot_option
@json_option
def search(base, step, ratio, tolerance, budget, make_plan, csv_file, picture, as_json):
    r"""Search alpha, beta and gamma on a grid, under a constraint on cost.

    Lists the candidates, scaled at phi = 1, and with --data trains and ranks them.

    \b
    Examples:
      keras-efficientnet scale search
      keras-efficientnet scale search --small --csv ranking.csv --plot ranking.svg
      keras-efficientnet scale search --base tiny --data folder:cifar10 --budget latency
    """
    from keras_efficientnet.study import search as study

    _check_picture(picture, make_plan)
    constraint = study.Constraint(budget, ratio, tolerance, step)
    plan = make_plan() if make_plan else None
    if budget == "latency":
        import_tensorflow()
    rows = study.search_candidates(base, constraint, plan.classes if plan else 1000)
    if plan:
        rows = study.search_coefficients(base, rows, plan)
    _draw(picture, "search_results", rows)
    if _written({"base": base, "budget": budget, "rows": rows}, csv_file, as_json, rows):
        return
    shown = narrow_table(
        *(("rank",) if plan else ()),
        *("alpha", "beta", "gamma", "product"),
        *((f"{budget}\nratio",) if budget != "product" else ()),
        *("px", "blocks", "params", "MACs", "MACs\nratio"),
        *(("accuracy",) if plan else ()),
    )
    for row in rows:
        shown.add_row(
            *((str(row["rank"]),) if plan else ()),
            *(f"{row[name]:g}" for name in ("alpha", "beta", "gamma")),
            f"{row['product']:.3f}",
            *((f"{row['budget_ratio']:.2f}",) if budget != "product" else ()),
            str(row["image_size"]),
            str(row["blocks"]),
            count(row["trainable"]),
            count(row["multiply_adds"]),
            f"{row['ratio']:.2f}",
            *((_accuracy(row),) if plan else ()),
        )
    print_table(shown)
    if plan:
        best = " ".join(f"--{name} {rows[0][name]:g}" for name in ("alpha", "beta", "gamma"))
        click.echo(f"To scale further by the best: keras-efficientnet scale phi 2 {best}")
        _print_plan(plan)


@scale.command()
@base_option
@click.option(
    "--only",
    multiple=True,
    help="se, swish, stochastic-depth or progressive; repeatable. [default: all]",
)
@plan_options
@csv_option
@json_option
def ablate(base, only, make_plan, csv_file, as_json):
    r"""Measure what squeeze-and-excitation, swish and the like are worth.

    Trains a network, and the same with one thing changed at a time, by one recipe with several
    seeds. --data or --small is needed.

    \b
    Examples:
      keras-efficientnet scale ablate --small
      keras-efficientnet scale ablate --base tiny --data folder:cifar10 --only se
    """
    if make_plan is None:
        raise click.UsageError("ablate needs --data or --small.")
    plan = make_plan()
    from keras_efficientnet.study import ablate as run

    rows = run(base, plan, only)
    if _written({"base": base, "rows": rows}, csv_file, as_json, rows):
        return
    shown = narrow_table(*("change", "params", "MACs", "accuracy", "against base", "time"))
    for row in rows:
        shown.add_row(
            row["change"],
            count(row["trainable"]),
            count(row["multiply_adds"]),
            _accuracy(row),
            _gain(row["against_base"]) if "against_base" in row else "",
            f"{row.get('time', 1):.2f}x",
        )
    print_table(shown)
    _print_plan(plan)


def _accuracy(row: dict[str, Any]) -> str:
    spread = f" ± {100 * row['spread']:.1f}" if row["spread"] is not None else ""
    return f"{100 * row['accuracy']:.1f}{spread} %"


def _gain(difference: dict[str, Any]) -> str:
    error = difference["standard_error"]
    spread = f" ± {100 * error:.1f}" if error is not None else ""
    return f"{100 * difference['mean']:+.1f}{spread} points"


def _print_plan(plan) -> None:
    click.echo(
        f"{len(plan.data.train):,} training and {len(plan.data.test):,} held-out images of "
        f"{plan.data.name}, {plan.recipe.epochs} epochs, {plan.seeds} "
        f"seed{'s' if plan.seeds > 1 else ''}; chance is {percent(1 / plan.classes)}. "
        f"Accuracy ± standard deviation over the seeds, differences ± standard error of the "
        f"mean, seed by seed. Results in {plan.results}."
    )


def _check_picture(picture: Path | None, make_plan: Callable | None) -> None:
    """Refuses, before anything is trained, a picture that could not be drawn after it."""
    if picture:
        check_suffix("--plot", picture)
        if make_plan is None:
            raise click.UsageError("--plot draws accuracies, and needs --data or --small.")


def _draw(picture: Path | None, function: str, rows: list[dict]) -> None:
    """Draws rows by a function of `plots`, if a picture is asked for."""
    if picture:
        from keras_efficientnet import plots
        from keras_efficientnet.files import atomic_write

        with atomic_write(picture, overwrite=True) as path:
            write_picture(path, lambda: getattr(plots, function)(rows))


def _written(document: Any, csv_file: Path | None, as_json: bool, rows: list[dict]) -> bool:
    """Writes the rows where they are wanted; whether no table is to be printed."""
    if csv_file:
        from keras_efficientnet.files import atomic_write

        flat = [_flat(row) for row in rows]
        columns = list(dict.fromkeys(name for row in flat for name in row))
        with (
            atomic_write(csv_file, overwrite=True) as whole,
            whole.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(flat)
    if as_json:
        print_json(document)
    return as_json


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Makes a row of single values: maps become several columns, lists are joined by blanks."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{name}_{inner}": v for inner, v in _flat(value).items()}
        else:
            flat[name] = " ".join(map(str, value)) if isinstance(value, list) else value
    return flat
