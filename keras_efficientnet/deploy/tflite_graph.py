"""The operators of a LiteRT file, and channel equalization through a swish.

An 8-bit tensor has one step size for all its channels. After a swish the channels differ by a
factor of up to a hundred, and the small ones are rounded to zero. As swish is not linear,
scaling a channel ahead of it and back behind it changes the network, which is why the usual
cross-layer equalization stops here. Written as `x * sigmoid(x)` it can be done:

    x' = s x           in the convolution's own weights, at no cost
    z = x' / s         one more product, for the sigmoid alone, which 8 bits represent well
    y' = x' sigmoid(z) = s y
    the next convolution's weights are divided by s

With s a power of two for each channel the new network computes what the old one did, to the
last digits of float32, and all channels of x' and y' use the range of their tensor.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import numpy as np

# Largest factor of a channel. Its inverses are steps of 1/64, which 8 bits represent exactly.
MAX_SCALE = 64
INVERSE = "_inverse_scale"
UNSCALED = "_unscaled"

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@dataclass(frozen=True)
class Swish:
    """A swish whose channels can be equalized.

    Attributes:
        tensors: names of those whose channels get scaled, its input first.
        layer: the convolution ahead of it.
        elements: of its input for one image.
    """

    tensors: tuple[str, ...]
    layer: str
    elements: int


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution or a dense layer with constant weights.

    Attributes:
        output: name of its output.
        source: name of its input.
        kernel_name: name of its kernel.
        kernel: `[outputs, height, width, inputs]`, `[outputs, inputs]` of a dense layer, or
            `[1, height, width, outputs]` of a depthwise one.
        bias: `[outputs]`, or None.
        depthwise: whether every channel has weights of its own.
        stride: in both directions.
        same: whether its input is padded so that its output is as large, but for the stride.
        plain: whether it has one group of inputs, or of a depthwise layer one output for each
            input, no dilation, and the same stride in both directions.
    """

    output: str
    source: str
    kernel_name: str
    kernel: np.ndarray
    bias: np.ndarray | None
    depthwise: bool
    stride: int
    same: bool
    plain: bool


