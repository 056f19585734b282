"""Names of TensorFlow variables, given in a way that costs less time than TensorFlow's own."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def named_after_creation() -> Iterator[None]:
    """Creates TensorFlow's variables as "kernel", then names them "block1a_dwconv/kernel".

    TensorFlow prepares an operation for every name that it has not met, which takes longer
    than all else about a variable. SavedModels tell variables apart by the full names.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    def create(next_creator, **options):
        if tf.distribute.has_strategy():  # its variables are many under one name
            return next_creator(**options)
        name = options["name"]
        # The slash makes a name absolute; without it the scope would come before it.
        variable = next_creator(**{**options, "name": f"{name}/"})
        if not hasattr(variable, "_handle_name"):  # in another TensorFlow
            return next_creator(**options)
        scope = tf.get_current_name_scope()
        variable._handle_name = f"{scope}/{name}:0" if scope else f"{name}:0"
        return variable

    with tf.variable_creator_scope(create):
        yield
