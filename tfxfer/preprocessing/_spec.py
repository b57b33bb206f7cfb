"""One description of a tokenizer, whatever files or objects it was read from."""

import dataclasses
import json

ROLES = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")


@dataclasses.dataclass
class Spec:
    """A tokenizer as plain data.

    Attributes:
        kind: `"wordpiece"`, `"unigram"` or `"bpe"`.
        tokens: list of strings in the order of the ids, added tokens included.
        special: dict from a role (`"pad"`, `"unk"`, `"cls"`, `"sep"`, `"mask"`, `"bos"`, `"eos"`) to an id.
        added: list of dicts `content, id, lstrip, rstrip, special`: tokens that never come out of the model itself.
        single: template of one text: list of `[id, segment]` and `["A", segment]`.
        pair: template of two texts; holds `["A", segment]` and `["B", segment]`.
        segments: whether the family has segment ids.
        options: dict of what only this kind has (normaliser switches, scores, merges).
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
        """The id that the model gives to what it does not know, or `None`."""
        return self.options.get("unk_id")

    def to_json(self):
        """Returns the description as a JSON string."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=True)

    @classmethod
    def from_json(cls, text):
        """Reads what `to_json` wrote."""
        return cls(**json.loads(text))
