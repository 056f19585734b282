"""The layers EfficientNet adds to Keras' own, registered for saving and loading."""

from typing import Any

import keras
from keras import ops

from keras_efficientnet.errors import InputError, require, require_choice, require_range

_register = keras.saving.register_keras_serializable(package="keras_efficientnet")


def _fast_path(images: Any, training: bool | None, data_format: str = "channels_last") -> Any:
    """Returns the module `gradients` where a training step can use it, else None."""
    if not training or data_format != "channels_last" or keras.backend.backend() != "tensorflow":
        return None
    from keras_efficientnet import gradients

    return gradients if gradients.applies_to(images) else None


def _data_format(given: str | None) -> str:
    """Returns the layout of a layer's images: its own, or Keras' setting when it is made."""
    data_format = keras.config.image_data_format() if given is None else given
    require_choice("data_format", data_format, ("channels_last", "channels_first"))
    return data_format


@_register
class Swish(keras.layers.Layer):
    """`x * sigmoid(x)`, elementwise (Ramachandran et al., https://arxiv.org/abs/1710.05941)."""

    def call(self, inputs, training=None):
        fast = _fast_path(inputs, training)
        return fast.swish(inputs) if fast else ops.silu(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


@_register
class SqueezeExcite(keras.layers.Layer):
    """Weighs each channel by a gate that is computed from the whole image.

    Global average, 1x1 convolution to `filters` channels with the network's activation,
    1x1 convolution back with a sigmoid, product with the input. Input and output have
    the same shape, `[batch, height, width, channels]` by default. Both convolutions have
    a bias (Hu et al., https://arxiv.org/abs/1709.01507; TPU code for the details).

    Args:
        filters: channels of the bottleneck. EfficientNet takes a quarter of the
            channels that enter the *block*, not of those that enter this layer.
        activation: of the bottleneck.
        kernel_initializer: of both kernels.
        data_format: `"channels_last"` or `"channels_first"`; Keras' setting if None. It is
            saved with the layer.
    """

    def __init__(
        self,
        filters: int,
        activation="swish",
        kernel_initializer="he_normal",
        data_format: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        require_range("filters", filters, 1)
        self.filters = filters
        self.activation = keras.activations.get(activation)
        self.kernel_initializer: Any = keras.initializers.get(kernel_initializer)
        self.data_format = _data_format(data_format)
        channels_last = self.data_format == "channels_last"
        self.spatial_axes = (1, 2) if channels_last else (2, 3)
        self.channel_axis = -1 if channels_last else 1

    def build(self, input_shape):
        shape = list(input_shape)
        for axis in self.spatial_axes:
            shape[axis] = 1
        self.reduce = self._conv(self.filters, self.activation, "reduce")
        self.reduce.build(tuple(shape))
        self.expand = self._conv(shape[self.channel_axis], "sigmoid", "expand")
        shape[self.channel_axis] = self.filters
        self.expand.build(tuple(shape))

    def _conv(self, filters, activation, name):
        return keras.layers.Conv2D(
            filters,
            1,
            activation=activation,
            # A clone, because an initializer with a fixed seed repeats itself.
            kernel_initializer=self.kernel_initializer.clone(),
            data_format=self.data_format,
            dtype=self.dtype_policy,
            name=name,
        )

    def call(self, inputs, training=None):
        if fast := _fast_path(inputs, training, self.data_format):
            weights = [ops.convert_to_tensor(weight) for weight in self.weights]
            return fast.squeeze_excite(inputs, weights, self.activation)
        squeezed = ops.mean(inputs, axis=self.spatial_axes, keepdims=True)
        return inputs * self.expand(self.reduce(squeezed))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "data_format": self.data_format,
        }


@_register
class Conv2D(keras.layers.Conv2D):
    """Keras' convolution; in training, a 1x1 kernel is a matrix product where that is faster.

    Variables, configuration and results are those of `keras.layers.Conv2D`.
    """

    kernel: Any

    def call(self, inputs, training=None):
        pointwise = (self.kernel_size, self.strides, self.groups) == ((1, 1), (1, 1), 1)
        linear = self.activation is keras.activations.linear and not self.use_bias
        fast = pointwise and linear and _fast_path(inputs, training, self.data_format)
        if not fast:
            return super().call(inputs)
        return fast.pointwise(inputs, ops.convert_to_tensor(self.kernel))


@_register
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras' depthwise convolution; in training, a 5x5 kernel has a faster gradient.

    Variables, configuration and results are those of `keras.layers.DepthwiseConv2D`.
    """

    kernel: Any

    def call(self, inputs, training=None):
        supported = (
            (self.kernel_size, self.dilation_rate) == ((5, 5), (1, 1))
            and self.strides[0] == self.strides[1]
            and (self.padding, self.depth_multiplier, self.use_bias) == ("same", 1, False)
            and self.activation is keras.activations.linear
            and None not in inputs.shape[1:3]
        )
        fast = supported and _fast_path(inputs, training, self.data_format)
        if not fast:
            return super().call(inputs)
        return fast.depthwise(inputs, ops.convert_to_tensor(self.kernel), self.strides[0])


@_register
class StochasticDepth(keras.layers.Dropout):
    """Drops the whole residual branch of some images in training.

    Each image of the batch is zeroed with probability `rate`, and the others are divided
    by the survival probability `1 - rate`, so that the expected value stays (Huang et
    al., https://arxiv.org/abs/1603.09382; "drop connect" in the TPU code). Inference
    leaves the input as it is.

    Args:
        rate: probability in [0, 1) that an image's branch is dropped.
        seed: integer for repeatable draws.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any):
        require(0 <= rate < 1, "rate", rate, "at least 0 and below 1")
        super().__init__(rate, noise_shape=(None, 1, 1, 1), seed=seed, **kwargs)

    def get_config(self):
        config = super().get_config()
        del config["noise_shape"]
        return config


@_register
class Normalize(keras.layers.Layer):
    """`(x - mean) / std` per channel, from constants: it has no weights.

    Computed in float32 whatever the policy, since bfloat16 cannot tell all pixel values
    of a resized image apart; the result has the layer's compute dtype.

    Args:
        mean: per channel, in the input's unit (0-255 for images).
        std: per channel.
        data_format: see `SqueezeExcite`.
    """

    def __init__(self, mean, std, data_format: str | None = None, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.mean = [float(value) for value in mean]
        self.std = [float(value) for value in std]
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise InputError(
                f"mean={self.mean} and std={self.std} must have one value for each channel, "
                "with every std above 0."
            )
        self.data_format = _data_format(data_format)

    def call(self, inputs):
        shape = [1] * len(inputs.shape)
        shape[-1 if self.data_format == "channels_last" else 1] = len(self.mean)
        mean = ops.reshape(ops.convert_to_tensor(self.mean, "float32"), shape)
        inverse = ops.reshape(
            ops.convert_to_tensor([1 / value for value in self.std], "float32"), shape
        )
        pixels: Any = ops.cast(inputs, "float32")
        return ops.cast((pixels - mean) * inverse, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "mean": self.mean,
            "std": self.std,
            "data_format": self.data_format,
        }


@_register
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch normalization, through TensorFlow's fused kernel where there is one.

    Variables, configuration and results are those of `keras.layers.BatchNormalization`;
    the fused kernel passes over memory fewer times. It is used on TensorFlow for images
    in channels-last layout, without a mask; Keras' own code runs everywhere else.
    """

    moving_mean: Any
    moving_variance: Any

    def call(self, inputs, training=None, mask=None):
        if not self._can_fuse(inputs, mask):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        from keras_efficientnet import gradients

        channels = inputs.shape[-1]
        gamma = self._float32(self.gamma) if self.scale else tf.ones([channels])
        beta = self._float32(self.beta) if self.center else tf.zeros([channels])
        moving_mean = self._float32(self.moving_mean)
        moving_variance = self._float32(self.moving_variance)
        if not (training and self.trainable):
            outputs, *_ = tf.compat.v1.nn.fused_batch_norm(
                inputs,
                gamma,
                beta,
                mean=moving_mean,
                variance=moving_variance,
                epsilon=self.epsilon,
                is_training=False,
            )
            return outputs
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, gamma, beta, epsilon=self.epsilon, is_training=True
        )
        variance = gradients.biased_variance(variance, inputs)
        momentum = self.momentum
        self.moving_mean.assign(moving_mean * momentum + mean * (1.0 - momentum))
        self.moving_variance.assign(moving_variance * momentum + variance * (1.0 - momentum))
        return outputs

    def _can_fuse(self, inputs, mask) -> bool:
        return (
            keras.backend.backend() == "tensorflow"
            and mask is None
            and not self.synchronized
            and not getattr(self, "renorm", False)
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and keras.backend.standardize_dtype(inputs.dtype) == self.compute_dtype
            and self.compute_dtype in ("float32", "float16", "bfloat16")
        )

    @staticmethod
    def _float32(variable) -> Any:
        return ops.cast(variable, "float32")
