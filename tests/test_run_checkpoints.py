import keras
import numpy as np
import pytest

from keras_efficientnet import InputError
from keras_efficientnet.errors import RunError
from keras_efficientnet.training import run_checkpoints

TENSORS = {
    "scalar": np.array(3, np.int64),
    "wide": np.arange(6000, dtype=np.float32).reshape(60, 100),
    "bytes": np.array([0, 255], np.uint8),
}


def write(folder, *steps):
    def save(step):
        tensors = {**TENSORS, "step": np.array(step)}
        return run_checkpoints.save(folder, step, tensors, {"step": step})

    return [save(step) for step in steps][-1]


def assert_newest(folder, step):
    found = run_checkpoints.load_newest(folder)
    assert found
    tensors, state = found
    assert state == {"step": step}
    assert tensors.pop("step") == step
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        np.testing.assert_array_equal(tensors[name], value)


def test_the_newest_is_read_and_two_are_kept(tmp_path):
    assert run_checkpoints.newest_step(tmp_path / "none") == -1
    assert run_checkpoints.load_newest(tmp_path / "none") is None
    write(tmp_path, 9, 10, 100)
    assert_newest(tmp_path, 100)
    assert run_checkpoints.newest_step(tmp_path) == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000010.safetensors",
        "step-000000100.safetensors",
    ]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_the_one_before_is_read_where_the_newest_is_cut_off(tmp_path, share):
    content = write(tmp_path, 1, 2).read_bytes()
    (tmp_path / "step-000000002.safetensors").write_bytes(content[: int(share * len(content))])
    assert_newest(tmp_path, 1)


def test_any_changed_byte_is_noticed(tmp_path):
    path = write(tmp_path, 1, 2)
    content = path.read_bytes()
    for place in np.linspace(0, len(content) - 1, 97).astype(int):
        changed = bytearray(content)
        changed[place] ^= 0x40
        path.write_bytes(changed)
        # A change that leaves the file meaning the same would be no damage.
        found = run_checkpoints.load_newest(tmp_path)
        assert found
        assert found[1] == {"step": 1}, place


def test_half_written_ones_do_not_count(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "step-000000002.writing").write_bytes(b"half")
    assert_newest(tmp_path, 1)
    write(tmp_path, 2)
    assert_newest(tmp_path, 2)


def test_a_failed_write_leaves_the_earlier_ones(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "step-000000002.writing").mkdir()  # the name is taken: writing must fail
    with pytest.raises(RunError, match="step-000000002"):
        write(tmp_path, 2)
    assert_newest(tmp_path, 1)


def test_variables_come_back_and_must_be_the_same():
    variables = run_checkpoints.variables_of(
        a=[keras.Variable([1.0, 2.0]), keras.Variable(3)],
        b=[keras.Variable([[True]], dtype="bool")],
    )
    tensors = {name: value.numpy() for name, value in variables.items()}
    for variable in variables.values():
        variable.assign(keras.ops.zeros_like(variable))
    run_checkpoints.restore(variables, tensors)
    for name, value in tensors.items():
        np.testing.assert_array_equal(variables[name].numpy(), value)
    with pytest.raises(InputError, match="'a/00001' differs"):
        run_checkpoints.restore(variables, {**tensors, "a/00001": np.zeros(5)})
    with pytest.raises(InputError, match="'c/00000' differs"):
        run_checkpoints.restore(variables, {**tensors, "c/00000": np.zeros(5)})
