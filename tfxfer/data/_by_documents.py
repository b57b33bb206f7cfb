"""Batches of lists, bounded by their number of documents: numpy only, a pure function of its arguments."""

import numpy as np

from tfxfer import _check


class ByDocuments:
    """Batches of lists with a maximum number of documents and of lists; see `batches`.

    Large lists come first, each in the batch that it fills best. Where a list goes depends only on its size, so every
    epoch has the same number of batches, however its lists are permuted.
    """

    def __init__(self, *, batch_size, max_documents, seed, shuffle):
        self.batch_size = batch_size
        self.max_documents = max_documents
        self.seed = seed
        self.shuffle = shuffle

    def prepare(self, rows):
        """Returns (batches per epoch of `Tokenized` rows, function from the epoch's number to (order, ends))."""
        if rows.sequences is None:
            remedy = "Pass `batch_size`."
            expected = "None for rows of one sequence each"
            raise _check.invalid("max_documents", expected, self.max_documents, remedy)
        sizes = np.asarray(rows.sequences)
        if sizes.max() > self.max_documents:
            row = int(sizes.argmax())
            remedy = f"The list of row {row} has {sizes[row]}. Raise the bound, or select the documents to keep with "
            remedy += "`data.rankings(..., max_documents=...)`."
            expected = "a bound that holds for every list"
            raise _check.invalid("max_documents", expected, self.max_documents, remedy)
        if not self.shuffle:
            ends = _in_order(sizes, self.batch_size, self.max_documents)
            return len(ends), lambda epoch: (np.arange(len(sizes)), ends)
        numbers = _best_fit(np.sort(sizes)[::-1], self.batch_size, self.max_documents)
        return int(numbers.max()) + 1, lambda epoch: self._epoch(sizes, numbers, int(epoch))

    def _epoch(self, sizes, numbers, epoch):
        rng = np.random.default_rng([self.seed, epoch])
        rows = rng.permutation(len(sizes))
        rows = rows[np.argsort(-sizes[rows], kind="stable")]
        places = rng.permutation(int(numbers.max()) + 1)[numbers]
        order = rows[np.lexsort((rng.random(len(rows)), places))]
        return order.astype("int64"), np.cumsum(np.bincount(places)).astype("int64")


def _in_order(sizes, batch_size, max_documents):
    """The end of each batch: lists in their order, each batch as large as the bounds allow."""
    ends, lists, documents = [], 0, 0
    for row, size in enumerate(sizes.tolist()):
        if lists == batch_size or documents + size > max_documents:
            ends.append(row)
            lists = documents = 0
        lists, documents = lists + 1, documents + size
    return np.array([*ends, len(sizes)], "int64")


def _best_fit(sizes, batch_size, max_documents):
    """The batch number of each list, for falling sizes: each list goes where it leaves the least room."""
    open_by_room = [[] for _ in range(max_documents + 1)]
    lists, found = [], np.empty(len(sizes), "int64")
    for place, size in enumerate(sizes.tolist()):
        room = next((room for room in range(size, max_documents + 1) if open_by_room[room]), None)
        if room is None:
            number, room = len(lists), max_documents
            lists.append(0)
        else:
            number = open_by_room[room].pop()
        found[place] = number
        lists[number] += 1
        if lists[number] < batch_size and room > size:
            open_by_room[room - size].append(number)
    return found
