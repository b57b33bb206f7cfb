"""Tokenization in the TensorFlow graph, with exactly the token ids that the checkpoint was trained on."""

from tfxfer.preprocessing._offsets import Offsets, token_offsets
from tfxfer.preprocessing._preprocessor import TextPreprocessor
from tfxfer.preprocessing._split_words import SPLITS, Words, split_words
from tfxfer.preprocessing._tokenizer import Tokenizer
from tfxfer.preprocessing._windows import Windows, windows

__all__ = [
    "SPLITS",
    "Offsets",
    "TextPreprocessor",
    "Tokenizer",
    "Windows",
    "Words",
    "split_words",
    "token_offsets",
    "windows",
]
