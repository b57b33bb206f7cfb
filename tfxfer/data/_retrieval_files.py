"""Retrieval files: BEIR's directories, and the judgments and runs of TREC."""

import collections.abc
import math
import numbers
import os
from typing import Any, Literal, NamedTuple

from tfxfer import _check, _disk
from tfxfer.data._files import BAD_TEXT, END, PACKINGS, File, is_bad, lines, text
from tfxfer.data._read import read
from tfxfer.data._rows import Rows, fault, shown

# The names of the columns of judgments in files with a header.
_QUERY = ("query-id", "query_id", "qid")
_DOCUMENT = ("corpus-id", "corpus_id", "doc_id", "docid", "pid")
_GRADE = ("score", "relevance", "rel", "grade", "label")
_JUDGEMENTS = "query, document and grade on each line (BEIR), or query, 0, document and grade (TREC)"
_RUN = "query, Q0, document, rank, score and the name of the run on each line"


class RetrievalTask(NamedTuple):
    """A retrieval task: what `read_beir` returns, in the order of the arguments of `evaluation.retrieval`.

    Args:
        queries: dict of query id to text.
        corpus: dict of document id to text.
        relevant: dict of query id to a dict of document id to grade. Grades of 0 and below are judged and not relevant;
            documents without a grade are not judged.
    """

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant: dict[str, dict[str, int | float]]


def read_beir(
    folder: str | os.PathLike[str],
    *,
    split: str = "test",
    title: str | None = " ",
    missing: Literal["raise", "keep"] = "raise",
) -> RetrievalTask:
    r"""Reads a directory in BEIR's layout: a corpus, queries, and which documents are relevant to which query.

    | file | content |
    |---|---|
    | `corpus.jsonl` | an object per document: `_id`, `text` and optionally `title` |
    | `queries.jsonl` | an object per query: `_id` and `text` |
    | `qrels/<split>.tsv` | a header, then query id, document id and grade on each line; see `read_qrels` |

    Each may be compressed (`corpus.jsonl.gz`) or in Parquet: `corpus.parquet`, or directories as on the Hugging Face
    Hub, `corpus/*.parquet`, `queries/*.parquet` and `qrels/<split>-*.parquet`. Judgments without grades, as in
    NanoBEIR, have grade 1.

    Args:
        folder: path of the directory.
        split: string. The split whose judgments are read. Queries that it does not name are skipped, because they
            belong to other splits.
        title: string between a document's title and its text, a space as in BEIR. `None` omits titles.
        missing: `"raise"` for a judged document that the corpus lacks, or `"keep"`: its judgment is kept, and counts
            as a document that no search can find, as in BEIR.

    Returns:
        `RetrievalTask(queries, corpus, relevant)`, with the queries in the order of their file.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file exists in two forms, an id appears twice, a text is missing or not a string, or a judged
            query or (by default) document does not exist, and as `read`; the message names file and line.

    Example:

    >>> import json, os
    >>> os.makedirs("faq/qrels")
    >>> def write(path, *lines):
    ...     with open(f"faq/{path}", "w") as file:
    ...         file.write("\n".join(lines))
    >>> write("corpus.jsonl", '{"_id": "d1", "title": "Cards", "text": "Press the button."}')
    >>> write("queries.jsonl", '{"_id": "q1", "text": "how to reset"}', '{"_id": "q2", "text": "hours"}')
    >>> write("qrels/test.tsv", "query-id\tcorpus-id\tscore", "q1\td1\t2")
    >>> read_beir("faq")
    RetrievalTask(queries={'q1': 'how to reset'}, corpus={'d1': 'Cards Press the button.'}, relevant={'q1': {'d1': 2}})

    ```python
    queries, corpus, relevant = tx.data.read_beir("beir/scifact")
    tx.evaluation.retrieval(embedder, queries, corpus, relevant)
    ```

    Reference: Thakur et al., 2021, BEIR, https://arxiv.org/abs/2104.08663.
    """
    folder = _disk.local_path("folder", folder, kind="folder")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder.")
    _check.instance("split", split, str, "the name of a split, such as 'test'")
    if title is not None:
        _check.instance("title", title, str, "a string between title and text, or None")
    _check.one_of("missing", missing, ("raise", "keep"))
    rows = _read_all(_found(folder, "corpus"))
    corpus = _texts(rows, title)
    every = _texts(_read_all(_found(folder, "queries")), None)
    files = _found(folder / "qrels", split, ending=(".tsv", ".txt", ".parquet"), several=f"{split}-*.parquet")
    relevant: dict[str, dict[str, int | float]] = {}
    for file in files:
        for query, grades in read_qrels(file).items():
            for document, grade in grades.items():
                _note(relevant, query, document, grade, str(file))
    unknown = next((query for query in relevant if query not in every), None)
    if unknown is not None:
        expected = f"queries of {folder / 'queries.jsonl'} in its judgments of {split!r}"
        raise _check.invalid("folder", expected, str(folder), f"Query {unknown!r} is judged, but has no text.")
    if missing == "raise":
        for query, grades in relevant.items():
            absent = next((document for document in grades if document not in corpus), None)
            if absent is not None:
                remedy = f"Query {query!r} has a judgment of {absent!r}, which is missing. Add the document, or pass "
                remedy += "`missing='keep'` to count it as a document that no search can find."
                raise _check.invalid("folder", "judgments of documents of the corpus", str(folder), remedy)
    return RetrievalTask({one: query for one, query in every.items() if one in relevant}, corpus, relevant)


