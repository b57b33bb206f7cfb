"""`Tokenizer`: strings to the ids of the checkpoint's own tokenizer, in the graph."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Literal, Self

import keras
import keras_hub
import tensorflow as tf

from tfxfer import _check
from tfxfer.preprocessing import (
    _added,
    _bpe,
    _characters,
    _files,
    _hub,
    _spec,
    _unigram,
    _wordpiece,
    _write,
)

ENGINES = {
    "wordpiece": _wordpiece.WordPiece,
    "unigram": _unigram.Unigram,
    "bpe": _bpe.BytePair,
    "character_bpe": _characters.CharacterPair,
}
ASSET = "tokenizer_spec.json"


def as_strings(texts, argument="texts"):
    """Returns texts as a string tensor `(n,)`; a single string becomes one row."""
    expected = "a string, or strings of shape (n,)"
    if not isinstance(texts, tf.Tensor):
        try:
            texts = tf.convert_to_tensor(texts, tf.string)
        except (TypeError, ValueError) as error:
            raise _check.invalid(argument, expected, texts, "Convert missing values to empty strings first") from error
    if texts.dtype != tf.string or (texts.shape.rank or 0) > 1:
        raise _check.invalid(argument, expected, texts)
    return tf.reshape(texts, [-1])


@keras.saving.register_keras_serializable("tfxfer")
class Tokenizer(keras_hub.tokenizers.Tokenizer):
    r"""Turns strings into token ids exactly as the checkpoint's own tokenizer does.

    Tokenization consists only of TensorFlow graph operations, so training, prediction and a served model use the same
    ids: there is no second implementation in Python, and no state between calls. The ids are those of Hugging Face's
    `tokenizers` for WordPiece, SentencePiece Unigram, and BPE over bytes (GPT-2, ModernBERT, Llama 3, Qwen) or over
    characters (GPT-1, Llama 2, Gemma), with the added tokens of a checkpoint.

    Create one with `from_folder` or `from_keras_hub`. Bytes that are not valid UTF-8 are read as U+FFFD.

    Known differences from `tokenizers`:

    - Special tokens in a text stay text by default, see `special_tokens_in_strings`. In Unigram models, `tokenizers`
      finds a special token that is also a piece, even with its option to leave it text.
    - Unigram: two splits of a word into the same pieces in a different order ("0" "00" and "00" "0") have equal scores,
      and rounding decides, in float64 there and in float32 here, as in SentencePiece itself (2 of 38,799 real texts
      with a vocabulary of 1,600).
    - Unigram with SentencePiece's character map: `tokenizers` drops a combining mark or a joiner right after a
      character that the map changes, and composes fewer characters; SentencePiece and this class do not (none of the
      real texts, 1 % of texts of random characters).
    - Characters whose case or decomposition was added in Unicode 14 or later (none of the real texts, 1 in 10,000
      random ones).
    - An added token of whitespace with `lstrip` right after one with `rstrip`.

    Args:
        special_tokens_in_strings: bool. Whether a special token inside a text, such as `"[MASK]"`, becomes its id, as
            it always does in Hugging Face. Defaults to `False`: user input stays text.

    Call arguments:
        texts: a string, a list, a numpy array or a string tensor of shape `(n,)`.

    Returns:
        An int32 `tf.RaggedTensor` `(n, None)`, without the special tokens of a sequence; see `TextPreprocessor`.

    Attributes:
        pad_token_id, unk_token_id, mask_token_id, cls_token_id, sep_token_id, bos_token_id, eos_token_id: int, or
            `None` if the checkpoint has no such token.
        vocabulary: list of strings, ordered by id.
        trackables: list of the resources that a `tf.Module` must hold in an attribute to be exported with this
            tokenizer.

    Raises:
        ValueError: if a directory has no tokenizer or an unsupported one; if texts are not strings.

    Example:

    ```python
    tokenizer = tfxfer.preprocessing.Tokenizer.from_folder("all-MiniLM-L6-v2")
    tokenizer(["Where is my card?"]).to_list()  # [[2073, 2003, 2026, 4003, 1029]]
    ```

    With a small WordPiece vocabulary, one token per line:

    >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "where", "are", "my", "card", "##s", "?"]
    >>> with open("vocab.txt", "w") as file:
    ...     _ = file.write("\n".join(words))
    >>> tokenizer = Tokenizer.from_folder(".")
    >>> tokenizer(["Where are my cards?", "My phone"]).to_list()
    [[5, 6, 7, 8, 9, 10], [7, 1]]
    """

    def __init__(self, *, special_tokens_in_strings: bool = False, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "int32")
        super().__init__(**kwargs)
        self._state: Any = None
        self.special_tokens_in_strings = special_tokens_in_strings
        self.file_assets = [ASSET]
        self.built = True

    @classmethod
    def from_folder(
        cls, folder: str | os.PathLike[str], *, convention: str | None = None, lowercase: bool = False, **kwargs: Any
    ) -> Self:
        """Reads the tokenizer in a directory in Hugging Face's format.

        Args:
            folder: path of a directory with `tokenizer.json`, which describes a tokenizer completely; otherwise with
                `vocab.txt`, with `vocab.json` and `merges.txt`, or with a SentencePiece model, whose settings come from
                those of `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` that exist.
            convention: string. The tokenizer class whose conventions apply if the directory names no class that fits
                its vocabulary, e.g. `"Bert"`, `"Roberta"` or `"T5"`. Defaults to the usual class for the file.
            lowercase: bool. Whether to lowercase texts before the checkpoint's own normalization, as `do_lower_case` of
                sentence-transformers does. Defaults to `False`.
            **kwargs: arguments of `Tokenizer`.

        Returns:
            A `Tokenizer`.
        """
        if not os.path.isdir(folder):
            raise _check.invalid("folder", "a folder that exists", str(folder))
        spec = _files.read(folder, convention)
        if lowercase:
            spec.options["normalizer"] = [["Lowercase"], *spec.options["normalizer"]]
        return cls._from_spec(spec, **kwargs)

    def to_folder(
        self,
        folder: str | os.PathLike[str],
        *,
        sequence_length: int | None = None,
        padding_side: Literal["right", "left"] = "right",
    ) -> None:
        """Writes the tokenizer as Hugging Face's files: for `tokenizers` in any language, and for `from_folder`.

        `tokenizer.json` is complete, including padding to the longest row of a batch; `tokenizer_config.json` stores
        the roles of tokens. The files are read back and compared.

        A reader maps special tokens inside a text to their ids, which this package does only with
        `special_tokens_in_strings`; `tokenizers` keeps them as text after `tokenizer.encode_special_tokens = True`.

        Args:
            folder: path of a directory, created if it is missing.
            sequence_length: int. The maximum number of tokens in a row, special tokens included: the reader truncates
                texts as `TextPreprocessor` does. Defaults to no truncation.
            padding_side: `"right"` or `"left"`. Defaults to `"right"`.

        Raises:
            ValueError: if an argument is out of range, or the files would be read as a different tokenizer.

        Example:

        ```python
        embedder.preprocessor.tokenizer.to_folder("sts", sequence_length=128)
        tokenizers.Tokenizer.from_file("sts/tokenizer.json").encode_batch(["Where is my card?"])[0].ids
        ```
        """
        _check.integer("sequence_length", sequence_length, optional=True)
        _check.one_of("padding_side", padding_side, ("right", "left"))
        _write.write(self.spec, folder, sequence_length, padding_side)

    @classmethod
    def from_keras_hub(cls, tokenizer: Any, **kwargs: Any) -> Self:
        """Takes the vocabulary, special tokens and family from a KerasHub tokenizer.

        The result follows Hugging Face's rules for the family, even if KerasHub's tokenizer differs.

        Args:
            tokenizer: a `keras_hub` tokenizer of BERT, DistilBERT, ELECTRA, RoBERTa, BART, GPT-2, ALBERT, DeBERTa-v3,
                XLM-RoBERTa, T5, Gemma (1 to 3), Llama (1 to 3), Mistral or Qwen (2 to 3).
            **kwargs: arguments of `Tokenizer`.

        Returns:
            A `Tokenizer`.
        """
        return cls._from_spec(_hub.read(tokenizer), **kwargs)

    @classmethod
    def _from_spec(cls, spec, **kwargs):
        tokenizer = cls(**kwargs)
        tokenizer._set_spec(spec)
        return tokenizer

    def _set_spec(self, spec, engine=None):
        with tf.init_scope():
            self._state = _State(spec, self.special_tokens_in_strings, engine)

    @property
    def special_tokens_in_strings(self) -> bool:
        """Whether a special token inside a text becomes its id. It can be set at any time."""
        return self._special_tokens_in_strings

    @special_tokens_in_strings.setter
    def special_tokens_in_strings(self, value: bool) -> None:
        self._special_tokens_in_strings = bool(_check.instance("special_tokens_in_strings", value, bool, "a bool"))
        if self._state is not None:
            self._set_spec(self.spec, self._state.engine)

    def add_tokens(self, tokens: Sequence[str], *, special: bool = False) -> int:
        """Adds tokens at the end of the vocabulary; from now on, they are matched as a whole in texts.

        A model's embedding table needs a row for each new token; the model's `with_added_tokens` does both.

        Args:
            tokens: list of strings. Tokens that are already in the vocabulary are not changed.
            special: bool. Whether the tokens are special: matched in texts only with `special_tokens_in_strings`.
                Other tokens are matched in the normalized text, so a tokenizer that lowercases ignores their case.
                Defaults to `False`.

        Returns:
            The number of new tokens.

        Raises:
            ValueError: if `tokens` is not a list of non-empty strings.

        Example:

        ```python
        tokenizer.add_tokens(["IBAN", "SEPA"])  # 2
        tokenizer(["my IBAN"])[0, -1] == tokenizer.vocabulary_size() - 2
        ```
        """
        if isinstance(tokens, str) or not all(isinstance(token, str) and token for token in tokens):
            raise _check.invalid("tokens", "a list of non-empty strings", tokens)
        _check.instance("special", special, bool, "a bool")
        index = self._loaded.index
        new = [token for token in dict.fromkeys(tokens) if token not in index]
        flags = {"special": special, "normalized": not special, "in_model": False}
        count = self.vocabulary_size()
        added = [_spec.added_token(token, count + i, **flags) for i, token in enumerate(new)]
        spec = dataclasses.replace(self.spec, tokens=[*self.spec.tokens, *new], added=[*self.spec.added, *added])
        if new:
            self._set_spec(spec, self._loaded.engine)
        return len(new)

    @property
    def _loaded(self):
        if self._state is None:
            raise ValueError(
                "This `Tokenizer` has no vocabulary yet. Make one with `Tokenizer.from_folder` or "
                "`Tokenizer.from_keras_hub`, or load it together with its model."
            )
        return self._state

    @property
    def has_vocabulary(self) -> bool:
        """Whether the vocabulary is loaded: when a model is loaded, it comes last."""
        return self._state is not None

    @property
    def spec(self) -> Any:
        """The description of the tokenizer as plain data."""
        return self._loaded.spec

    def tokenize(self, texts: Any) -> Any:
        """Returns the ids of `texts`, as calling the tokenizer does."""
        state = self._loaded
        texts = as_strings(texts)
        return state.eager(texts) if tf.executing_eagerly() else state(texts)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, texts: Any) -> Any:
        # Bypasses `Layer.__call__`, which repeats all texts in its error messages.
        return self.tokenize(texts)

    def call(self, texts: Any) -> Any:
        return self.tokenize(texts)

    @property
    def trackables(self) -> Any:
        """The TensorFlow tables that an export writes."""
        return [*self._loaded.engine.trackables, *self._loaded.tables]

    @property
    def vocabulary(self) -> Any:
        """The tokens, ordered by id."""
        return list(self.spec.tokens)

    def get_vocabulary(self) -> list[str]:
        """Returns the list of tokens, ordered by id."""
        return self.vocabulary

    def vocabulary_size(self) -> int:
        """Returns the number of ids, added tokens included."""
        return len(self.spec.tokens)

    def id_to_token(self, id: int) -> str:
        """Returns the token of an id."""
        tokens = self.spec.tokens
        return tokens[_check.integer("id", id if id < len(tokens) else -1, minimum=0)]

    def token_to_id(self, token: str) -> int:
        """Returns the id of a token."""
        index = self._loaded.index
        if token not in index:
            raise _check.invalid("token", "a token of the vocabulary", token)
        return index[token]

    @property
    def special_tokens(self) -> Any:
        """The special tokens, a list of strings."""
        return [token["content"] for token in self.spec.added if token["special"]]

    @property
    def special_token_ids(self) -> Any:
        """The ids of the special tokens, a list of ints."""
        return [token["id"] for token in self.spec.added if token["special"]]

    def save_assets(self, dir_path: str | os.PathLike[str]) -> None:
        """Writes the tokenizer into the directory `dir_path`; called by Keras."""
        with open(os.path.join(dir_path, ASSET), "w", encoding="utf-8") as file:
            file.write(self.spec.to_json())

    def load_assets(self, dir_path: str | os.PathLike[str]) -> None:
        """Reads the tokenizer from the directory `dir_path`; called by Keras."""
        with open(os.path.join(dir_path, ASSET), encoding="utf-8") as file:
            self._set_spec(_spec.Spec.from_json(file.read()))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config["special_tokens_in_strings"] = self.special_tokens_in_strings
        return config

    def compute_output_spec(self, texts: Any) -> Any:
        return keras.KerasTensor((None, None), dtype="int32")

    def __deepcopy__(self, memo):
        copy = type(self).from_config(self.get_config())
        if self._state is not None:
            copy._set_spec(self.spec)
        return copy


def _role(role):
    def get(self: Any) -> int | None:
        return self.spec.special.get(role)

    return property(get, doc=f"int id of the {role} token, or `None`.")


for _name in _spec.ROLES:
    setattr(Tokenizer, f"{_name}_token_id", _role(_name))


class _State:
    """Everything made from a vocabulary: the description, the engine, the function. Hidden from Keras's tracking."""

    def __init__(self, spec, special_tokens_in_strings, engine=None):
        self.spec = spec
        self.index = {token: i for i, token in reversed(list(enumerate(spec.tokens)))}
        self.engine = engine or ENGINES[spec.kind](spec)
        self.finder = None  # for `token_offsets`, made on first use
        self._encode, self.tables = _added.with_added_tokens(self.engine, spec.added, special_tokens_in_strings)
        signature = [tf.TensorSpec([None], tf.string)]
        # The object instead of a method: TensorFlow counts the traces of a method over all objects, and warns.
        self.eager = tf.function(self, input_signature=signature, autograph=False)

    def __call__(self, texts):
        """Returns the ids, int32 `RaggedTensor` `(n, None)`, of texts `(n,)`."""
        return self._encode(texts)
