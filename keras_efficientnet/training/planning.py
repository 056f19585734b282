"""What a recipe amounts to: its stages, its learning rates, its description."""

import dataclasses
from dataclasses import dataclass

from keras_efficientnet.data.pipeline import Augmentation
from keras_efficientnet.training.recipes import Progressive, Recipe, recipe_values

# Base learning rates are stated for this many images per optimizer step.
REFERENCE_BATCH_SIZE = 256


@dataclass(frozen=True)
class Stage:
    """A stretch of a run in which nothing changes but the learning rate.

    Attributes:
        name: shown to people.
        epochs: passes over the training images.
        image_size: side of the images in pixels.
        augmentation: of the images.
        dropout_rate: before the classifier; None for the network's own.
        unfreeze_from: first layer that is trained, see `unfreeze_from`.
        peak_learning_rate: of the optimizer and schedule that begin with the stage; None where
            those of the stage before go on.
    """

    name: str
    epochs: int
    image_size: int
    augmentation: Augmentation
    dropout_rate: float | None = None
    unfreeze_from: str = "stem"
    peak_learning_rate: float | None = None


def peak_learning_rate(recipe: Recipe) -> float:
    """Returns the largest learning rate of a recipe's main phase.

    That is `learning_rate` where the recipe gives it, else
    `base_learning_rate * batch_size / 256`: 0.256 for the paper's 4096 images per step.
    """
    if recipe.learning_rate is not None:
        return recipe.learning_rate
    return recipe.base_learning_rate * recipe.batch_size / REFERENCE_BATCH_SIZE


def plan_stages(recipe: Recipe, image_size: int) -> tuple[Stage, ...]:
    """Returns the stages of a run, in order.

    Args:
        recipe: how the network is trained.
        image_size: side in pixels of the images that the trained network takes.
    """
    whole = Stage(
        "train",
        recipe.epochs,
        image_size,
        recipe.augmentation,
        recipe.dropout_rate,
        peak_learning_rate=peak_learning_rate(recipe),
    )
    if recipe.progressive:
        return _growing(whole, recipe.progressive)
    if not recipe.fine_tuning:
        return (whole,)
    tuned = dataclasses.replace(
        whole, name="fine-tune", unfreeze_from=recipe.fine_tuning.unfreeze_from
    )
    return (tuned,) if recipe.epochs else ()


def _growing(last: Stage, first: Progressive) -> tuple[Stage, ...]:
    """Returns stages from `first` to `last`, which has the epochs of all."""
    count, final = first.stages, last.image_size
    begin = min(first.image_size, final // 2)
    # A network's own dropout is not known here; the V2 paper's ends at a given one.
    last_dropout = first.dropout_rate if last.dropout_rate is None else last.dropout_rate
    stages = []
    for stage in range(count):
        share = stage / (count - 1) if count > 1 else 1.0

        def ramp(start: float, end: float, share=share) -> float:
            return start + (end - start) * share

        stages.append(
            dataclasses.replace(
                last,
                name=f"stage {stage + 1}",
                epochs=last.epochs * (stage + 1) // count - last.epochs * stage // count,
                image_size=int(begin + (final - begin) * (stage + 1) / count),
                augmentation=dataclasses.replace(
                    last.augmentation,
                    magnitude=ramp(first.magnitude, last.augmentation.magnitude),
                    mixup_alpha=ramp(first.mixup_alpha, last.augmentation.mixup_alpha),
                ),
                dropout_rate=ramp(first.dropout_rate, last_dropout),
                peak_learning_rate=None if stage else last.peak_learning_rate,
            )
        )
    return tuple(stages)


def describe_recipe(recipe: Recipe, image_size: int) -> str:
    """Returns every value of a recipe, and its stages, a line each.

    Args:
        recipe: how a network is trained.
        image_size: side in pixels of the images that the trained network takes.
    """
    values, peak = recipe_values(recipe), peak_learning_rate(recipe)
    rule = "base_learning_rate * batch_size / 256" if recipe.learning_rate is None else "as given"
    values["learning_rate"] = f"{peak:g} at the peak ({rule})"
    lines = [f"Recipe {recipe.name}", *(f"  {name} = {value}" for name, value in values.items())]
    if recipe.fine_tuning:
        lines.append(f"  probe: solved on the frozen network's features at {image_size} px")
    for stage in plan_stages(recipe, image_size):
        line = f"  {stage.name}: {stage.epochs} epochs at {stage.image_size} px"
        if recipe.fine_tuning:
            line += f", training from {stage.unfreeze_from} on"
        if stage.peak_learning_rate is not None:
            line += f", peak learning rate {stage.peak_learning_rate:g}"
        if recipe.progressive:
            line += (
                f", magnitude {stage.augmentation.magnitude:g}, "
                f"mixup {stage.augmentation.mixup_alpha:g}, dropout {stage.dropout_rate:g}"
            )
        lines.append(line)
    return "\n".join(lines)
