"""Losses on embeddings, logits and scores: pure functions, each with a thin `keras.losses.Loss` class around it.

Which one fits your data? `docs/losses.md` lists them all in a table made from these docstrings: each class documents
the `Rows:` it needs, when to `Choose it:` and its `Neighbours:`. In short: `CoSENTLoss` for pairs with a score;
`MultipleNegativesRankingLoss` for pairs that belong together; `MultiSimilarityLoss`, `BatchHardTripletLoss` or
`SupervisedContrastiveLoss` for texts with class ids; `MarginMSELoss`, `DistillKLDivLoss` or `EmbeddingDistillationLoss`
to learn from a teacher.

`y_pred` is the output of `models.Siamese`, float `(batch, columns, dim)`: column 0 is the anchor or query, column 1 the
positive or document, and further columns are negatives. Losses on single texts also take the `(batch, dim)` output of a
`models.TextEmbedder`. Functions compute in the dtype of `y_pred`; classes compute in float32 by default, under mixed
precision too. The defaults suit unit vectors. Wrong shapes and wrong kinds of labels raise an error when the first
batch is traced.

`ClassCrossentropy` and `WeightedBinaryCrossentropy`, named in Keras's style, take the logits `(batch, classes)` of
classifiers. `MaxSimRankingLoss` and `MaxSimDistillationLoss` take token vectors `(batch, columns, length, dim)`.
`TagCrossentropy` and `ChainCrossentropy` take the logits `(batch, length, tags)` of token taggers with a linear head
and with a `layers.CRF`, respectively.

`LambdaLoss`, `ListNetLoss` and the other list losses take the scores of a `models.Reranker` for the documents of a
query, and grades `(lists, documents)`, NaN past the end of a list.
"""

from tfxfer.losses._classes import (
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchSemiHardTripletLoss,
    SupervisedContrastiveLoss,
    batch_all_triplet,
    batch_hard_soft_margin_triplet,
    batch_hard_triplet,
    batch_semi_hard_triplet,
    supervised_contrastive,
)
from tfxfer.losses._distillation import (
    DistillKLDivLoss,
    EmbeddingDistillationLoss,
    MarginMSELoss,
    distill_kl_div,
    embedding_distillation,
    margin_mse,
)
from tfxfer.losses._late import (
    MaxSimDistillationLoss,
    MaxSimRankingLoss,
    maxsim_distillation,
    maxsim_ranking,
    score_ranking,
)
from tfxfer.losses._layerwise import AdaptiveLayerLoss, Matryoshka2dLoss, adaptive_layer, matryoshka_2d
from tfxfer.losses._list_pairs import LambdaLoss, RankNetLoss, lambda_loss, rank_net
from tfxfer.losses._lists import (
    ListSoftmaxLoss,
    PointwiseCrossentropyLoss,
    PointwiseMSELoss,
    ScoreMarginMSELoss,
    list_softmax,
    pointwise_crossentropy,
    pointwise_mse,
    score_margin_mse,
)
from tfxfer.losses._listwise import (
    ADRMSELoss,
    ListMLELoss,
    ListNetLoss,
    PositionListMLELoss,
    adr_mse,
    list_mle,
    list_net,
    position_list_mle,
)
from tfxfer.losses._logits import (
    ClassCrossentropy,
    WeightedBinaryCrossentropy,
    class_crossentropy,
    weighted_binary_crossentropy,
)
from tfxfer.losses._memory import CrossBatchMemoryLoss, cross_batch_memory
from tfxfer.losses._neighbourhoods import (
    GeneralizedLiftedStructureLoss,
    LiftedStructureLoss,
    PNLoss,
    SoftNearestNeighboursLoss,
    generalized_lifted_structure,
    lifted_structure,
    pn,
    soft_nearest_neighbours,
)
from tfxfer.losses._pairs import (
    AnglELoss,
    ContrastiveLoss,
    CoSENTLoss,
    CosineMSELoss,
    OnlineContrastiveLoss,
    angle,
    contrastive,
    cosent,
    cosine_mse,
    online_contrastive,
)
from tfxfer.losses._ranking import (
    GISTEmbedLoss,
    MegaBatchMarginLoss,
    MultipleNegativesRankingLoss,
    gist_embed,
    mega_batch_margin,
    multiple_negatives_ranking,
)
from tfxfer.losses._similarities import (
    CircleLoss,
    MultiSimilarityLoss,
    NPairsLoss,
    NPairsMultilabelLoss,
    NPairsRowsLoss,
    circle,
    multi_similarity,
    n_pairs,
    n_pairs_multilabel,
    n_pairs_rows,
)
from tfxfer.losses._tags import (
    ChainCrossentropy,
    TagCrossentropy,
    chain_crossentropy,
    tag_crossentropy,
)
from tfxfer.losses._tension import (
    ContrastiveTensionInBatchLoss,
    ContrastiveTensionLoss,
    contrastive_tension,
    contrastive_tension_in_batch,
)
from tfxfer.losses._triplets import (
    TripletCrossEntropyLoss,
    TripletLoss,
    TripletMarginRankingLoss,
    triplet,
    triplet_cross_entropy,
    triplet_margin_ranking,
)
from tfxfer.losses._wrappers import (
    GlobalOrthogonalRegularizationLoss,
    MatryoshkaLoss,
    global_orthogonal_regularization,
    matryoshka,
)

