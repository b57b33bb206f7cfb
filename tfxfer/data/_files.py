"""The content of a file, local or at a URL, compressed or not, as bytes or as lines."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import pathlib
import re
import zipfile
import zlib

import tensorflow as tf

from tfxfer import _check, _disk
from tfxfer.data._rows import fault, shown

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# Longest first: the little-endian mark of UTF-32 starts with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SURROGATE = re.compile("[\ud800-\udfff]")
BAD_TEXT = "bytes that are not text in the encoding"
END = "Check that the file was written to its end."


class File:
    """A file to read.

    Args:
        path: string or path; a string may be a URL.

    Attributes:
        place: a `pathlib.Path` on the local disk, or the URL as a string. Errors name it.
        name: the file's name without the extension of its compression, e.g. `"train.csv"` for `"train.csv.gz"`.
        packing: that extension, e.g. `".gz"`, or `""`.

    Raises:
        FileNotFoundError: if a local file does not exist.
    """

    def __init__(self, path):
        _check.instance("path", path, (str, os.PathLike), "a path, a URL or a list of them")
        url = isinstance(path, str) and _URL.match(path)
        if url and url[1].lower() != "file":
            self.place = path
            name = re.split("[?#]", path)[0].rstrip("/").rpartition("/")[2]
        else:
            self.place = _disk.local_path("path", path)
            name = self.place.name
            if not self.place.is_file():
                raise FileNotFoundError(f"{self.place}: no such file.")
        stem, suffix = os.path.splitext(name)
        self.packing = suffix.lower() if suffix.lower() in PACKINGS else ""
        self.name = stem if self.packing else name

    @property
    def is_plain(self):
        """Whether the file is local and not compressed."""
        return isinstance(self.place, pathlib.Path) and not self.packing

    def read(self):
        """Returns the decompressed content, as bytes; for a zip file, sets `name` to that of the file in it."""
        data = self.place.read_bytes() if isinstance(self.place, pathlib.Path) else _download(self.place)
        if self.packing == ".zip":
            self.name, data = _unzip(self.place, data)
        elif self.packing:
            unpack, errors = _UNPACK[self.packing]
            try:
                data = unpack(data)
            except errors as error:
                raise fault(self.place, None, f"not a whole {self.packing} file ({error})", END) from error
        if not data:
            raise fault(self.place, None, "the file is empty", END)
        return data


# The function that decompresses a file with this extension, and the errors it raises for damaged files.
_UNPACK = {
    ".gz": (gzip.decompress, (gzip.BadGzipFile, EOFError, zlib.error)),
    ".bz2": (bz2.decompress, (OSError, ValueError, EOFError)),
    ".xz": (lzma.decompress, (lzma.LZMAError, EOFError)),
}
PACKINGS = (*_UNPACK, ".zip")


def _unzip(place, data):
    """Returns the name and content of the single file in a zip file."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            # macOS adds its own folder to zip files.
            names = [one.filename for one in file.infolist() if not one.is_dir()]
            names = [name for name in names if not name.startswith("__MACOSX/")]
            if len(names) != 1:
                held = f"{len(names)} files ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
                raise fault(place, None, f"a zip file with {held}", "Unpack it, and read the files that you need.")
            return names[0].rpartition("/")[2], file.read(names[0])
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError) as error:
        raise fault(place, None, f"not a readable zip file ({error})", END) from error


def _download(url):
    """Returns the content of a URL, through fsspec if it supports the scheme, else through TensorFlow."""
    scheme = url.partition("://")[0].lower()
    try:
        # A dependency of huggingface_hub.
        import fsspec

        opened = fsspec.open(url, "rb")
    except (ImportError, ValueError) as error:  # a missing package for the scheme; an unknown scheme
        if scheme in tf.io.gfile.get_registered_schemes():
            return _by_tensorflow(url)
        if isinstance(error, ImportError):
            message = (
                f"Reading {url} needs a package that is not installed: {error}. Or copy the file to the local disk."
            )
            raise ImportError(message, name=error.name) from error
        remedy = "Copy the file to the local disk, or install an fsspec package for the scheme."
        raise _check.invalid("path", "a path, or a URL that fsspec or TensorFlow reads", url, remedy) from error
    try:
        with opened as file:
            return file.read()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url}: no such file.") from error


def _by_tensorflow(url):
    try:
        with tf.io.gfile.GFile(url, "rb") as file:
            return file.read()
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(f"{url}: no such file.") from error


def text(place, data, encoding):
    """Returns bytes as a string; invalid bytes become lone surrogates, for the readers to report."""
    try:
        name = codecs.lookup(encoding).name
    except (LookupError, TypeError) as error:
        raise _check.invalid("encoding", "an encoding that Python knows", encoding) from error
    if name in ("utf-8", "utf-8-sig", "ascii"):
        # No text in these encodings can start with such a mark.
        encoding = next((marked for mark, marked in MARKS if data.startswith(mark)), encoding)
    try:
        found = data.decode(encoding, errors="surrogateescape")
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, errors="ignore").count("\n") + 1
        problem = f"bytes that are not {encoding} ({error.reason}, at byte {error.start})"
        raise fault(f"{place}, line {line}", None, problem, "Pass the right `encoding`.") from error
    found = found.removeprefix("\ufeff")
    if found[:1000].count("\0") > len(found[:1000]) / 4:
        remedy = "Pass `encoding='utf-16-le'` or `encoding='utf-16-be'` if it is one."
        problem = "NUL characters, as in a UTF-16 file without a byte order mark"
        raise fault(f"{place}, line 1", None, problem, remedy)
    if not found.strip("\r\n"):
        raise fault(place, None, "the file is empty", END)
    return found


def lines(found):
    """Returns the lines of a string with their ends, without empty lines at the end."""
    # newline="" splits at \n, \r and \r\n only: U+2028 and the like belong to the text.
    made = list(io.StringIO(found, newline=""))
    while made and not made[-1].strip("\r\n"):
        made.pop()
    return made


def is_bad(value):
    """Whether a string holds invalid bytes, or half of a surrogate pair."""
    return not value.isascii() and _SURROGATE.search(value) is not None


def has_bad_text(place, names, values, faults):
    """Reports the first value with invalid bytes; returns whether there is one."""
    for name, value in zip(names, values, strict=True):
        if is_bad(value):
            remedy = "Fix the line, pass the right `encoding`, or pass `on_error='skip'`."
            faults.add(place, name, BAD_TEXT, f", in {shown(value)}", remedy)
            return True
    return False
