"""Mines negatives that a model finds hard to distinguish from positives."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tfxfer import _check, _neighbours, _texts, data

LAYOUTS = ("long", "wide")
SAMPLING = ("top", "random")


def hard_negatives(
    embedder: Any,
    pairs: Any,
    corpus: Sequence[str] | None = None,
    *,
    num_negatives: int = 1,
    ranks: tuple[int, int] = (0, 100),
    min_score: float | None = None,
    max_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    scorer: Any = None,
    sampling: Literal["top", "random"] = "top",
    seed: int | None = None,
    layout: Literal["long", "wide"] = "long",
    similarity: str = "cosine",
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    batch_size: int = 32,
    progress: bool | None = None,
) -> data.Rows:
    """Finds, for each pair of anchor and positive, texts that the embedder ranks close although they are not positives.

    The texts nearest to an anchor are often unlabeled positives. Four options avoid such false negatives: `ranks` skips
    the nearest texts, `max_score` those with a high score, the margins those about as near as the positive, and a
    `scorer` judges better than the embedder. The positives of an anchor, over all pairs, and texts equal to the anchor
    are never used.

    Args:
        embedder: `models.TextEmbedder`, or any object with `encode(list of strings) -> (texts, dim)`.
        pairs: a dataset from `data.pairs` without a target, or a tuple of two lists of strings: anchors and positives.
        corpus: list of strings to take negatives from. Defaults to all positives.
        num_negatives: int. Maximum number of negatives per pair. Defaults to 1.
        ranks: tuple (low, high). Restricts the candidates to these ranks among the texts that are not positives,
            nearest first, from `low` up to but excluding `high`; `(10, 50)` skips ten. A smaller corpus ends earlier.
            Defaults to `(0, 100)`.
        min_score: float. Minimum score of a negative.
        max_score: float. Maximum score of a negative.
        absolute_margin: float >= 0. A negative's score is at most the positive's minus this.
        relative_margin: float in `[0, 1]`. A negative's score is at most the positive's minus this fraction of it. 0.05
            performed best in the reference.
        scorer: optional cross-encoder that rescores all candidates and positives, for margins, bounds and order: a
            `models.TextRegressor` over pairs, a `models.TextClassifier` with two labels (the second counts), or a
            function of two lists of strings that returns a number for each row.
        sampling: `"top"` (default), the nearest remaining candidates, or `"random"` among them.
        seed: int, for `"random"`. Defaults to 0, so that the rows are the same each time.
        layout: `"long"` (default), a row for each negative; or `"wide"`, a row for each pair with columns `negative_1`,
            `negative_2`..., which omits pairs with fewer than `num_negatives`.
        similarity: `"cosine"` (default), `"dot"`, `"euclidean"` or `"manhattan"` (distances negated).
        query_prompt: string prepended to each anchor. Defaults to the embedder's prompt `"query"`, if it has one.
        document_prompt: string prepended to each text of the corpus. Defaults to the embedder's prompt `"document"`,
            `"passage"` or `"corpus"`, if it has one.
        batch_size: int. Number of texts encoded at a time.
        progress: bool. Whether to show progress bars. By default, they are shown for long-running work.

    Returns:
        `data.Rows` for `data.triplets`: columns `anchor`, `positive`, `negative` (or `negative_1`...), and the scores
        `positive_score`, `negative_score` (or `negative_1_score`...), which suit distillation. Its `skipped` counts the
        pairs with too few negatives.

    Raises:
        ValueError: if pairs do not match, the corpus is empty or smaller than the low rank, or no negative is found.

    Example:

    ```python
    rows = tx.search.hard_negatives(embedder, tx.data.pairs(train, ("question", "answer")), relative_margin=0.05)
    train = tx.data.triplets(rows, ("anchor", "positive", "negative"))
    ```

    References:
        - [Xiong et al., 2021](https://arxiv.org/abs/2007.00808)
        - [Qu et al., 2021](https://arxiv.org/abs/2010.08191), false negatives and cross-encoders
        - [Moreira et al., 2024](https://arxiv.org/abs/2407.15831), margins relative to the positive
    """
    columns, _ = _texts.text_columns("pairs", pairs, 2, "data.pairs")
    if len(columns) != 2:
        raise _check.invalid("pairs", "two texts per row: anchor and positive", len(columns))
    corpus = list(dict.fromkeys(columns[1] if corpus is None else _texts.strings("corpus", corpus)))
    ranks = _ranks(ranks, len(corpus))
    bounds = _Bounds(min_score, max_score, absolute_margin, relative_margin)
    _check.integer("num_negatives", num_negatives)
    _check.one_of("sampling", sampling, SAMPLING)
    _check.one_of("layout", layout, LAYOUTS)
    _check.one_of("similarity", similarity, _neighbours.SIMILARITIES)
    task = _Task(columns, corpus)
    prompts = (
        _texts.prompt_for(embedder, query_prompt, _texts.QUERY_PROMPTS),
        _texts.prompt_for(embedder, document_prompt, _texts.DOCUMENT_PROMPTS),
    )
    queries, documents = (
        _texts.encode(embedder, texts, batch_size=batch_size, prompt=prompt, progress=progress)
        for texts, prompt in zip((task.queries, task.documents), prompts, strict=True)
    )
    candidates = _candidates(task, queries, documents, ranks, similarity, progress)
    positive_scores = _neighbours.paired(queries[task.query_of], documents[task.positive_of], similarity)
    if scorer is not None:
        candidates, positive_scores = _scored_again(task, candidates, scorer, batch_size, progress)
    rng = np.random.default_rng(0 if seed is None else _check.integer("seed", seed, minimum=0))
    chosen = []
    for query, score in zip(task.query_of, positive_scores, strict=True):
        ids, scores = candidates[query]
        left = np.flatnonzero(bounds.hold(scores, score))
        if sampling == "random" and len(left) > num_negatives:
            left = np.sort(rng.choice(left, num_negatives, replace=False))
        chosen.append((ids[left[:num_negatives]], scores[left[:num_negatives]]))
    return _rows(columns, task.documents, positive_scores, chosen, num_negatives, layout)


class _Task:
    """Pairs of texts as pairs of indices, with the queries, the documents, and each query's excluded documents."""

    def __init__(self, columns, corpus):
        query_places = {text: i for i, text in enumerate(dict.fromkeys(columns[0]))}
        # Positives outside the corpus are encoded, but cannot be found.
        places = {text: i for i, text in enumerate(dict.fromkeys([*corpus, *columns[1]]))}
        self.queries, self.documents = list(query_places), list(places)
        self.corpus_size = len(corpus)
        self.query_of = np.array([query_places[text] for text in columns[0]])
        self.positive_of = np.array([places[text] for text in columns[1]])
        self.excluded = [{places[text]} if text in places else set() for text in self.queries]
        for query, positive in zip(self.query_of.tolist(), self.positive_of.tolist(), strict=True):
            self.excluded[query].add(positive)


class _Bounds:
    """The bounds on a negative's score."""

    def __init__(self, min_score, max_score, absolute_margin, relative_margin):
        self.low = -np.inf if min_score is None else _check.number("min_score", min_score)
        self.high = np.inf if max_score is None else _check.number("max_score", max_score)
        self.absolute = absolute_margin
        self.relative = relative_margin
        if absolute_margin is not None:
            self.absolute = _check.number("absolute_margin", absolute_margin, minimum=0.0)
        if relative_margin is not None:
            self.relative = _check.number("relative_margin", relative_margin, minimum=0.0, maximum=1.0)

    def hold(self, scores, positive):
        high = self.high
        if self.absolute is not None:
            high = min(high, positive - self.absolute)
        if self.relative is not None:
            high = min(high, positive - self.relative * abs(positive))  # also correct for negative scores (distances)
        return (scores >= self.low) & (scores <= high)


def _ranks(ranks, size):
    if not isinstance(ranks, (tuple, list)) or len(ranks) != 2:
        raise _check.invalid("ranks", "two ints (low, high)", ranks)
    low, high = (_check.integer("ranks", rank, minimum=0) for rank in ranks)
    if low >= high:
        raise _check.invalid("ranks", "a low rank below the high one", ranks)
    if low >= size:
        raise _check.invalid("ranks", f"a low rank < {size}, the size of the corpus", ranks, "Lower it.")
    return low, high


def _candidates(task, queries, documents, ranks, similarity, progress):
    """Returns ids and scores for each query: the texts at the requested ranks, not counting positives."""
    most = max(len(each) for each in task.excluded)
    k = min(ranks[1] + most, task.corpus_size)
    report = _texts.reporter(task.corpus_size, progress, "row")
    ids, scores = _neighbours.top_k(queries, documents[: task.corpus_size], k, similarity, report)
    found = []
    for own_ids, own_scores, excluded in zip(ids, scores, task.excluded, strict=True):
        keep = np.flatnonzero(~np.isin(own_ids, list(excluded)))[ranks[0] : ranks[1]]
        found.append((own_ids[keep], own_scores[keep]))
    return found


def _scored_again(task, candidates, scorer, batch_size, progress):
    """Returns the candidates of each query in the scorer's order, and the scores of the positives."""
    counts = [len(ids) for ids, _ in candidates]
    first = [task.queries[i] for i, count in enumerate(counts) for _ in range(count)]
    second = [task.documents[i] for ids, _ in candidates for i in ids]
    first += [task.queries[i] for i in task.query_of]
    second += [task.documents[i] for i in task.positive_of]
    scores = _texts.pair_scores(scorer, first, second, batch_size=batch_size, progress=progress)
    *parts, positives = np.split(scores, np.cumsum(counts))
    orders = [np.argsort(-part, kind="stable") for part in parts]
    return [(c[0][order], p[order]) for c, p, order in zip(candidates, parts, orders, strict=True)], positives


def _rows(columns, documents, positive_scores, chosen, num_negatives, layout):
    enough = [len(ids) >= (num_negatives if layout == "wide" else 1) for ids, _ in chosen]
    if not any(enough):
        remedy = "Widen `ranks`, loosen margins and scores, ask for fewer negatives, or pass a larger `corpus`."
        raise _check.invalid("pairs", "pairs for which negatives can be found; there is none", len(chosen), remedy)
    made = {"anchor": [], "positive": []}
    names = [f"negative_{i + 1}" for i in range(num_negatives)] if layout == "wide" else ["negative"]
    made |= {name: [] for name in names} | {"positive_score": []} | {f"{name}_score": [] for name in names}
    for anchor, positive, score, (ids, scores), is_enough in zip(
        *columns, positive_scores, chosen, enough, strict=True
    ):
        negatives = [(documents[i], float(s)) for i, s in zip(ids, scores, strict=True)]
        for group in ([negatives] if layout == "wide" else [[one] for one in negatives]) if is_enough else []:
            for key, value in (("anchor", anchor), ("positive", positive), ("positive_score", float(score))):
                made[key].append(value)
            for name, (text, negative_score) in zip(names, group, strict=True):
                made[name].append(text)
                made[f"{name}_score"].append(negative_score)
    rows = data.Rows(made, source="hard negatives")
    if not all(enough):
        rows.skipped = {"too few negatives": len(enough) - sum(enough)}
    return rows
