"""One description of a tokenizer, independent of the files or objects that it was read from."""

import dataclasses
import json

ROLES = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")
# The flags of an added token and their defaults. `in_model`: whether the model's own vocabulary also holds the token.
FLAGS = {
    "special": True,
    "lstrip": False,
    "rstrip": False,
    "single_word": False,
    "normalized": False,
    "in_model": True,
}


@dataclasses.dataclass
class Spec:
    """A tokenizer as plain data.

    Attributes:
        kind: `"wordpiece"`, `"unigram"`, `"bpe"` (byte-level) or `"character_bpe"`.
        tokens: list of strings, ordered by id, added tokens included.
        special: dict from a role (`"pad"`, `"unk"`, `"cls"`, `"sep"`, `"mask"`, `"bos"`, `"eos"`) to an id.
        added: list of dicts made by `added_token`: tokens that are found in a text before the model sees it.
        single: template for one text: list of `[id, segment]` and `["A", segment]`.
        pair: template for two texts; has `["A", segment]` and `["B", segment]`.
        segments: whether models with this tokenizer usually take segment ids.
        options: dict of the settings that only this kind has (normalizer, scores, merges).
    """

    kind: str
    tokens: list
    special: dict
    added: list
    single: list
    pair: list
    segments: bool
    options: dict

    @property
    def unk_id(self):
        """The id that the model gives to unknown strings, or `None`."""
        return self.options.get("unk_id")

    @property
    def outside(self):
        """The set of the added tokens that the model's own vocabulary lacks."""
        return {token["content"] for token in self.added if not token["in_model"]}

    def to_json(self):
        """Returns the description as a JSON string."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=True)

    @classmethod
    def from_json(cls, text):
        """Reads the string of `to_json`, including strings older than the latest attributes and flags."""
        spec = cls(**json.loads(text))
        spec.added = [added_token(**token) for token in spec.added]
        return spec


def added_token(content, id, **flags):
    """Returns an added token as a dict of `content`, `id` and all of `FLAGS`."""
    return {"content": content, "id": id, **{name: bool(flags.get(name, value)) for name, value in FLAGS.items()}}
