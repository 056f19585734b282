"""Refuses a SavedModel that could do more than compute, before TensorFlow loads it.

A SavedModel is a program, and TensorFlow has operators that read and write files, open connections
and call Python. What an image classifier needs is listed here, with and without the decoding of
files; whatever is not, an operator that a later TensorFlow brings included, is refused by its name.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

OPERATORS = frozenset(
    """
    Const Placeholder PlaceholderWithDefault Identity IdentityN NoOp StopGradient PreventGradient
    EnsureShape Snapshot CheckNumerics CheckNumericsV2 Assert

    PartitionedCall StatefulPartitionedCall If StatelessIf Case StatelessCase While StatelessWhile
    Switch Merge Enter Exit NextIteration LoopCond FakeParam ToBool
    EmptyTensorList TensorListConcatV2 TensorListElementShape TensorListFromTensor TensorListGather
    TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack TensorListReserve
    TensorListResize TensorListScatterV2 TensorListSetItem TensorListStack

    VarHandleOp ReadVariableOp AssignVariableOp AssignAddVariableOp AssignSubVariableOp
    VarIsInitializedOp VariableShape ResourceGather ResourceGatherNd DisableCopyOnRead
    HashTableV2 LookupTableFindV2 LookupTableImportV2 LookupTableSizeV2

    Cast Bitcast Shape ShapeN Rank Size Reshape ExpandDims Squeeze Transpose ConjugateTranspose
    Concat ConcatV2 ConcatOffset Pack Unpack Split SplitV Slice StridedSlice Gather GatherV2
    GatherNd ScatterNd TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterSub
    TensorScatterUpdate Pad PadV2 MirrorPad Tile BroadcastTo BroadcastArgs Fill ZerosLike OnesLike
    Empty OneHot Range LinSpace Where ReverseV2 ReverseSequence Roll InvertPermutation Unique
    UniqueV2 UnravelIndex DynamicPartition DynamicStitch DepthToSpace SpaceToDepth SpaceToBatchND
    BatchToSpaceND ExtractImagePatches MatrixBandPart MatrixDiagV3 MatrixDiagPartV3 MatrixSetDiagV3

    Abs Add AddN AddV2 Sub Mul MulNoNan Div DivNoNan RealDiv TruncateDiv FloorDiv FloorMod
    TruncateMod Mod Neg Sign Square SquaredDifference Sqrt Rsqrt Reciprocal Inv Pow Exp Expm1 Log
    Log1p Xlogy Xdivy Xlog1py Sin Cos Tan Asin Acos Atan Atan2 Sinh Cosh Tanh Asinh Acosh Atanh Erf
    Erfc Erfinv Ceil Floor Round Rint Maximum Minimum ClipByValue IsFinite IsInf IsNan Equal
    NotEqual ApproximateEqual Greater GreaterEqual Less LessEqual LogicalAnd LogicalNot LogicalOr
    BitwiseAnd BitwiseOr BitwiseXor Invert LeftShift RightShift Select SelectV2 Sum Mean Prod Max
    Min All Any EuclideanNorm L2Loss ArgMax ArgMin Cumsum Cumprod CumulativeLogsumexp TopKV2
    InTopKV2 NthElement Bincount DenseBincount Bucketize SegmentSum UnsortedSegmentMax
    UnsortedSegmentMin UnsortedSegmentSum MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum
    Cholesky MatrixInverse MatrixSolve

    BiasAdd Conv Conv2D Conv2DBackpropInput Conv3D DepthwiseConv2dNative Dilation2D FusedBatchNorm
    FusedBatchNormV2 FusedBatchNormV3 LRN AvgPool AvgPool3D MaxPool MaxPoolV2 MaxPool3D
    MaxPoolWithArgmax Relu Relu6 LeakyRelu Elu Selu Sigmoid Softplus Softsign Softmax LogSoftmax
    FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel
    QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeV2 Dequantize

    RandomUniform RandomUniformInt RandomStandardNormal TruncatedNormal RandomShuffle
    RngReadAndSkip RngSkip StatelessRandomGetAlg StatelessRandomGetKeyCounter
    StatelessRandomGetKeyCounterAlg StatelessRandomUniform StatelessRandomUniformV2
    StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformFullInt
    StatelessRandomUniformFullIntV2 StatelessRandomNormal StatelessRandomNormalV2
    StatelessTruncatedNormal StatelessTruncatedNormalV2 StatelessShuffle
    StatelessSampleDistortedBoundingBox

    DecodeImage DecodeJpeg DecodeAndCropJpeg DecodePng DecodeBmp DecodeGif DecodeWebP
    ExtractJpegShape DecodeRaw DecodePaddedRaw DecodeBase64 ResizeArea ResizeBicubic ResizeBilinear
    ResizeNearestNeighbor ScaleAndTranslate CropAndResize ImageProjectiveTransformV2
    ImageProjectiveTransformV3 AdjustContrastv2 AdjustHue AdjustSaturation RGBToHSV HSVToRGB

    AsString StringFormat StringJoin StringLength StringLower StringUpper StringStrip StringSplitV2
    Substr StringToNumber StringToHashBucketFast RegexFullMatch RegexReplace StaticRegexFullMatch
    StaticRegexReplace ReduceJoin
    """.split()  # noqa: SIM905  a literal would fill 300 lines
)
"""Names of the operators that a SavedModel may have.

