"""Readers of JSON: lines of objects, an array of objects, an object of columns."""

import json

from tfxfer.data import _files
from tfxfer.data._rows import fault, shown

_MEND = "Fix it or pass `on_error='skip'`."
_FORMS = (
    "Expected an array of objects, one object per line, or an object of columns. With pandas: "
    "`frame.to_json(path, orient='records')`."
)


def read_lines(place, text, faults):
    """Reads JSON Lines: a dict of columns (the union of all keys; a missing one is None), and the line of each row."""
    rows, numbers = [], []
    for number, line in enumerate(_files.lines(text), 1):
        where = f"{place}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == 1 and isinstance(_whole(text), list):
                remedy = "Pass `format='json'`, or name the file `.json`."
                raise fault(place, None, "a JSON array, not a JSON object on each line", remedy) from error
            reason = "bad JSON" if line.strip() else "an empty line"
            faults.add(where, None, reason, f" ({_said(error)})" if line.strip() else "", _MEND)
            continue
        if not isinstance(row, dict):
            if number == 1 and isinstance(row, list) and any(isinstance(each, dict) for each in row):
                remedy = "Pass `format='json'`, or name the file `.json`."
                raise fault(place, None, "a JSON array, not a JSON object on each line", remedy)
            faults.add(where, None, "a line that is not a JSON object", f": {shown(row)}", _MEND)
            continue
        _keep(where, row, number, rows, numbers, faults)
    return _columns(place, rows), numbers


def read_json(place, text, faults):
    """Reads a `.json` file of any form: a dict of columns, the number of each row, and what the numbers count."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(_whole(_files.lines(text)[0]), dict):  # an object in the first line: JSON Lines
            return *read_lines(place, text, faults), "line"
        line = getattr(error, "lineno", 1)
        raise fault(f"{place}, line {line}", None, f"bad JSON ({_said(error)})", _FORMS) from error
    if isinstance(whole, list):
        return *_from_array(place, whole, faults), "row"
    if isinstance(whole, dict) and whole:
        values = list(whole.values())
        if not any(isinstance(value, (list, dict)) for value in values):
            return *_from_array(place, [whole], faults), "row"  # one row, possibly on several lines
        if all(isinstance(value, dict) and list(value) == list(values[0]) for value in values):
            values = [list(value.values()) for value in values]  # `frame.to_json(path)`: by index
        if all(isinstance(value, list) and len(value) == len(values[0]) for value in values):
            rows = [dict(zip(whole, row, strict=True)) for row in zip(*values, strict=True)]
            return *_from_array(place, rows, faults), "row"
    raise fault(place, None, f"JSON that does not hold rows: {shown(whole)}", _FORMS)


def _from_array(place, objects, faults):
    rows, numbers = [], []
    for number, row in enumerate(objects):
        where = f"{place}, row {number} (counting from 0)"
        if isinstance(row, dict):
            _keep(where, row, number, rows, numbers, faults)
        else:
            faults.add(where, None, "an element that is not a JSON object", f": {shown(row)}", _MEND)
    return _columns(place, rows), numbers


def _keep(where, row, number, rows, numbers, faults):
    """Adds a row, unless it holds invalid text."""
    strings = {name: value for name, value in row.items() if isinstance(value, str)}
    if not _files.has_bad_text(where, strings.keys(), strings.values(), faults):
        rows.append(row)
        numbers.append(number)


def _columns(place, rows):
    names = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    if rows and not names:
        remedy = 'Each row should be an object such as {"text": "..."}.'
        raise fault(place, None, "no column in any row", remedy)
    return {name: [row.get(name) for row in rows] for name in names}


def _whole(text):
    """The value of a text, or `None` if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _said(error):
    """The error and its column; the caller reports the line."""
    return f"{error.msg}, at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
