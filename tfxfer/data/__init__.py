"""Reads rows, builds datasets of texts and targets, and makes batches of token ids.

Which function fits your rows?

| rows | dataset | batches |
|---|---|---|
| text and label | `labelled` | `batches(...)`; for losses that mine, `batches(..., examples_per_class=4)` |
| text and number | `regression` | `batches(...)` |
| two texts and a score | `pairs(..., target="score")` | `batches(...)` |
| two or more texts and a label | `labelled` with a tuple of names | `batches(...)` |
| texts that belong together | `pairs`, `triplets` | `batches(..., unique_texts=True)` |
| texts without labels | `tension_pairs`, for two encoders | `batches(...)` |
| few texts with labels | `pairs_from_labels`, `triplets_from_labels` | `batches(...)` |
| rows with another model's scores or embeddings | `pairs`, `triplets` with `targets=embeddings(...)` | `batches(...)` |
| columns of other kinds as well | `examples` (`tabular_columns` finds means, scales and names) | `batches(...)` |
| words with tags, from `read_conll` or `read_entities` | `tagged` | `batches(...)` |
| queries with lists of documents, and grades or scores | `rankings` | `batches(..., max_documents=64)` |
| several of these at once | | `mix([batches, ...])` |

For distributed training (docs/scale.md), `part_of_batches` and `as_part` select the rows that one of several processes
trains on, and `distribute` tokenizes on a tf.data service.

`read` loads a whole file into memory; `map_table` adds columns to a file of any size, one part at a time. `read_beir`,
`read_qrels` and `read_run` read retrieval benchmarks and run files; `write_run` writes the results of a search.

`batches(dataset, model)` reads the columns that the task model names. Each kind of column is a class:

| column | a row holds | a batch holds |
|---|---|---|
| `TextColumn` | a text, or several | `token_ids` ... `(batch, length)` or `(batch, texts, length)` |
| `RankingColumn` | a query and its documents | `token_ids` ... `(documents, length)`, the lists concatenated |
| `TextListColumn` | any number of texts | `token_ids` ... `(batch, texts, length)`, `list_mask` `(batch, texts)` |
| `MaskedTextColumn` | a text | `token_ids` ..., `mask_positions` `(batch, predictions)`, and the targets |
| `DeletedTextColumn` | a text | `token_ids` ... of the kept tokens, `decoder_ids` ... of all, and the targets |
| `WordsColumn` | words | `token_ids` ..., `word_ids` `(batch, length)` |
| `TagsColumn` | the words' tags | as targets: int32 `(batch, words)` |
| `NumberColumn` | a number, or several | float32 `(batch,)` or `(batch, size)` |
| `CategoryColumn` | one of a set of names | int32 `(batch,)` |
| `VectorColumn` | a vector | float32 `(batch, dim)` |
| `ImageColumn` | a file or an array | float32 `(batch, height, width, channels)` |
| `LabelColumn` | a label, or several | as targets: int32 `(batch,)`, or float32 `(batch, labels)` |
| `ValuesColumn` | numbers | as targets: unchanged |
| `GradesColumn` | a number for each document | as targets: float32 `(batch, documents)`, NaN after the end of a list |
"""

from tfxfer.data._batches import Batches, batches
from tfxfer.data._columns import (
    CategoryColumn,
    Column,
    DeletedTextColumn,
    GradesColumn,
    ImageColumn,
    LabelColumn,
    MaskedTextColumn,
    NumberColumn,
    RankingColumn,
    TagsColumn,
    TextColumn,
    TextListColumn,
    ValuesColumn,
    VectorColumn,
    WordsColumn,
)
from tfxfer.data._columns._base import read_list, with_prefix
from tfxfer.data._columns._ranking import ranking_pairs
from tfxfer.data._conll import read_conll
from tfxfer.data._datasets import labelled, pairs, regression, triplets
from tfxfer.data._embeddings import embeddings
from tfxfer.data._entities import read_entities
from tfxfer.data._examples import Examples, examples
from tfxfer.data._from_labels import pairs_from_labels, triplets_from_labels
from tfxfer.data._gate import Gate
from tfxfer.data._inference import ROWS_MULTIPLE, Runner, forward, pack_columns
from tfxfer.data._labels import class_weights, labels
from tfxfer.data._lists import group_rows, lists_from_judgements, lists_from_negatives, triplets_from_lists
from tfxfer.data._mix import mix
from tfxfer.data._part import as_part, is_part, part_of_batches
from tfxfer.data._rankings import rankings
from tfxfer.data._read import read
from tfxfer.data._retrieval_files import RetrievalTask, check_run, read_beir, read_qrels, read_run, write_run
from tfxfer.data._rows import Rows
from tfxfer.data._service import distribute
from tfxfer.data._table import map_table
from tfxfer.data._tabular import tabular_columns
from tfxfer.data._tagged import convert_tags, tag_names, tagged
from tfxfer.data._task_batches import MIXINGS, TaskRows, in_turn, no_rows, task_batches
from tfxfer.data._tension import tension_pairs
from tfxfer.data._word_runner import WordRunner, WordScores, padded

__all__ = [
    "MIXINGS",
    "ROWS_MULTIPLE",
    "Batches",
    "CategoryColumn",
    "Column",
    "DeletedTextColumn",
    "Examples",
    "Gate",
    "GradesColumn",
    "ImageColumn",
    "LabelColumn",
    "MaskedTextColumn",
    "NumberColumn",
    "RankingColumn",
    "RetrievalTask",
    "Rows",
    "Runner",
    "TagsColumn",
    "TaskRows",
    "TextColumn",
    "TextListColumn",
    "ValuesColumn",
    "VectorColumn",
    "WordRunner",
    "WordScores",
    "WordsColumn",
    "as_part",
    "batches",
    "check_run",
    "class_weights",
    "convert_tags",
    "distribute",
    "embeddings",
    "examples",
    "forward",
    "group_rows",
    "in_turn",
    "is_part",
    "labelled",
    "labels",
    "lists_from_judgements",
    "lists_from_negatives",
    "map_table",
    "mix",
    "no_rows",
    "pack_columns",
    "padded",
    "pairs",
    "pairs_from_labels",
    "part_of_batches",
    "ranking_pairs",
    "rankings",
    "read",
    "read_beir",
    "read_conll",
    "read_entities",
    "read_list",
    "read_qrels",
    "read_run",
    "regression",
    "tabular_columns",
    "tag_names",
    "tagged",
    "task_batches",
    "tension_pairs",
    "triplets",
    "triplets_from_labels",
    "triplets_from_lists",
    "with_prefix",
    "write_run",
]
