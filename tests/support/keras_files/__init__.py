"""Small models that Keras and TensorFlow wrote, by ``make.py``."""

from pathlib import Path

KERAS_FILES = Path(__file__).parent
