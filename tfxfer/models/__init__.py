"""Task models: a pretrained backbone, its preprocessor and a new top, as functional Keras models that take strings."""

from tfxfer.models._attributions import Attribution, Explanation
from tfxfer.models._classifier import TextClassifier
from tfxfer.models._deciding import Classification
from tfxfer.models._denoising import DenoisingAutoencoder
from tfxfer.models._embedder import TextEmbedder
from tfxfer.models._entities import Entity, Span
from tfxfer.models._explaining import Explained
from tfxfer.models._few_shot import few_shot
from tfxfer.models._late import LateInteractionEmbedder
from tfxfer.models._masked import Filling, MaskedLanguageModel
from tfxfer.models._multi_task import MultiTask
from tfxfer.models._multimodal import Multimodal, MultimodalClassifier, MultimodalRegressor
from tfxfer.models._ranking import Ranked
from tfxfer.models._regressor import TextRegressor
from tfxfer.models._reranker import Reranker
from tfxfer.models._siamese import Siamese, SiameseClassifier
from tfxfer.models._signatures import Signature
from tfxfer.models._simcse import simcse
from tfxfer.models._sparse import SparseEmbedder, Term
from tfxfer.models._students import conv_student, static_student
from tfxfer.models._suggest import Suggestion
from tfxfer.models._tagger import TokenTagger
from tfxfer.models._task import TextTask
from tfxfer.models._tension import ContrastiveTension
from tfxfer.models._token_entities import TokenEntity
from tfxfer.models._workers import Workers

__all__ = [
    "Attribution",
    "Classification",
    "ContrastiveTension",
    "DenoisingAutoencoder",
    "Entity",
    "Explained",
    "Explanation",
    "Filling",
    "LateInteractionEmbedder",
    "MaskedLanguageModel",
    "MultiTask",
    "Multimodal",
    "MultimodalClassifier",
    "MultimodalRegressor",
    "Ranked",
    "Reranker",
    "Siamese",
    "SiameseClassifier",
    "Signature",
    "Span",
    "SparseEmbedder",
    "Suggestion",
    "Term",
    "TextClassifier",
    "TextEmbedder",
    "TextRegressor",
    "TextTask",
    "TokenEntity",
    "TokenTagger",
    "Workers",
    "conv_student",
    "few_shot",
    "simcse",
    "static_student",
]
