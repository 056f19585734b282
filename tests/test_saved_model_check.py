"""What a SavedModel may consist of, held against TensorFlow's own registry of operators."""

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf
from tensorflow.core.framework.op_def_pb2 import OpList
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python import ops
from tensorflow.python.client import pywrap_tf_session

import keras_efficientnet as ke
from keras_efficientnet import InputError
from keras_efficientnet.deploy.exportable import open_exportable
from keras_efficientnet.deploy.saved_model_check import (
    OPERATORS,
    SAVER_OPERATORS,
    check_saved_model,
)

# TensorFlow's modules of operators that touch files, network, host code or devices, or keep what
# others read later.
DOORS = """
    batch boosted_trees candidate_sampling checkpoint collective cudnn_rnn dataset debug
    decode_proto encode_proto experimental_dataset filesystem io nccl script sdca sendrecv state
    summary sync tpu tpu_partition training
""".split()  # noqa: SIM905  shorter than a literal
# Names of operators that no module has, and of those in modules of other things.
NAMED = re.compile(
    r"_.*|.*(File|Dataset|Iterator|PyFunc|Print|Debug|Summary|Reader|Record|Rpc|Remote|Send|Recv"
    r"|Collective|Nccl|TPU|Xla|Sparse[cC]ore|Checkpoint|Infeed|Outfeed|Session|Mutex|Queue|Stage"
    r"|Device|Plugin|Callback|Abort|Timestamp|Proto|Csr|Immutable|GPU|Host|Worker).*"
)
ARGUMENTS = re.compile(r".*(file|path|dir|address|descriptor|host|protocol|url|socket|device).*")
# Operators with a state, a function or such a word that touch memory alone.
REVIEWED = set(
    """
    VarHandleOp ReadVariableOp AssignVariableOp AssignAddVariableOp AssignSubVariableOp
    VarIsInitializedOp VariableShape ResourceGather ResourceGatherNd DisableCopyOnRead
    HashTableV2 LookupTableFindV2 LookupTableImportV2 LookupTableSizeV2
    Assert CheckNumerics CheckNumericsV2 Empty
    PartitionedCall StatefulPartitionedCall If StatelessIf Case StatelessCase While StatelessWhile
    RandomUniform RandomUniformInt RandomStandardNormal TruncatedNormal RandomShuffle
    RngReadAndSkip RngSkip StatelessRandomGetAlg
    """.split()  # noqa: SIM905
)
KNOWN_DOORS = set(
    """
    ReadFile WriteFile MatchingFiles InitializeTableFromTextFileV2 CacheDatasetV2 CSVDataset
    MatchingFilesDataset LoadAndRemapMatrix GenerateVocabRemapping ImmutableConst PyFunc
    FixedUnigramCandidateSampler RecordInput DecodeProtoV2 XlaCallModule RemoteCall
    CreateSummaryFileWriter PrintV2 DebugIdentityV3 SaveV2 RestoreV2
    """.split()  # noqa: SIM905
)


@pytest.fixture(scope="module")
def registry():
    """Every operator that TensorFlow knows, those without a Python function included."""
    buffer = pywrap_tf_session.TF_GetAllOpList()
    found = OpList.FromString(pywrap_tf_session.TF_GetBuffer(buffer))
    return {definition.name: definition for definition in found.op}


def modules():
    """Operators by the module in which TensorFlow keeps them."""
    for module in pkgutil.iter_modules(ops.__path__):
        if module.name.startswith("gen_"):
            names = vars(importlib.import_module(f"{ops.__name__}.{module.name}"))
            yield (
                module.name.removeprefix("gen_").removesuffix("_ops"),
                {n for n, value in names.items() if hasattr(tf.raw_ops, n) and value is not Any},
            )


def test_no_operator_that_reaches_out_is_allowed(registry):
    assert len(registry) > 1400
    assert registry.keys() >= OPERATORS | SAVER_OPERATORS
    doors = {name for module, names in modules() if module in DOORS for name in names}
    assert len(doors) > 350
    for name, definition in registry.items():
        words = [argument.name for argument in (*definition.input_arg, *definition.attr)]
        calls = any("func" in attr.type for attr in definition.attr)
        suspect = definition.is_stateful or calls or any(map(ARGUMENTS.fullmatch, words))
        if name in doors or NAMED.fullmatch(name) or (suspect and name not in REVIEWED):
            assert name not in OPERATORS, name
    assert registry.keys() >= KNOWN_DOORS
    assert not KNOWN_DOORS & OPERATORS


def saved(folder, body, **attributes):
    """A SavedModel of images of 8 x 8 whose function also runs `body`."""
    module = tf.Module()
    module.scale = tf.Variable(1.0)

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32, name="images")])
    def serve(images):
        with tf.control_dependencies(tf.nest.flatten(body())):
            images = tf.identity(images)
        return {"scores": module.scale * tf.reduce_mean(images, (1, 2))}

    for name, value in attributes.items():
        setattr(module, name, value)
    tf.saved_model.save(module, str(folder), signatures=serve)
    return folder


def refused(folder, operator):
    for call in (ke.Predictor, open_exportable):
        with pytest.raises(InputError, match=f"operator '{operator}' is not among those") as caught:
            call(folder)
        assert "\n" not in str(caught.value)


