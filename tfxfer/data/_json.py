"""Readers of JSON: lines of objects, an array of objects, an object of columns."""

import json

from tfxfer.data import _files
from tfxfer.data._rows import fault, shown

_MEND = "Mend it or pass `on_error='skip'`."
_FORMS = (
    "Expected is an array of objects, an object on each line, or an object of columns. With pandas: "
    "`frame.to_json(path, orient='records')`."
)


def read_lines(place, text, faults):
    """JSON Lines: a dict of columns (the union of all keys; a missing one is None), and the line of each row."""
    rows, numbers = [], []
    for number, line in enumerate(_files.lines(text), 1):
        where = f"{place}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == 1 and isinstance(_whole(text), list):
                remedy = "Give `format='json'`, or name the file `.json`."
                raise fault(place, None, "a JSON array, not a JSON object on each line", remedy) from error
            reason = "bad JSON" if line.strip() else "an empty line"
            faults.add(where, None, reason, f" ({_said(error)})" if line.strip() else "", _MEND)
            continue
        if not isinstance(row, dict):
            if number == 1 and isinstance(row, list) and any(isinstance(each, dict) for each in row):
                remedy = "Give `format='json'`, or name the file `.json`."
                raise fault(place, None, "a JSON array, not a JSON object on each line", remedy)
            faults.add(where, None, "a line that is no JSON object", f": {shown(row)}", _MEND)
            continue
        _keep(where, row, number, rows, numbers, faults)
    return _columns(place, rows), numbers


def read_json(place, text, faults):
    """A `.json` file of any of the forms: a dict of columns, the number of each row, and what is numbered."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(_whole(_files.lines(text)[0]), dict):  # an object on a line: then they all are, or should be
            return *read_lines(place, text, faults), "line"
        line = getattr(error, "lineno", 1)
        raise fault(f"{place}, line {line}", None, f"bad JSON ({_said(error)})", _FORMS) from error
    if isinstance(whole, list):
        return *_from_array(place, whole, faults), "row"
    if isinstance(whole, dict) and whole:
        values = list(whole.values())
        if not any(isinstance(value, (list, dict)) for value in values):
            return *_from_array(place, [whole], faults), "row"  # one row, on however many lines
        if all(isinstance(value, dict) and list(value) == list(values[0]) for value in values):
            values = [list(value.values()) for value in values]  # `frame.to_json(path)`: by index
        if all(isinstance(value, list) and len(value) == len(values[0]) for value in values):
            rows = [dict(zip(whole, row, strict=True)) for row in zip(*values, strict=True)]
            return *_from_array(place, rows, faults), "row"
    raise fault(place, None, f"JSON that is no rows: {shown(whole)}", _FORMS)


def _from_array(place, objects, faults):
    rows, numbers = [], []
    for number, row in enumerate(objects):
        where = f"{place}, row {number} (counting from 0)"
        if isinstance(row, dict):
            _keep(where, row, number, rows, numbers, faults)
        else:
            faults.add(where, None, "an element that is no JSON object", f": {shown(row)}", _MEND)
    return _columns(place, rows), numbers


def _keep(where, row, number, rows, numbers, faults):
    """Takes a row in, unless it holds what is no text."""
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
    """The value of a text, or `None` where it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _said(error):
    """What is wrong and at which column, the line being said already."""
    return f"{error.msg}, at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
