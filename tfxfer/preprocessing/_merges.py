"""The merges of a BPE vocabulary: by pairs as in Hugging Face, and by results as in SentencePiece."""

import itertools


def _alphabet():
    """Returns the dict from the characters that represent bytes in a vocabulary to the bytes."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {**{chr(byte): byte for byte in visible}, **{chr(256 + i): byte for i, byte in enumerate(hidden)}}


ALPHABET = _alphabet()


def ranks(tokens, merges, suffix=""):
    """Returns for each token the rank of the merge that makes it, -1 for a single symbol, `None` for never.

    Hugging Face merges by pairs: a token results from two specific parts. SentencePiece merges by the result only. A
    token can only be made from its own symbols, by the same merges in the same order wherever it occurs, because merges
    across its borders would have prevented it. So one rank per token is equivalent to the pairs, once the tokens that
    their own symbols do not lead to are left out.

    Args:
        tokens: list of strings, ordered by id.
        merges: list of pairs of strings, in the order of their application.
        suffix: string that marks the last symbol of a word, such as `"</w>"`.
    """
    pairs = {tuple(pair): rank for rank, pair in enumerate(merges)}
    products = {left + right for left, right in pairs}
    known = set(tokens)
    return [_rank(token, pairs, products, known, suffix) for token in tokens]


def symbols(token, suffix=""):
    """Returns the symbols of a token: its characters, with the suffix as part of the last one."""
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
    """Returns the pairs that make the tokens, in the order of their application.

    The last merge of a token joins the two parts that the earlier merges leave of its symbols.
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
