"""Task models: a pretrained backbone, its preprocessor and a new top, as functional Keras models that take strings."""

from tfxfer.models._classifier import Classification, TextClassifier
from tfxfer.models._embedder import TextEmbedder
from tfxfer.models._regressor import TextRegressor
from tfxfer.models._siamese import Siamese, SiameseClassifier

__all__ = ["Classification", "Siamese", "SiameseClassifier", "TextClassifier", "TextEmbedder", "TextRegressor"]
