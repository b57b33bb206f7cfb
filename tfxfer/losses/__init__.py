"""Losses on embeddings and on logits: pure functions, and thin `keras.losses.Loss` classes around them.

Which one fits the rows? `docs/losses.md` has the table of all, made from the docstrings here: each class says which
`Rows:` it needs, when to `Choose it:` and what its `Neighbours:` are. In short: pairs with a score, `CoSENTLoss`; pairs
that belong together, `MultipleNegativesRankingLoss`; texts with class ids, `MultiSimilarityLoss`,
`BatchHardTripletLoss` or `SupervisedContrastiveLoss`; a teacher, `MarginMSELoss`, `DistillKLDivLoss` or
`EmbeddingDistillationLoss`.

`y_pred` is what `models.Siamese` gives, float `(batch, columns, dim)`: column 0 the anchor or query, column 1 the
positive or document, further columns negatives. Losses on single texts take the `(batch, dim)` of a
`models.TextEmbedder` as well. Functions compute in the dtype of `y_pred`, classes in float32 unless told otherwise,
under mixed precision too. Defaults are made for unit vectors. Shapes and kinds of labels that do not fit are errors
when the first batch is traced.

`ClassCrossentropy` and `WeightedBinaryCrossentropy`, which are named as Keras's own, take the logits `(batch, classes)`
of classifiers. `MaxSimRankingLoss` and `MaxSimDistillationLoss` take token vectors `(batch, columns, length, dim)`.
`TagCrossentropy` and `ChainCrossentropy` take the logits `(batch, length, tags)` of token taggers, with
a linear head and with a `layers.CRF`.

`LambdaLoss`, `ListNetLoss` and their neighbours take the scores that a `models.Reranker` gives to the documents of a
query, and grades `(lists, documents)`, NaN where a list has ended.
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
    LambdaLoss,
    ListMLELoss,
    ListNetLoss,
    PositionListMLELoss,
    RankNetLoss,
    adr_mse,
    lambda_loss,
    list_mle,
    list_net,
    position_list_mle,
    rank_net,
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
