"""A directory of several files that are replaced together.

A JSON manifest names the other files, each with its size and SHA-256. Every save writes the files under new names and
replaces the manifest last: before that, the directory holds the old state, afterwards the new one, and never parts of
both.
"""

import hashlib
import json
import re
import secrets
import time

from tfxfer import _disk

_OF_PART = {"file": str, "bytes": int, "sha256": str}


class Layout:
    """The names of the files in one kind of directory.

    Args:
        file: string. The manifest's name.
        prefix: string. The start of the names of the parts; a random number and the part's extension follow.
        endings: dict of part to file extension.
        former: names of files of an older format, which also belong to the directory.
    """

    def __init__(self, file, prefix, endings, former=()):
        self.file, self.endings, self.former = file, endings, frozenset(former)
        self.prefix = prefix
        self.own = re.compile(rf"{prefix}-[0-9a-f]{{16}}\.({'|'.join(map(re.escape, endings.values()))})")


# === Writing ===


def write(layout, folder, manifest, writers):
    """Writes the parts and then the manifest; the content of the directory is replaced atomically, or not at all.

    Args:
        layout: `Layout`.
        folder: `pathlib.Path`, created if it is missing.
        manifest: dict; `files` is added to it.
        writers: dict of part to a function of a path that writes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = _named(layout, folder)
    token = secrets.token_hex(8)
    manifest = {**manifest, "files": {}}
    try:
        for part, write_part in writers.items():
            file = folder / f"{layout.prefix}-{token}.{layout.endings[part]}"
            with _disk.replacing(file) as path:
                write_part(path)
            manifest["files"][part] = {"file": file.name, "bytes": file.stat().st_size, "sha256": _sha256(file)}
        _disk.write_json(folder / layout.file, manifest)
    finally:
        # Before the last step, the files of this save are unused; after it, those of the previous save are.
        now = _named(layout, folder)
        _remove(folder, [name for name in _own(layout, folder) if token in name or name in before], now)
    _remove(folder, [name for name in _own(layout, folder) if _is_old(layout, folder / name)], now)


def write_json(value):
    """Returns a function of a path that writes a value as JSON."""
    return lambda path: path.write_text(json.dumps(value), encoding="utf-8")


def _sha256(file):
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _named(layout, folder):
    """Returns the names of the files that the manifest refers to."""
    try:
        manifest = json.loads((folder / layout.file).read_bytes())
        if "format" not in manifest:
            return set(layout.former) if "texts" in manifest else set()
        return {part["file"] for part in manifest["files"].values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set()


def _own(layout, folder):
    """Returns the names of all files in a directory that some save wrote, complete or not."""
    names = [path.name for path in folder.iterdir()]
    return [name for name in names if layout.own.match(name) or name in layout.former]


def _is_old(layout, path):
    """Whether a file belongs to a killed save, not to one that is still running."""
    try:
        return layout.own.match(path.name) and time.time() - path.stat().st_mtime >= _disk.DEAD
    except OSError:
        return False


def _remove(folder, names, kept):
    for name in set(names) - kept:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError:
            continue


# === Reading ===


def read(reader, file, parse):
    """Returns the result of `parse` for a manifest file; tries again if a save replaced it in the meantime."""
    while True:
        before = reader.bytes(file)
        try:
            return parse()
        except ValueError:
            # A concurrent save has removed the files of the old manifest.
            if reader.bytes(file) == before:
                raise


def checked_part(layout, reader, folder, part, facts, *, is_whole=True):
    """Returns the path of a part after checking it against the manifest.

    Args:
        layout: `Layout`.
        reader: `_disk.Reader`.
        folder: path.
        part: string.
        facts: the part's entry in the manifest's `files`.
        is_whole: bool. Whether to check its bytes in addition to its size.
    """
    reader.check_keys(folder / layout.file, facts, _OF_PART, f" of {part!r}")
    name = facts["file"]
    if not layout.own.fullmatch(name) or not name.endswith(layout.endings[part]):
        raise reader.error(folder / layout.file, f"names {name!r} for the {part}, which no save writes")
    file = folder / name
    reader.check_file(file)
    with reader.guard(file):
        size = file.stat().st_size
        sha256 = _sha256(file) if is_whole else facts["sha256"]
    if size != facts["bytes"]:
        raise reader.error(file, f"has {size} bytes, not {facts['bytes']}: it is truncated, or another index's")
    if sha256 != facts["sha256"]:
        raise reader.error(file, f"is damaged or another index's: its SHA-256 is not the one in {layout.file}")
    return file


def check_texts(reader, file, texts):
    """Raises unless the content of a file is a non-empty list of strings."""
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise reader.error(file, "holds no list of texts")
