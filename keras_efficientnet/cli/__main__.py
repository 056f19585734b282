"""Runs the command line as `python -m keras_efficientnet.cli`."""

from keras_efficientnet.cli import main

main()