class Graph:
    """A LiteRT network that can be inspected and changed.

    Args:
        content: of a .tflite file with one graph.
    """

    def __init__(self, content: bytes):
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.tools import flatbuffer_utils

        self._schema: Any = schema
        self._model: Any = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
        self._graph = self._model.subgraphs[0]
        self._names = {
            code: name
            for name, code in vars(schema.BuiltinOperator).items()
            if isinstance(code, int)
        }

    def content(self) -> bytes:
        """Returns the network as the content of a .tflite file."""
        from ai_edge_litert.tools import flatbuffer_utils

        return bytes(flatbuffer_utils.convert_object_to_bytearray(self._model))

    def parts(self) -> dict[str, list[str]]:
        """Returns the operators, by the names of their outputs, of each part of the network.

        A part is the stem, a block or the head, and `rest` every operator that is named after no
        layer of this package's networks. The last operator belongs to none: its output has to
        be in 8 bits.
        """
        parts: dict[str, list[str]] = {}
        for operator in self._graph.operators:
            if operator.outputs[0] in self._graph.outputs:
                continue
            name = self._name(operator.outputs[0])
            found = re.findall(r"\b(stem|block\d+[a-z]+|top)_", name)
            parts.setdefault(found[-1] if found else "rest", []).append(name)
        return parts

    def tensors(self) -> list[str]:
        """Returns the names of all tensors that operators compute, and of the input."""
        computed = (index for operator in self._graph.operators for index in operator.outputs)
        return [self._name(index) for index in (*self._graph.inputs, *computed)]

    def ends(self) -> set[str]:
        """Returns the names of the input and of the output."""
        return {self._name(index) for index in (*self._graph.inputs, *self._graph.outputs)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of every tensor, by name."""
        return {
            tensor.name.decode(): tuple(() if tensor.shape is None else tensor.shape)
            for tensor in self._graph.tensors
        }

    def swish_inputs(self) -> set[str]:
        """Returns the names of all tensors that go into a swish."""
        return {self._name(x) for x, *_ in self._swishes()}

    def sigmoid_inputs(self) -> set[str]:
        """Returns the names of all tensors that go into a sigmoid."""
        return {
            self._name(op.inputs[0]) for op in self._graph.operators if self._is(op, "LOGISTIC")
        }

    def equalizable(self) -> list[Swish]:
        """Returns the swishes whose channels `equalize` can scale, in order."""
        found = []
        for x, _, _ in self._swishes():
            name, shape = self._name(x), [int(size) for size in self._tensor(x).shape]
            # Those inside of squeeze-and-excitation see one position, and matter little.
            around = self._around(x) if np.prod(shape[1:-1]) > 1 else None
            if around is None:
                continue
            layers = re.findall(r"\b(?:stem|block\d+[a-z]+|top)(?:_[a-z]+)*", name)
            layer = layers[-1] if layers else name
            tensors = tuple(self._name(index) for index in around[2])
            found.append(Swish(tensors, layer, int(np.prod(shape[1:]))))
        return found

    def equalize(self, scales: Mapping[str, np.ndarray]) -> None:
        """Scales the channels of swishes, without changing what the network computes.

        Args:
            scales: by the name of a swish's input, a power of two for each channel, from 1
                to `MAX_SCALE`.
        """
        for x, sigmoid, _ in list(self._swishes()):
            scale = scales.get(self._name(x))
            if scale is None:
                continue
            around = self._around(x)
            assert around
            producer, consumers, _ = around
            depthwise = self._is(producer, "DEPTHWISE_CONV_2D")
            shape = (1, 1, 1, -1) if depthwise else (-1, 1, 1, 1)
            self._multiply(producer, 1, scale.reshape(shape))
            self._multiply(producer, 2, scale)
            for consumer in consumers:
                self._multiply(consumer, 1, 1 / scale)
            name, tensor = self._name(x), self._tensor(x)
            inverse = self._add_tensor(name + INVERSE, (1, 1, 1, len(scale)), 1 / scale)
            unscaled = self._add_tensor(name + UNSCALED, tensor.shape)
            self._tensor(unscaled).shapeSignature = tensor.shapeSignature
            operator = self._new_operator("MUL", [x, inverse], [unscaled])
            operator.builtinOptionsType = self._schema.BuiltinOptions.MulOptions
            operator.builtinOptions = self._schema.MulOptionsT()
            at = next(i for i, other in enumerate(self._graph.operators) if other is sigmoid)
            self._graph.operators.insert(at, operator)
            sigmoid.inputs = [unscaled]

    def strip_softmax(self) -> None:
        """Removes a softmax at the end."""
        (output,) = self._graph.outputs
        last = self._producer(output)
        if last is not None and self._is(last, "SOFTMAX"):
            self._graph.operators = [op for op in self._graph.operators if op is not last]
            self._graph.outputs = [last.inputs[0]]
            for signature in self._model.signatureDefs or ():
                for entry in signature.outputs:
                    entry.tensorIndex = last.inputs[0]

    def convolutions(self) -> Iterator[Convolution]:
        """Yields the convolutions and dense layers, in order."""
        for operator in self._graph.operators:
            if not self._is(operator, *_CONVOLUTIONS):
                continue
            source, name = (self._name(operator.inputs[index]) for index in (0, 1))
            kernel = self._values(operator.inputs[1])
            if kernel is None:
                continue
            has_bias = len(operator.inputs) > 2 and operator.inputs[2] >= 0
            depthwise = self._is(operator, "DEPTHWISE_CONV_2D")
            options, dense = operator.builtinOptions, kernel.ndim == 2
            channels = self._tensor(operator.inputs[0]).shape[-1]
            yield Convolution(
                output=self._name(operator.outputs[0]),
                source=source,
                kernel_name=name,
                kernel=kernel,
                bias=self._values(operator.inputs[2]) if has_bias else None,
                depthwise=depthwise,
                stride=1 if dense else options.strideH,
                same=not dense and options.padding == self._schema.Padding.SAME,
                plain=kernel.shape[-1] == channels
                and (
                    dense
                    or (options.strideH, options.dilationHFactor, options.dilationWFactor)
                    == (options.strideW, 1, 1)
                ),
            )

    def set_weights(self, output: str, kernel: np.ndarray, bias: np.ndarray | None) -> None:
        """Replaces the weights of a convolution or dense layer.

        Args:
            output: name of its output.
            kernel: of the same shape as before.
            bias: likewise; None of a layer that has none.
        """
        operator = next(op for op in self._graph.operators if self._name(op.outputs[0]) == output)
        self._set(operator, 1, kernel)
        if bias is not None:
            self._set(operator, 2, bias)

    def take_uint8(self) -> None:
        """Changes input and output of an int8 network to uint8."""
        kinds = self._schema.TensorType
        for indices, prepend in ((self._graph.inputs, True), (self._graph.outputs, False)):
            (inner,) = indices
            tensor = self._tensor(inner)
            if tensor.type != kinds.INT8:
                raise ValueError(f"tensor {self._name(inner)!r} is not int8")
            name = self._name(inner)
            tensor.name = self._unused(name + "_int8").encode()
            outer = self._add_tensor(name, tensor.shape)
            new = self._tensor(outer)
            new.type, new.shapeSignature = kinds.UINT8, tensor.shapeSignature
            new.quantization = self._schema.QuantizationParametersT()
            new.quantization.scale = tensor.quantization.scale
            new.quantization.zeroPoint = [int(tensor.quantization.zeroPoint[0]) + 128]
            ends = ([outer], [inner]) if prepend else ([inner], [outer])
            operator = self._new_operator("QUANTIZE", *ends)
            self._graph.operators.insert(0 if prepend else len(self._graph.operators), operator)
            indices[0] = outer
            for signature in self._model.signatureDefs or ():
                for entry in signature.inputs if prepend else signature.outputs:
                    if entry.tensorIndex == inner:
                        entry.tensorIndex = outer

    def _swishes(self) -> Iterator[tuple[int, Any, Any]]:
        """Yields the input of each swish, its sigmoid and its product."""
        for sigmoid in self._graph.operators:
            if self._is(sigmoid, "LOGISTIC"):
                x, gate = sigmoid.inputs[0], sigmoid.outputs[0]
                for product in self._consumers(gate):
                    if self._is(product, "MUL") and x in product.inputs:
                        yield x, sigmoid, product

    def _around(self, x: int) -> tuple[Any, list[Any], list[int]] | None:
        """Follows the channels of a swish's input through all that does not mix them.

        Returns:
            The convolution ahead, those behind, and the tensors between them; None where
            something else reads one of these, that scaled channels would change.
        """
        producer = self._producer(x)
        if producer is None or not self._is(producer, "CONV_2D", "DEPTHWISE_CONV_2D"):
            return None
        if producer.builtinOptions.fusedActivationFunction or len(self._consumers(x)) != 2:
            return None
        product = next(op for op in self._consumers(x) if self._is(op, "MUL"))
        consumers, tensors, ahead = [], [x], [product.outputs[0]]
        while ahead:
            tensor = ahead.pop()
            tensors.append(tensor)
            readers = self._consumers(tensor)
            if not readers or tensor in self._graph.outputs:
                return None
            for reader in readers:
                if self._is(reader, *_CONVOLUTIONS):
                    if reader.inputs[0] != tensor or self._values(reader.inputs[1]) is None:
                        return None
                    consumers.append(reader)
                elif self._averages_places(reader) or self._is_gated(reader, tensor):
                    ahead.append(reader.outputs[0])
                else:
                    return None
        return producer, consumers, tensors

    def _averages_places(self, operator: Any) -> bool:
        if not self._is(operator, "MEAN"):
            return False
        axes = self._values(operator.inputs[1], np.int32)
        return axes is not None and sorted(axes.tolist()) == [1, 2]

    def _is_gated(self, operator: Any, tensor: int) -> bool:
        """Whether an operator multiplies a tensor by one factor for each channel."""
        if not self._is(operator, "MUL") or operator.builtinOptions.fusedActivationFunction:
            return False
        others = [index for index in operator.inputs if index != tensor]
        return len(others) == 1 and all(size == 1 for size in self._tensor(others[0]).shape[:-1])

    def _multiply(self, operator: Any, index: int, factors: np.ndarray) -> None:
        """Multiplies a constant input of an operator, and of this operator alone."""
        if index >= len(operator.inputs) or operator.inputs[index] < 0:
            return  # without a bias
        values = self._values(operator.inputs[index])
        assert values is not None
        self._set(operator, index, values * factors)

    def _set(self, operator: Any, index: int, values: np.ndarray) -> None:
        """Replaces a constant input of an operator, and of this operator alone."""
        tensor = operator.inputs[index]
        # The converter keeps equal constants once.
        if len(self._consumers(tensor)) > 1:
            operator.inputs[index] = self._add_tensor(self._name(tensor), values.shape, values)
            return
        buffer = self._tensor(tensor).buffer
        if sum(other.buffer == buffer for other in self._graph.tensors) > 1:
            self._tensor(tensor).buffer = self._add_buffer(values)
        else:
            data = np.ascontiguousarray(values, np.float32).tobytes()
            self._model.buffers[buffer].data = np.frombuffer(data, np.uint8)

    def _is(self, operator: Any, *kinds: str) -> bool:
        code = self._model.operatorCodes[operator.opcodeIndex]
        # Files from before there were 128 operators have the code in the other field.
        return self._names[max(code.builtinCode, code.deprecatedBuiltinCode)] in kinds

    def _tensor(self, index: int) -> Any:
        return self._graph.tensors[index]

    def _name(self, index: int) -> str:
        return self._tensor(index).name.decode()

    def _values(self, index: int, dtype: Any = np.float32) -> np.ndarray | None:
        """Returns a constant's values, or None where a tensor is computed."""
        tensor = self._tensor(index)
        data = self._model.buffers[tensor.buffer].data
        if data is None or not len(data):
            return None
        return np.frombuffer(bytes(data), dtype).reshape(tensor.shape)

    def _producer(self, index: int) -> Any:
        return next((op for op in self._graph.operators if index in op.outputs), None)

    def _consumers(self, index: int) -> list[Any]:
        return [op for op in self._graph.operators if index in op.inputs]

    def _add_buffer(self, values: np.ndarray | None = None) -> int:
        buffer = self._schema.BufferT()
        if values is not None:
            data = np.ascontiguousarray(values, np.float32).tobytes()
            buffer.data = np.frombuffer(data, np.uint8)
        self._model.buffers.append(buffer)
        return len(self._model.buffers) - 1

    def _add_tensor(self, name: str, shape: Any, values: np.ndarray | None = None) -> int:
        tensor = self._schema.TensorT()
        tensor.name, tensor.shape = self._unused(name).encode(), [int(size) for size in shape]
        tensor.type = self._schema.TensorType.FLOAT32
        tensor.buffer = self._add_buffer(values)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _unused(self, name: str) -> str:
        """Returns a name that no tensor has: ai-edge-quantizer knows tensors by their names."""
        used = {tensor.name.decode() for tensor in self._graph.tensors}
        candidates = (f"{name}_{number}" for number in count(2))
        return next(each for each in chain([name], candidates) if each not in used)

    def _new_operator(self, kind: str, inputs: list[int], outputs: list[int]) -> Any:
        operator = self._schema.OperatorT()
        operator.inputs, operator.outputs = inputs, outputs
        for index in range(len(self._model.operatorCodes)):
            operator.opcodeIndex = index
            if self._is(operator, kind):
                return operator
        code = self._schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self._schema.BuiltinOperator, kind)
        code.version = 1
        self._model.operatorCodes.append(code)
        operator.opcodeIndex = len(self._model.operatorCodes) - 1
        return operator