__all__ = [
    "ADRMSELoss",
    "AdaptiveLayerLoss",
    "AnglELoss",
    "BatchAllTripletLoss",
    "BatchHardSoftMarginTripletLoss",
    "BatchHardTripletLoss",
    "BatchSemiHardTripletLoss",
    "ChainCrossentropy",
    "CircleLoss",
    "ClassCrossentropy",
    "CoSENTLoss",
    "ContrastiveLoss",
    "ContrastiveTensionInBatchLoss",
    "ContrastiveTensionLoss",
    "CosineMSELoss",
    "CrossBatchMemoryLoss",
    "DistillKLDivLoss",
    "EmbeddingDistillationLoss",
    "GISTEmbedLoss",
    "GeneralizedLiftedStructureLoss",
    "GlobalOrthogonalRegularizationLoss",
    "LambdaLoss",
    "LiftedStructureLoss",
    "ListMLELoss",
    "ListNetLoss",
    "ListSoftmaxLoss",
    "MarginMSELoss",
    "Matryoshka2dLoss",
    "MatryoshkaLoss",
    "MaxSimDistillationLoss",
    "MaxSimRankingLoss",
    "MegaBatchMarginLoss",
    "MultiSimilarityLoss",
    "MultipleNegativesRankingLoss",
    "NPairsLoss",
    "NPairsMultilabelLoss",
    "NPairsRowsLoss",
    "OnlineContrastiveLoss",
    "PNLoss",
    "PointwiseCrossentropyLoss",
    "PointwiseMSELoss",
    "PositionListMLELoss",
    "RankNetLoss",
    "ScoreMarginMSELoss",
    "SoftNearestNeighboursLoss",
    "SupervisedContrastiveLoss",
    "TagCrossentropy",
    "TripletCrossEntropyLoss",
    "TripletLoss",
    "TripletMarginRankingLoss",
    "WeightedBinaryCrossentropy",
    "adaptive_layer",
    "adr_mse",
    "angle",
    "batch_all_triplet",
    "batch_hard_soft_margin_triplet",
    "batch_hard_triplet",
    "batch_semi_hard_triplet",
    "chain_crossentropy",
    "circle",
    "class_crossentropy",
    "contrastive",
    "contrastive_tension",
    "contrastive_tension_in_batch",
    "cosent",
    "cosine_mse",
    "cross_batch_memory",
    "distill_kl_div",
    "embedding_distillation",
    "generalized_lifted_structure",
    "gist_embed",
    "global_orthogonal_regularization",
    "lambda_loss",
    "lifted_structure",
    "list_mle",
    "list_net",
    "list_softmax",
    "margin_mse",
    "matryoshka",
    "matryoshka_2d",
    "maxsim_distillation",
    "maxsim_ranking",
    "mega_batch_margin",
    "multi_similarity",
    "multiple_negatives_ranking",
    "n_pairs",
    "n_pairs_multilabel",
    "n_pairs_rows",
    "online_contrastive",
    "pn",
    "pointwise_crossentropy",
    "pointwise_mse",
    "position_list_mle",
    "rank_net",
    "score_margin_mse",
    "score_ranking",
    "soft_nearest_neighbours",
    "supervised_contrastive",
    "tag_crossentropy",
    "triplet",
    "triplet_cross_entropy",
    "triplet_margin_ranking",
    "weighted_binary_crossentropy",
]
