"""The kinds of columns, one per file."""

from tfxfer.data._columns._base import Column
from tfxfer.data._columns._category import CategoryColumn
from tfxfer.data._columns._deleted import DeletedTextColumn
from tfxfer.data._columns._image import ImageColumn
from tfxfer.data._columns._label import LabelColumn
from tfxfer.data._columns._masked import MaskedTextColumn
from tfxfer.data._columns._number import NumberColumn
from tfxfer.data._columns._ranking import GradesColumn, RankingColumn
from tfxfer.data._columns._text import TextColumn
from tfxfer.data._columns._text_list import TextListColumn
from tfxfer.data._columns._values import ValuesColumn
from tfxfer.data._columns._vector import VectorColumn
from tfxfer.data._columns._words import TagsColumn, WordsColumn

__all__ = [
    "CategoryColumn",
    "Column",
    "DeletedTextColumn",
    "GradesColumn",
    "ImageColumn",
    "LabelColumn",
    "MaskedTextColumn",
    "NumberColumn",
    "RankingColumn",
    "TagsColumn",
    "TextColumn",
    "TextListColumn",
    "ValuesColumn",
    "VectorColumn",
    "WordsColumn",
]