Groups: values and control flow, lists of loops, variables and tables in memory, arrays,
arithmetic, layers, randomness (networks are often saved with what they do in training), decoding
and resizing, text.
"""
SAVER_OPERATORS = frozenset(("SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"))
"""Operators that also occur in the two functions which every SavedModel has for its variables.

TensorFlow calls neither: it reads the variables by itself.
"""
# Lets TensorFlow's optimizer put a function in the place of another one.
_REPLACES = "api_implements"


def check_saved_model(path: str | Path) -> None:
    """Refuses a SavedModel with an operator that is not known to do nothing but compute.

    Args:
        path: of its folder, which is read and not loaded.

    Raises:
        ValueError: if it has such an operator; the message names it.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    content = SavedModel.FromString(Path(path, "saved_model.pb").read_bytes())
    for graph in content.meta_graphs:
        functions = {f.signature.name: f for f in graph.graph_def.library.function}
        # Only of an object-based SavedModel does TensorFlow leave the graph's own nodes alone.
        runs_functions_alone = len(content.meta_graphs) == 1 and graph.HasField("object_graph_def")
        savers = _savers(graph, functions) if runs_functions_alone else set()
        for name, function in functions.items():
            _check(function.node_def, OPERATORS | SAVER_OPERATORS if name in savers else OPERATORS)
        _check(graph.graph_def.node, OPERATORS)


def _check(nodes: Iterable[Any], allowed: frozenset[str]) -> None:
    for operator in sorted({node.op for node in nodes} - allowed):
        raise ValueError(
            f"its operator {operator!r} is not among those that an image classifier needs, and "
            "could access files, programs or the network"
        )


def _savers(graph: Any, functions: Mapping[str, Any]) -> set[str]:
    """Returns the names of the functions that save or restore variables and that nothing calls."""
    saver = graph.saver_def
    ends = {saver.save_tensor_name.partition(":")[0], saver.restore_op_name}
    within = _called([node for node in graph.graph_def.node if node.name in ends], functions)
    outside = _called([node for node in graph.graph_def.node if node.name not in ends], functions)
    rest = functions.keys() - within
    outside |= _called([node for name in rest for node in functions[name].node_def], functions)
    exposed = _called_by_name(graph.object_graph_def.concrete_functions, functions)
    replacing = {name for name in within if _REPLACES in functions[name].attr}
    return within - outside - exposed - replacing


def _called(nodes: Sequence[Any], functions: Mapping[str, Any]) -> set[str]:
    """Returns the names of the functions that nodes call, directly or not."""
    values = (value for node in nodes for value in node.attr.values())
    return _called_by_name(
        [f.name for value in values for f in (value.func, *value.list.func)], functions
    )


def _called_by_name(names: Iterable[str], functions: Mapping[str, Any]) -> set[str]:
    """Returns those of the names that are functions, and whatever these call."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in functions and name not in found:
            found.add(name)
            for node in functions[name].node_def:
                for value in node.attr.values():
                    waiting += [f.name for f in (value.func, *value.list.func)]
    return found