def test_operators_that_read_files_and_that_nobody_listed(tmp_path):
    raw, secret = tf.raw_ops, str(tmp_path / "secret")
    cases = {
        "InitializeTableFromTextFileV2": lambda: raw.InitializeTableFromTextFileV2(
            table_handle=raw.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64),
            filename=secret,
            key_index=-2,
            value_index=-1,
        ),
        "CacheDatasetV2": lambda: raw.CacheDatasetV2(
            input_dataset=raw.TensorSliceDataset(components=[tf.zeros(1)], output_shapes=[[]]),
            filename=secret,
            cache=raw.DummyMemoryCache(),
            output_types=[tf.float32],
            output_shapes=[[]],
        ),
        "MatchingFilesDataset": lambda: raw.MatchingFilesDataset(patterns=[secret]),
        "TextLineDataset": lambda: raw.TextLineDataset(
            filenames=[secret], compression_type="", buffer_size=0
        ),
        "LoadAndRemapMatrix": lambda: raw.LoadAndRemapMatrix(
            ckpt_path=secret,
            old_tensor_name="a",
            row_remapping=tf.zeros(1, tf.int64),
            col_remapping=tf.zeros(0, tf.int64),
            initializing_values=[],
            num_rows=1,
            num_cols=1,
        ),
    }
    for operator, body in cases.items():
        folder = saved(tmp_path / operator, body)
        with pytest.raises(ValueError, match="is not among those"):
            check_saved_model(folder)


def test_a_table_from_a_file_beside_the_network(tmp_path):
    """The initializer of a table is a function that runs when the folder is loaded."""
    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")
    initializer = tf.lookup.TextFileInitializer(
        str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, -1
    )
    table = tf.lookup.StaticHashTable(initializer, -1)
    refused(saved(tmp_path / "file", list, table=table), "InitializeTableFromTextFileV2")
    known = tf.lookup.KeyValueTensorInitializer(["a"], tf.constant([1], tf.int64))
    ke.Predictor(saved(tmp_path / "memory", list, table=tf.lookup.StaticHashTable(known, -1)))


def change(folder, edit):
    path = Path(folder, "saved_model.pb")
    content = SavedModel.FromString(path.read_bytes())
    edit(content.meta_graphs[0])
    path.write_bytes(content.SerializeToString())


def test_the_functions_for_variables_are_let_pass_only_where_nothing_calls_them(tmp_path):
    folder = saved(tmp_path / "saved", list)
    check_saved_model(folder)
    original = (folder / "saved_model.pb").read_bytes()

    def saver_of(graph):
        functions = {f.signature.name: f for f in graph.graph_def.library.function}
        return next(f for name, f in functions.items() if "traced_save" in name)

    def expose(graph):
        graph.object_graph_def.concrete_functions[saver_of(graph).signature.name].SetInParent()

    def call(graph):
        serve = next(f for f in graph.graph_def.library.function if "serve" in f.signature.name)
        node = serve.node_def.add(op="PartitionedCall")
        node.attr["f"].func.name = saver_of(graph).signature.name

    def call_in_a_list(graph):
        node = graph.graph_def.node.add(name="other", op="Case")
        node.attr["branches"].list.func.add(name=saver_of(graph).signature.name)

    def replace(graph):
        saver_of(graph).attr["api_implements"].s = b"serve"

    def write(graph):
        saver_of(graph).node_def.add(op="WriteFile")

    def first_version(graph):
        graph.ClearField("object_graph_def")

    for edit in (expose, call, call_in_a_list, replace, write, first_version):
        (folder / "saved_model.pb").write_bytes(original)
        change(folder, edit)
        with pytest.raises(ValueError, match=r"'(MergeV2Checkpoints|RestoreV2|WriteFile)' is not"):
            check_saved_model(folder)
    (folder / "saved_model.pb").write_bytes(original)
    change(folder, lambda graph: graph.graph_def.node.add(name="x", op="NewIn2030"))
    with pytest.raises(ValueError, match="'NewIn2030'"):
        check_saved_model(folder)


@pytest.mark.slow
def test_what_people_put_around_a_network_is_allowed(tmp_path):
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Resizing(24, 24),
            layers.CenterCrop(16, 16),
            layers.Rescaling(1 / 255),
            layers.Normalization(mean=0.5, variance=1.0),
            layers.SeparableConv2D(4, 3, activation="gelu"),
            layers.LayerNormalization(),
            layers.UpSampling2D(),
            layers.MaxPooling2D(),
            layers.Dropout(0.1),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, "softmax"),
        ]
    )
    network.export(tmp_path / "exported", verbose=False)
    tf.saved_model.save(network, str(tmp_path / "saved"))
    check_saved_model(tmp_path / "exported")
    check_saved_model(tmp_path / "saved")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("EfficientNetB0", marks=pytest.mark.slow),
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in ("EfficientNetV2B0", "MobileNetV3Small", "ConvNeXtTiny", "Xception")
        ),
    ],
)
def test_networks_of_keras_applications(tmp_path, name):
    network = getattr(keras.applications, name)(weights=None, input_shape=(71, 71, 3), classes=4)
    network.export(tmp_path / "exported", verbose=False)
    assert len(ke.Predictor(tmp_path / "exported").classify(bytes_of_an_image())) == 4
    tf.saved_model.save(network, str(tmp_path / "saved"))
    check_saved_model(tmp_path / "saved")


def bytes_of_an_image():
    return tf.io.encode_png(tf.zeros((80, 80, 3), tf.uint8)).numpy()
