"""Strings to token ids, exactly as the checkpoint was trained, in the graph."""

from tfxfer.preprocessing._preprocessor import TextPreprocessor
from tfxfer.preprocessing._split_words import Words, split_words
from tfxfer.preprocessing._tokenizer import Tokenizer

__all__ = ["TextPreprocessor", "Tokenizer", "Words", "split_words"]
