"""Write the files of this folder, with Keras and TensorFlow themselves; neither is needed to run the tests.

    pip install keras tensorflow-cpu scikit-learn
    cd tests/support/keras_files && KERAS_BACKEND=tensorflow python - < make.py

Keras 3.15.1 and TensorFlow 2.21.0 wrote those that are here.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

HERE = Path()
EPOCHS = 30


@keras.saving.register_keras_serializable(package="mine")
class Halved(layers.Layer):
    """A layer of somebody's own, registered."""

    def call(self, images):
        return images / 2


class Doubled(layers.Layer):
    """A layer of somebody's own, not registered."""

    def call(self, images):
        return images * 2


def my_loss(truth, answer):
    return keras.losses.sparse_categorical_crossentropy(truth, answer)


def digits() -> keras.Model:
    """Digits of 8x8 pixels from 0 to 255 to shares of ten classes, untrained."""
    return keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def trained() -> keras.Model:
    """The same, trained with a loss of somebody's own."""
    known = load_digits()
    images = (known.images * 255 / 16)[..., np.newaxis]
    model = digits()
    model.compile(keras.optimizers.SGD(0.05), loss=my_loss)
    model.fit(images, known.target, epochs=EPOCHS, verbose=0)
    return model


def with_layers(*inner: layers.Layer) -> keras.Model:
    first = last = layers.Input((8, 8, 1))
    for layer in inner:
        last = layer(last)
    return keras.Model(first, layers.Dense(10)(layers.Flatten()(last)))


def main() -> None:
    keras.utils.set_random_seed(0)
    model, plain = trained(), digits()
    model.save(HERE / "compiled.keras")
    plain.set_weights(model.get_weights())
    plain.save(HERE / "digits.keras")
    plain.save(HERE / "digits.h5")
    plain.save_weights(HERE / "digits.weights.h5")
    with_layers().export(HERE / "saved_model", format="tf_saved_model", verbose=False)
    lambdas = with_layers(layers.Lambda(lambda images: images / 255))
    lambdas.save(HERE / "lambda.keras")
    lambdas.save(HERE / "lambda.h5")
    with_layers(Halved(), Doubled()).save(HERE / "custom.keras")


if __name__ == "__main__":
    main()