def _found(folder, name, ending=(".jsonl", ".json", ".parquet"), several=None):
    """Returns the file of a role in a directory, or its parts, as a list of paths."""
    candidates = [folder / f"{name}{suffix}{packing}" for suffix in ending for packing in ("", *PACKINGS)]
    files = [path for path in candidates if path.is_file()]
    parts = sorted(folder.glob(several) if several else (folder / name).glob("*.parquet"))
    if len(files) > 1 or (files and parts):
        raise _check.invalid(
            "folder", f"one file of the {name}", [str(path) for path in [*files, *parts]], "Keep one of them."
        )
    if not files and not parts:
        others = sorted(path.name.split(".")[0] for path in folder.glob("*.tsv*")) if several else []
        remedy = f" The available splits are {', '.join(map(repr, others))}." if others else ""
        raise FileNotFoundError(f"{candidates[0]}: no such file, in any of the forms.{remedy}")
    return files or parts


def _read_all(paths):
    parts = [read(path) for path in paths]
    return parts[0] if len(parts) == 1 else Rows._concatenate(parts)


def _texts(rows, title):
    """Returns a dict of id to text; the title comes before the text, if requested."""
    ids = rows["_id" if "_id" in rows.columns or "id" not in rows.columns else "id"]
    titles = rows["title"] if title is not None and "title" in rows.columns else [None] * len(rows)
    found: dict[str, str] = {}
    for row, (one, heading, body) in enumerate(zip(ids, titles, rows["text"], strict=True)):
        if isinstance(one, bool) or not isinstance(one, (str, int)) or one == "":
            raise fault(rows.place(row), "_id", f"an invalid id, {shown(one)}", "An id is a string or an int.")
        for column, value in (("text", body), ("title", heading)):
            if not isinstance(value, str) and not (column == "title" and value is None):
                raise fault(rows.place(row), column, f"an invalid text, {shown(value)}", 'Fill it in: `""` is a text.')
        if str(one) in found:
            raise fault(rows.place(row), "_id", f"id {str(one)!r} appears twice", "Ids must be unique.")
        found[str(one)] = f"{heading}{title}{body}".strip() if heading else body
    return found


def read_qrels(path: str | os.PathLike[str]) -> dict[str, dict[str, int | float]]:
    r"""Reads relevance judgments in BEIR's or TREC's format.

    BEIR's has tabs and a header: `query-id`, `corpus-id` and optionally `score` (1 if missing). TREC's has no header,
    and tabs or spaces: query, an ignored number, document, grade. Three columns without a header are read as in BEIR.

    Args:
        path: a path or URL; compressed files as in `read`, and Parquet with the columns of BEIR.

    Returns:
        A dict of query id to a dict of document id to grade, in the order of the file. Ids are strings. A whole grade
        is an int; negative ones, which TREC uses for spam, are kept.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is empty, a line has other columns, a grade is not a number, or a document has two
            different grades; the message names file and line.

    Example:

    >>> with open("qrels.txt", "w") as file:
    ...     _ = file.write("q1 0 d7 2\nq1 0 d8 -1\nq2 0 d7 0\n")
    >>> read_qrels("qrels.txt")
    {'q1': {'d7': 2, 'd8': -1}, 'q2': {'d7': 0}}
    """
    file = File(path)
    relevant: dict[str, dict[str, int | float]] = {}
    if file.name.lower().endswith((".parquet", ".pq")):
        rows = read(path)
        columns = _named(file.place, rows.columns)
        for row in range(len(rows)):
            query, document = (str(rows[name][row]) for name in columns[:2])
            grade = rows[columns[2]][row] if len(columns) > 2 else 1
            _note(relevant, query, document, _grade(grade, rows.place(row)), rows.place(row))
        return relevant
    records = _records(file)
    place, first = records[0]
    picked = (0, 1, 2)
    if len(first) in (2, 3) and _number(first[-1]) is None:
        names = _named(place, first)
        picked = tuple(first.index(name) for name in names)
        records = records[1:]
    elif len(first) == 4:
        picked = (0, 2, 3)
    elif len(first) != 3:
        raise fault(place, None, f"{len(first)} columns: {shown(' '.join(first))}", f"Expected {_JUDGEMENTS}.")
    elif all(len(fields) == 3 and fields[1] in ("0", "Q0") for _, fields in records) and len(records) > 1:
        problem = "three columns, of which the second is always 0"
        remedy = "Are these documents named 0, or is the grade missing? Write a header line (query-id, corpus-id, "
        raise fault(place, None, problem, remedy + "score) in the first case, or four columns in the second.")
    if not records:
        raise fault(file.place, None, "no judgments", END)
    for place, fields in records:
        if len(fields) != len(first):
            problem = f"{len(fields)} columns instead of {len(first)}: {shown(' '.join(fields))}"
            raise fault(place, None, problem, f"Expected {_JUDGEMENTS}.")
        query, document, *grade = (fields[i] for i in picked)
        _note(relevant, query, document, _grade(grade[0], place) if grade else 1, place)
    return relevant


