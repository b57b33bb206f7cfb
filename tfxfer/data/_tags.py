"""Checks of tags by readers, datasets and columns, and their error messages."""

import difflib

from tfxfer import _check, _schemes
from tfxfer.data._rows import shown


def known_scheme(scheme, argument="scheme"):
    """Returns the name of a scheme as in `_schemes`; `None` is returned as `None`."""
    return None if scheme is None else _schemes.scheme(argument, scheme)


def is_tag(tag, scheme):
    """Whether a scheme has a tag, in any position."""
    return tag == "O" or _is_allowed([tag], scheme)


def check_names(argument, names, scheme):
    """Raises for the first of a model's tags that is not in its scheme."""
    if scheme is None:
        return
    wrong = [name for name in names if not is_tag(name, scheme)]
    if wrong:
        fitting = [each for each in _schemes.SCHEMES if _is_allowed(names, each)]
        remedy = f"Such tags are those of {schemes(fitting)}." if fitting else ""
        remedy += " For tags that mark no spans: `scheme=None`."
        raise _check.invalid(argument, f"tags of {scheme}, 'O' among them", wrong[0], remedy.strip())


def _is_allowed(names, scheme):
    try:
        _schemes.allowed(names, scheme)
    except ValueError:
        return False
    return True


def schemes(names):
    """The schemes as alternative arguments."""
    return " or ".join(f"`scheme={name!r}`" for name in names)


class Checker:
    """Checks the tags of rows against their scheme.

    Args:
        scheme: string, as in `_schemes`, or `None`: every tag then fits.
        sequences: list of the tags of all rows. If one does not fit, they determine the schemes that do.
        repairs: bool. Whether the caller supports `on_error="repair"`, for the remedy.
        converts: bool. Whether the scheme is a model's, so that the tags must be converted to it.
    """

    def __init__(self, scheme, sequences, repairs=True, converts=False):
        self.scheme = scheme
        self._sequences = sequences
        self._repairs = repairs
        self._converts = converts
        self._remedy = None

    def error(self, tags):
        """Returns (index of the first tag that does not fit, the problem), or `None`."""
        return None if self.scheme is None else _schemes.first_error(tags, self.scheme)

    def repaired(self, tags):
        """Returns (tags that fit, number of changes); `None` if a tag belongs to no scheme or lacks a type."""
        if not all(tag == "O" or _schemes.split(tag)[1] for tag in tags):
            return None
        try:
            return _schemes.repair(tags, self.scheme)
        except ValueError:
            return None

    @property
    def reason(self):
        """The reason under which errors are counted."""
        return f"a tag that {self.scheme} forbids"

    def remedy(self, tags):
        """The remedy for tags that do not fit."""
        if self.repaired(tags) is None:
            return "Fix the row. For tags that mark no spans, such as parts of speech: `scheme=None`."
        if self._remedy is None:
            fitting = _schemes.guess(self._sequences)
            if fitting and self._converts:
                said = f"All the tags fit {' or '.join(map(repr, fitting))}: convert them to the model's scheme with "
                said += f"`data.convert_tags(tags, {fitting[0]!r}, {self.scheme!r})`."
            else:
                said = f"All the tags fit {schemes(fitting)}." if fitting else "All the tags together fit no scheme."
            if self._repairs:
                said += " `on_error='repair'` changes tags that do not fit, and counts them."
            self._remedy = said
        return self._remedy


def unknown(tag, known, scheme):
    """The remedy for a tag that a model does not have.

    Args:
        tag: string.
        known: list of the model's tags.
        scheme: string, the scheme of these tags, or `None`.
    """
    if scheme is not None and not is_tag(tag, scheme):
        fitting = [each for each in _schemes.SCHEMES if is_tag(tag, each)]
        if fitting:
            return (
                f"It is no tag of {scheme}, but may be one of {', '.join(fitting)}: `data.convert_tags(tags, "
                f"source, {scheme!r})` converts tags to the scheme of the model."
            )
    alike = difflib.get_close_matches(tag, known, n=3)
    return f"Did you mean {' or '.join(map(repr, alike))}?" if alike else f"The known tags are {shown(known)}."
