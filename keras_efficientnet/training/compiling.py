"""Compiles a model by a recipe: optimizer, learning-rate schedule, loss and metrics."""

from typing import Any

import keras
import numpy as np

from keras_efficientnet.errors import InputError, require
from keras_efficientnet.task import SINGLE_LABEL, Task
from keras_efficientnet.training.freezing import layer_rates
from keras_efficientnet.training.optimizer import (
    NOT_DECAYED,
    LayerwiseAdamW,
    LayerwiseLion,
    LayerwiseRMSprop,
    LayerwiseSGD,
    RMSprop,
)
from keras_efficientnet.training.planning import Stage, peak_learning_rate, plan_stages
from keras_efficientnet.training.recipes import Recipe
from keras_efficientnet.training.schedule import WarmupExponentialDecay

# Share of a run's steps that moving statistics average over at most.
STATISTICS_SHARE = 0.2


def compile_model(
    model: keras.Model,
    recipe: Recipe,
    steps_per_epoch: int,
    stage: Stage | None = None,
    *,
    task: Task = SINGLE_LABEL,
    accumulation: int = 1,
    steps_per_execution: int = 1,
) -> keras.Model:
    """Compiles a classifier for `model.fit` with a recipe's optimizer, schedule and loss.

    Batch normalization gets the recipe's momentum, or keeps its own as far as the run has the
    steps for it.

    Args:
        model: ends in the task's activation or in logits. Labels may be class indices `[batch]`
            or distributions `[batch, classes]`.
        recipe: how it is trained.
        steps_per_epoch: optimizer steps in an epoch.
        stage: the stage that begins here, where the recipe has several.
        task: what a label is; it gives the loss and the metrics.
        accumulation: batches whose gradients are averaged for one optimizer step.
        steps_per_execution: batches that Keras runs between two calls from Python.

    Returns:
        The model itself.

    Raises:
        InputError: if `steps_per_epoch` is below 1, or the model ends in something else.
    """
    from_logits = _ends_in_logits(model, task)
    require(steps_per_epoch >= 1, "steps_per_epoch", steps_per_epoch, "at least 1")
    # Statistics that remember more of a short run would be those of its first weights.
    longest = 1 - 1 / max(1.0, STATISTICS_SHARE * recipe.epochs * steps_per_epoch)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = recipe.batch_norm_momentum or min(layer.momentum, longest)
    model.compile(
        optimizer=_optimizer(
            model,
            recipe,
            _schedule(recipe, steps_per_epoch, stage),
            gradient_accumulation_steps=accumulation if accumulation > 1 else None,
        ),
        loss=task.loss(recipe.label_smoothing, from_logits),
        metrics=task.metrics(),
        # XLA on CPUs takes minutes to compile a network of this depth.
        jit_compile="auto" if keras.backend.backend() == "jax" else False,
        steps_per_execution=steps_per_execution,
    )
    return model


def _ends_in_logits(model: keras.Model, task: Task) -> bool:
    """Returns whether a model ends in logits; otherwise, in the task's activation.

    Raises:
        InputError: if it ends in another activation, which the loss would take for logits, or has
            no output for each of several classes.
    """
    last, shape, name = model.layers[-1], model.output_shape, task.classifier_activation
    of_classes = name == "softmax"
    if of_classes and not (isinstance(shape, tuple) and len(shape) == 2 and shape[1] != 1):
        raise InputError(
            f"Model {model.name!r} has outputs of shape {shape}; a recipe trains classifiers of "
            "shape (None, classes), with at least two classes."
        )
    if of_classes and isinstance(last, keras.layers.Softmax):
        return False
    activation = getattr(last, "activation", None)
    if activation is keras.activations.get(name):
        return False
    if activation in (None, keras.activations.linear):
        return True
    raise InputError(
        f"Model {model.name!r} ends in {getattr(activation, '__name__', activation)!r}; a "
        f"recipe trains models that end in {name} or in logits."
    )


def learning_rates(recipe: Recipe, steps_per_epoch: int = 50) -> list[dict[str, Any]]:
    """Returns the learning rate of every step, for `plots.learning_rate_schedule`.

    Args:
        recipe: how a network is trained.
        steps_per_epoch: optimizer steps in an epoch.

    Returns:
        A row for each step, in order: `epoch`, counted from 0 and with its fraction,
        `stage`, and `learning_rate`.
    """
    rows: list[dict[str, Any]] = []
    schedule, first = None, 0
    for stage in plan_stages(recipe, image_size=224):  # the size does not matter
        begin, end = len(rows), len(rows) + stage.epochs * steps_per_epoch
        if stage.peak_learning_rate is not None:
            schedule, first = _schedule(recipe, steps_per_epoch, stage), begin
        assert schedule
        steps = np.arange(begin - first, end - first, dtype=np.float32)
        # Keras' own schedules take one step at a time.
        rates = keras.ops.convert_to_numpy(keras.ops.vectorized_map(schedule, steps))
        rows += [
            {"epoch": step / steps_per_epoch, "stage": stage.name, "learning_rate": rate}
            for step, rate in zip(range(begin, end), rates.tolist(), strict=True)
        ]
    return rows


def _optimizer(model: keras.Model, recipe: Recipe, schedule: Any, **common: Any):
    """Returns the recipe's optimizer, when fine-tuning with a rate for each layer."""
    tuning = recipe.fine_tuning
    if tuning:
        common["rate_factors"] = layer_rates(model, tuning.layer_decay)
    if recipe.optimizer == "rmsprop":
        return (LayerwiseRMSprop if tuning else RMSprop)(
            schedule,
            rho=recipe.rho,
            momentum=recipe.momentum,
            epsilon=recipe.epsilon,
            initial_mean_square=recipe.initial_mean_square,
            l2=recipe.l2,
            **common,
        )
    common["weight_decay"] = recipe.weight_decay
    if recipe.optimizer == "sgd":
        kind = LayerwiseSGD
        common |= {"momentum": recipe.momentum, "nesterov": True}
    else:
        kind = {"adamw": LayerwiseAdamW, "lion": LayerwiseLion}[recipe.optimizer]
    optimizer = kind(schedule, **common)
    optimizer.exclude_from_weight_decay(var_names=[*NOT_DECAYED, "bias"])
    return optimizer


def _schedule(
    recipe: Recipe, steps_per_epoch: int, stage: Stage | None = None
) -> keras.optimizers.schedules.LearningRateSchedule:
    peak = (stage and stage.peak_learning_rate) or peak_learning_rate(recipe)
    warmup_steps = recipe.warmup_epochs * steps_per_epoch
    if recipe.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(
            0.0 if warmup_steps else peak,
            max(1, recipe.epochs * steps_per_epoch - warmup_steps),
            warmup_target=peak if warmup_steps else None,
            warmup_steps=warmup_steps,
        )
    return WarmupExponentialDecay(
        peak=peak,
        warmup_steps=warmup_steps,
        decay_steps=recipe.decay_epochs * steps_per_epoch,
        decay_rate=recipe.decay_rate,
    )