def _named(place, header):
    """Returns the names of the columns of query, document and, if present, grade in a header."""
    found = [next((name for name in header if name.lower() in known), None) for known in (_QUERY, _DOCUMENT, _GRADE)]
    if found[0] is None or found[1] is None or (len(header) > 2 and found[2] is None):
        remedy = f"Expected {_QUERY[0]}, {_DOCUMENT[0]} and {_GRADE[0]}, or lines of {_JUDGEMENTS}."
        raise fault(place, None, f"columns {', '.join(map(shown, header))}", remedy)
    return [name for name in found if name is not None]


def _note(relevant, query, document, grade, place):
    known = relevant.setdefault(query, {}).setdefault(document, grade)
    if known != grade:
        problem = f"document {document!r} has the grades {known} and {grade} for query {query!r}"
        raise fault(place, None, problem, "Keep one of them.")


def _grade(value, place):
    grade = _number(value)
    if grade is None:
        raise fault(place, None, f"a grade that is not a number: {shown(value)}", f"Expected {_JUDGEMENTS}.")
    return int(grade) if grade == int(grade) else grade


def _number(value):
    """The finite number that a value represents, or `None`."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _records(file):
    """Returns the place and fields of each line, split at tabs, or else at any run of spaces."""
    found = lines(text(file.place, file.read(), "utf-8"))
    tabs = "\t" in found[0]
    records = []
    for number, line in enumerate(found, 1):
        place = f"{file.place}, line {number}"
        line = line.strip("\r\n")
        if is_bad(line):
            raise fault(place, None, f"{BAD_TEXT}, in {shown(line)}", "Fix the line: the file should be UTF-8.")
        fields = [field.strip() for field in line.split("\t")] if tabs else line.split()
        if not all(fields) or not fields:
            raise fault(place, None, f"an empty line or column: {shown(line)}", "Fix the line.")
        records.append((place, fields))
    return records


def read_run(
    path: str | os.PathLike[str], *, order: Literal["score", "rank"] | None = None
) -> dict[str, dict[str, float]]:
    r"""Reads the results of a search from a TREC run file: query, `Q0`, document, rank, score, name of the run.

    Args:
        path: a path or URL; compressed files as in `read`.
        order: what ranks the documents if the score and rank of a line contradict each other, which is an error by
            default: `"score"`, as in trec_eval, or `"rank"`: the score is then the negated rank.

    Returns:
        A dict of query id to a dict of document id to score, for `evaluation.run_scores`. The documents of a query are
        in the order of their ranks.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is empty, a line has other columns, a rank or score is not a number, a document appears
            twice, or ranks contradict the scores; the message names file and line.

    Example:

    >>> with open("bm25.run", "w") as file:
    ...     _ = file.write("q1 Q0 d7 1 12.5 bm25\nq1 Q0 d3 2 11.25 bm25\n")
    >>> read_run("bm25.run")
    {'q1': {'d7': 12.5, 'd3': 11.25}}
    """
    if order is not None:
        _check.one_of("order", order, ("score", "rank"))
    file = File(path)
    found: dict[str, list[tuple[float, float, str, str]]] = {}
    for place, fields in _records(file):
        if len(fields) != 6:
            raise fault(place, None, f"{len(fields)} columns: {shown(' '.join(fields))}", f"Expected {_RUN}.")
        query, _, document, rank, score, _ = fields
        for what, value in (("rank", rank), ("score", score)):
            if _number(value) is None:
                raise fault(place, None, f"a {what} that is not a number: {shown(value)}", f"Expected {_RUN}.")
        found.setdefault(query, []).append((float(rank), float(score), document, place))
    run: dict[str, dict[str, float]] = {}
    for query, ranked in found.items():
        ranked.sort(key=lambda each: each[0])
        run[query] = {}
        for i, (rank, score, document, place) in enumerate(ranked):
            if document in run[query]:
                raise fault(place, None, f"document {document!r} appears twice for query {query!r}")
            if order is None and i and score > ranked[i - 1][1] and rank > ranked[i - 1][0]:
                problem = f"rank {rank:g} of query {query!r} has a higher score than rank {ranked[i - 1][0]:g}"
                raise fault(place, None, problem, "Pass the one that counts: `order='score'` or `order='rank'`.")
            run[query][document] = -rank if order == "rank" else score
    return run


def write_run(path: str | os.PathLike[str], run: Any, *, name: str = "tfxfer") -> None:
    r"""Writes the results of a search as a TREC run file, which trec_eval, pytrec_eval and ranx read.

    The best score has rank 1; equal scores are ranked in the order of `run`. (trec_eval ignores ranks: it sorts equal
    scores by falling id.) Scores are written in full precision, so that `read_run` returns the same.

    Args:
        path: path of the file. An existing file is replaced.
        run: dict of query id to a dict of document id to score, larger is better. Ids are strings or ints. The format
            cannot store a query without documents: it is missing when the file is read back.
        name: string. The name of the run, in the last column.

    Raises:
        ValueError: if there are no queries, an id or the name is empty or contains whitespace, ids are equal as
            strings, or a score is not finite.

    Example:

    >>> write_run("my.run", {"q1": {"d3": 0.5, "d7": 0.75}}, name="mine")
    >>> with open("my.run") as file:
    ...     print(file.read())
    q1 Q0 d7 1 0.75 mine
    q1 Q0 d3 2 0.5 mine
    <BLANKLINE>
    """
    path = _disk.local_path("path", path, kind="file")
    run, written = check_run("run", run), []
    if len({str(query) for query in run}) < len(run):
        raise _check.invalid("run", "ids of queries that differ as strings", list(run))
    for query, scores in run.items():
        if len({str(document) for document in scores}) < len(scores):
            raise _check.invalid("run", f"ids of query {query!r} that differ as strings", list(scores))
        ranked = sorted(scores.items(), key=lambda each: -each[1])
        for rank, (document, score) in enumerate(ranked, 1):
            fields = (_word("run", query), "Q0", _word("run", document), rank, repr(score), _word("name", name))
            written.append(" ".join(map(str, fields)) + "\n")
    _disk.write_text(path, "".join(written))


def check_run(argument: str, run: Any) -> dict[Any, dict[Any, float]]:
    """Returns a run with its scores as floats; raises for anything but a dict of dicts of finite numbers.

    Args:
        argument: string. The argument's name, for errors.
        run: dict of query id to a dict of document id to score.

    Returns:
        The same structure as new dicts, with floats as scores.

    Raises:
        ValueError: if `run` is not such a dict, has no queries, or has a score that is not a finite number.

    Example:

    >>> check_run("run", {"q1": {"d3": 1}})
    {'q1': {'d3': 1.0}}
    """
    if not isinstance(run, collections.abc.Mapping) or not run:
        raise _check.invalid(argument, "a dict of query id to a dict of document id to score, at least one query", run)
    found = {}
    for query, scores in run.items():
        if not isinstance(scores, collections.abc.Mapping):
            raise _check.invalid(argument, f"a dict of document id to score for query {query!r}", scores)
        found[query] = {}
        for document, score in scores.items():
            if isinstance(score, bool) or not isinstance(score, numbers.Real) or not math.isfinite(score):
                raise _check.invalid(argument, f"a finite score of document {document!r} for query {query!r}", score)
            found[query][document] = float(score)
    return found


def _word(argument, value):
    if isinstance(value, bool) or not isinstance(value, (str, int)) or len(str(value).split()) != 1:
        raise _check.invalid(argument, "ids and a name, one word each", value, "A run file is split at spaces.")
    if str(value) != str(value).strip():
        raise _check.invalid(argument, "ids and a name without spaces around them", value)
    return str(value)
