"""What TensorFlow says of itself is kept back for a while, and only for a while."""

import logging
import os

import pytest

from keras_efficientnet.native_logs import suppress_native_logs


@pytest.mark.parametrize("name", ["absl", "tensorflow"])
def test_nothing_is_said_inside_and_all_outside(name, caplog, capfd):
    logger = logging.getLogger(name)
    level = logger.level
    with pytest.raises(ZeroDivisionError), suppress_native_logs():
        logger.warning("inside")
        os.write(2, b"inside")
        raise ZeroDivisionError
    assert logger.level == level
    with caplog.at_level(logging.WARNING, logger=name):
        logger.warning("outside")
    os.write(2, b"outside")
    assert "inside" not in caplog.text + capfd.readouterr().err
    assert "outside" in caplog.text
