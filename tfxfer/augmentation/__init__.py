"""Augmentation: random changes of training texts that keep their labels right, in the TensorFlow graph.

```python
model.fit(train, y, augment=tx.augmentation.EasyData())
model.fit(train, y, augment=[tx.augmentation.Typos(0.05), tx.augmentation.Case()])
batches = tx.data.batches(pairs, siamese, augment={0: tx.augmentation.Delete()})  # the first text of each row alone
```

| augmentation | what it does | tagged words |
|---|---|---|
| `Delete`, `Swap` | leaves words out, exchanges them | outside of entities |
| `Replace`, `Insert` | puts similar words in place of others, or between them (`Candidates`) | outside of entities |
| `ReplaceInContext` | puts words there that a masked language model proposes | outside of entities |
| `EasyData` | EDA: one of these four for each text | outside of entities |
| `Typos`, `Case` | misspells words; changes their case | all |
| `Punctuation`, `DropPunctuation` | AEDA: puts marks between words; leaves them out | outside of entities |
| `ReplaceMentions` | puts other entities of a type in place of entities | entities alone |
| `Compose` (or a list), `OneOf` | several after one another; one of several | |

Mixup of features and targets is an option of the model: `models.TextClassifier(mixup=0.2)`.

`fit` and `data.batches` change the texts of training rows again in each epoch, by the seed of the batches. The same
seed gives the same texts, bit for bit, in batches of any size and order, and when `callbacks.Resume` continues an
epoch. Evaluation, prediction, validation data and exports never change a text, and neither does the regression on
frozen features that a new head starts from.
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
