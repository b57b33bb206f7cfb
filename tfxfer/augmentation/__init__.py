"""Augmentation: random changes of training texts that preserve their labels, in the TensorFlow graph.

```python
model.fit(train, y, augment=tx.augmentation.EasyData())
model.fit(train, y, augment=[tx.augmentation.Typos(0.05), tx.augmentation.Case()])
batches = tx.data.batches(pairs, siamese, augment={0: tx.augmentation.Delete()})  # only the first text of each row
```

| augmentation | what it does | tagged words |
|---|---|---|
| `Delete`, `Swap` | deletes words, swaps them | outside entities |
| `Replace`, `Insert` | replaces words by similar ones, inserts similar words (`Candidates`) | outside entities |
| `ReplaceInContext` | replaces words by proposals of a masked language model | outside entities |
| `EasyData` | EDA: one of replacement, insertion, swap and deletion for each text | outside entities |
| `Typos`, `Case` | misspells words, changes their case | all |
| `Punctuation`, `DropPunctuation` | AEDA: inserts punctuation marks, drops them | outside entities |
| `ReplaceMentions` | replaces entities by others of their type | only entities |
| `Compose` (or a list), `OneOf` | applies several in sequence, applies one of several | |

Mixup of features and targets is a model option: `models.TextClassifier(mixup=0.2)`.

`fit` and `data.batches` augment the training texts differently in each epoch, using the seed of the batches. The same
seed gives the same texts, byte for byte, in batches of any size and order, and when `callbacks.Resume` continues an
epoch. Evaluation, prediction, validation data and exports never change a text. The regression on frozen features that
initializes a new head does not change texts either.
"""

from tfxfer._random import row_seeds
from tfxfer.augmentation._base import Augmentation, Compose, OneOf, as_augmentation, text_seeds
from tfxfer.augmentation._candidates import Candidates, vocabulary
from tfxfer.augmentation._characters import Case, Typos
from tfxfer.augmentation._context import ProposesWords, ReplaceInContext
from tfxfer.augmentation._mentions import ReplaceMentions
from tfxfer.augmentation._punctuation import DropPunctuation, Punctuation
from tfxfer.augmentation._rows import TagSet, WordRows
from tfxfer.augmentation._words import Delete, EasyData, Insert, Replace, Swap

__all__ = [
    "Augmentation",
    "Candidates",
    "Case",
    "Compose",
    "Delete",
    "DropPunctuation",
    "EasyData",
    "Insert",
    "OneOf",
    "ProposesWords",
    "Punctuation",
    "Replace",
    "ReplaceInContext",
    "ReplaceMentions",
    "Swap",
    "TagSet",
    "Typos",
    "WordRows",
    "as_augmentation",
    "row_seeds",
    "text_seeds",
    "vocabulary",
]
