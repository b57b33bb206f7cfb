"""The merges of a BPE vocabulary, by pairs as Hugging Face has them and by results as SentencePiece has them."""

import itertools


def _alphabet():
    """Returns the dict from the characters that stand for bytes in a vocabulary to the bytes."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {**{chr(byte): byte for byte in visible}, **{chr(256 + i): byte for i, byte in enumerate(hidden)}}


ALPHABET = _alphabet()


def ranks(tokens, merges, suffix=""):
    """Returns for each token when it is made: the rank of its merge, -1 for a single symbol, `None` for never.

    Hugging Face merges by pairs: a token comes out of two certain parts. SentencePiece merges by the result alone. A
    token that is made at all is made from its own symbols alone, by the same merges in the same order wherever it
    stands, for merges beyond its borders would have kept it from being made. So one rank for each token says the same
    as the pairs, once those tokens are left out that their own symbols do not lead to.

    Args:
        tokens: list of strings in the order of their ids.
        merges: list of pairs of strings, the first to be applied first.
        suffix: string that marks the last symbol of a word, such as `"</w>"`.
    """
    pairs = {tuple(pair): rank for rank, pair in enumerate(merges)}
    products = {left + right for left, right in pairs}
    known = set(tokens)
    return [_rank(token, pairs, products, known, suffix) for token in tokens]


def symbols(token, suffix=""):
    """Returns what a token is made from: its characters, the suffix being part of the last one."""
    if suffix and token.endswith(suffix) and token != suffix:
        characters = list(token.removesuffix(suffix))
        return [*characters[:-1], characters[-1] + suffix]
    return list(token)


def _rank(token, pairs, products, known, suffix):
    parts = symbols(token, suffix)
    if len(parts) == 1:
        return -1
    if token not in products or not known.issuperset(parts):
        return None
    never = len(pairs)
    found = [pairs.get(pair, never) for pair in itertools.pairwise(parts)]
    while True:
        rank = min(found)
        if rank == never or len(found) == 1:
            return None if rank == never else rank
        i = found.index(rank)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        del found[i]
        if i:
            found[i - 1] = pairs.get((parts[i - 1], parts[i]), never)
        if i < len(found):
            found[i] = pairs.get((parts[i], parts[i + 1]), never)


def pairs(tokens, ranks, suffix=""):
    """Returns the pairs that tokens are made from, the first to be applied first.

    The last merge that makes a token joins the two parts that the earlier ones leave of its own symbols.
    """
    rank_of = {token: rank for token, rank in zip(tokens, ranks, strict=False) if rank is not None and rank >= 0}
    found = []
    for token, rank in sorted(rank_of.items(), key=lambda item: item[1]):
        parts = symbols(token, suffix)
        while len(parts) > 2:
            joined = [(rank_of.get(a + b, rank), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
            _, i = min(joined)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        found.append(parts)
    return found
