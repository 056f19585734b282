"""The names of `keras.applications.efficientnet_v2`, for code that was written for it.

Its builders have `include_preprocessing` ahead of `name`, which `ke.EfficientNetV2S` and the others
have behind it.
"""

from collections.abc import Callable
from typing import Any

import keras

from keras_efficientnet import variants
from keras_efficientnet.efficientnet import decode_predictions as decode_predictions
from keras_efficientnet.efficientnet import preprocess_input as preprocess_input


def _builder(build: Callable[..., keras.Model]) -> Callable[..., keras.Model]:
    """Returns a builder whose arguments have the order of Keras."""

    def in_keras_order(  # noqa: PLR0913 - those of keras.applications
        include_top: bool = True,
        weights: Any = variants.DEFAULT_WEIGHTS,
        input_tensor: Any = None,
        input_shape: tuple[int | None, ...] | None = None,
        pooling: str | None = None,
        classes: int = 1000,
        classifier_activation: Any = "softmax",
        include_preprocessing: bool = True,
        name: str | None = None,
        **options: Any,
    ) -> keras.Model:
        return build(
            include_top,
            weights,
            input_tensor,
            input_shape,
            pooling,
            classes,
            classifier_activation,
            name,
            include_preprocessing=include_preprocessing,
            **options,
        )

    in_keras_order.__name__ = in_keras_order.__qualname__ = build.__name__
    in_keras_order.__doc__ = build.__doc__
    return in_keras_order


EfficientNetV2B0 = _builder(variants.EfficientNetV2B0)
EfficientNetV2B1 = _builder(variants.EfficientNetV2B1)
EfficientNetV2B2 = _builder(variants.EfficientNetV2B2)
EfficientNetV2B3 = _builder(variants.EfficientNetV2B3)
EfficientNetV2S = _builder(variants.EfficientNetV2S)
EfficientNetV2M = _builder(variants.EfficientNetV2M)
EfficientNetV2L = _builder(variants.EfficientNetV2L)
