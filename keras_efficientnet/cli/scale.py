"""`keras-efficientnet scale`: the paper's experiments."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import click

from keras_efficientnet import scaling
from keras_efficientnet.cli.common import (
    DATA_HELP,
    PATH,
    data_options,
    import_tensorflow,
    json_option,
    print_json,
    setting,
)
from keras_efficientnet.cli.rows import (
    gain,
    output_options,
    plot_option,
    print_plan,
    print_rows,
    print_sources,
)
from keras_efficientnet.cli.train import grouped, recipe_options

# What --small stands for: minutes on two cores. The recipe takes few, large steps.
SMALL_BASE = "tiny"
SMALL_DATA = "digits"
SMALL_SEEDS = 2
SMALL_RECIPE = {
    "epochs": 3,
    "batch_size": 32,
    "learning_rate": 0.003,
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
growth_options = grouped(
    "growths",
    *(
        click.option(
            f"--{name}",
            type=float,
            default=default,
            show_default=True,
            help=f"Growth of {what} for one unit of phi.",
        )
        for name, default, what in (
            ("alpha", scaling.ALPHA, "depth"),
            ("beta", scaling.BETA, "width"),
            ("gamma", scaling.GAMMA, "resolution"),
        )
    ),
)
trials_options = grouped(
    "trials",
    click.option("--seeds", type=int, help="Trainings of each network. [default: 3]"),
    click.option("--train-images", type=int, help="Train on this many, equally many of a class."),
    click.option("--test-images", type=int, help="Evaluate on this many, likewise."),
    click.option("--precision", default="float32", show_default=True),
    click.option("--devices", type=int, help="Devices that share each batch. [default: all GPUs]"),
    click.option(
        "--output",
        type=PATH,
        help="CSV file that keeps each result as it comes; what is in it is not trained again. "
        "[default: saved_models/study-DATA.csv]",
    ),
    click.option("--overwrite", is_flag=True, help="Delete earlier results in that file."),
    click.option(
        "--small",
        is_flag=True,
        help="Minutes on two cores: the tiny network, digits, few epochs, two seeds.",
    ),
)


def plan_options(command: Callable) -> Callable:
    """Adds what is trained on and how, as one argument `make_plan`, None without data."""

    @data_options("--data", f"{DATA_HELP} Without it nothing is trained.")
    @recipe_options
    @trials_options
    @wraps(command)
    def with_plan(load_data, recipe, trials, base, **options):
        from keras_efficientnet.study import get_network

        base = base or (SMALL_BASE if trials["small"] else "B0")
        get_network(base)  # an unknown name is refused before TensorFlow is loaded
        make_plan = None
        if load_data or trials["small"]:
            make_plan = partial(_plan, load_data, recipe, **trials)
        return command(base=base, make_plan=make_plan, **options)

    return with_plan


def _plan(load_data: Callable | None, recipe: dict[str, Any], *, small: bool, **trials: Any):
    """Makes of the options of `plan_options` a `study.Plan`."""
    name, settings = recipe.pop("name") or "small", dict(map(setting, recipe.pop("settings")))
    given = {option: value for option, value in recipe.items() if value is not None}
    import_tensorflow()
    from keras_efficientnet import data, study, training
    from keras_efficientnet.run import OUTPUT_ROOT

    chosen = training.recipe(name, **{**(SMALL_RECIPE if small else {}), **given, **settings})
    config = training.RunConfig(precision=trials["precision"], devices=trials["devices"])
    images = load_data() if load_data else data.load(SMALL_DATA)
    images = study.subset(images, trials["train_images"], trials["test_images"])
    seeds = trials["seeds"]
    if seeds is None:
        seeds = SMALL_SEEDS if small else study.Plan.seeds
    results = trials["output"] or OUTPUT_ROOT / f"study-{images.name}.csv"
    plan = study.Plan(images, chosen, results, seeds, config)
    if trials["overwrite"]:
        results.unlink(missing_ok=True)
    return plan


@scale.command("table")
@click.option("--family", default="V1", show_default=True, help="V1, Lite, EdgeTPU or V2.")
@output_options
def family_table(family, output):
    """Show a family as its papers print it and as it is computed."""
    from keras_efficientnet.study.family import family_table as run

    rows = run(family)
    if output.write(rows):
        return
    fields = ("variant", "width", "depth", "resolution", "blocks", "trainable")
    fields += ("paper_parameters", "parameters_agree", "multiply_adds", "paper_multiply_adds")
    print_rows(rows, *fields, "multiply_adds_agree", "top1")
    click.echo("* The computed figure does not round to the printed one.")
    print_sources(rows)


@scale.command()
@click.argument("phi", type=float)
@growth_options
@click.option("--base", default="B0", show_default=True, help="Variant to scale.")
@json_option
def phi(phi, growths, base, as_json):
    """Say what the compound coefficient PHI makes of a network."""
    from keras_efficientnet.study.family import compound_scaling, released_phi

    result = compound_scaling(phi, **growths, base=base)
    released = released_phi(**growths)
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
    print_rows(released, "variant", "depth", "width", "resolution")


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
@plot_option
@output_options
def compare(base, ratio, paper, growths, make_plan, output):
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

    output.check_picture(trained=make_plan is not None)
    plan = make_plan() if make_plan else None
    classes = plan.classes if plan else 1000
    if paper:
        found = comparison.paper_networks(base)
    else:
        found = comparison.scaled_networks(base, ratio, **growths, classes=classes)
    document: dict[str, Any] = {"base": found["base"].name}
    if plan:
        document |= comparison.compare_scaling(found, plan)
    else:
        document["rows"] = comparison.comparison_rows(found, classes)
    rows = document["rows"]
    if output.write(rows, document, "scaling_comparison"):
        return
    fields = ("dimension", "depth", "width", "resolution", "image_size")
    fields += ("trainable", "multiply_adds", "ratio")
    fields += () if plan else ("blocks", "paper_multiply_adds")  # else there is no room for them
    print_rows(rows, *fields, "paper_top1", "accuracy", "spread")
    click.echo(f"Paper: {rows[0]['paper_base']} on ImageNet.")
    if plan:
        verdict = document["verdict"]
        click.echo(f"Compound over {verdict['best_single']}: {gain(verdict)}.")
        print_plan(plan)


@scale.command()
@base_option
@click.option("--step", type=float, default=0.2, show_default=True, help="Of the grid.")
@click.option(
    "--ratio", type=float, default=2.0, show_default=True, help="Cost at phi = 1 over the base's."
)
@click.option(
    "--tolerance",
    type=float,
    default=0.05,
    show_default=True,
    help="Share of the ratio by which a candidate may differ from it.",
)
@click.option(
    "--budget",
    default="product",
    show_default=True,
    help="What the cost is: product (alpha * beta^2 * gamma^2), multiply-adds, parameters, or "
    "latency of the exported file on this machine.",
)
@plan_options
@plot_option
@output_options
def search(base, step, ratio, tolerance, budget, make_plan, output):
    r"""Search alpha, beta and gamma on a grid, under a constraint on cost.

    Lists the candidates, scaled at phi = 1, and with --data trains and ranks them.

    \b
    Examples:
      keras-efficientnet scale search
      keras-efficientnet scale search --small --csv ranking.csv --plot ranking.svg
      keras-efficientnet scale search --base tiny --data folder:cifar10 --budget latency
    """
    from keras_efficientnet.study import search as study

    output.check_picture(trained=make_plan is not None)
    constraint = study.Constraint(budget, ratio, tolerance, step)
    plan = make_plan() if make_plan else None
    if budget == "latency":
        import_tensorflow()
    rows = study.search_candidates(base, constraint, plan.classes if plan else 1000)
    if plan:
        rows = study.search_coefficients(base, rows, plan)
    if output.write(rows, {"base": base, "budget": budget, "rows": rows}, "search_results"):
        return
    fields = ("rank", "alpha", "beta", "gamma", "product")
    fields += () if budget == "product" else ("budget_ratio",)
    fields += ("image_size", "blocks", "trainable", "multiply_adds", "ratio")
    print_rows(rows, *fields, "accuracy", "spread")
    if plan:
        best = " ".join(f"--{name} {rows[0][name]:g}" for name in ("alpha", "beta", "gamma"))
        click.echo(f"To scale further by the best: keras-efficientnet scale phi 2 {best}")
        print_plan(plan)


@scale.command()
@base_option
@click.option(
    "--only",
    multiple=True,
    help="se, swish, stochastic-depth or progressive; repeatable. [default: all]",
)
@plan_options
@output_options
def ablate(base, only, make_plan, output):
    r"""Measure what squeeze-and-excitation, swish and other parts contribute.

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
    if output.write(rows, {"base": base, "rows": rows}):
        return
    fields = ("change", "trainable", "multiply_adds", "accuracy", "spread")
    print_rows(rows, *fields, "against_base", "time")
    print_plan(plan)
