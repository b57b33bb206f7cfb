"""The page of a report: what it shows, that no text becomes markup, and how it works in a browser."""

import html.parser
import json
import subprocess

import keras
import numpy as np
import pytest
import tiny

import tfxfer as tx

EVIL = "</script><script>document.title='owned'</script>\"'& \u202eevil <img src=x onerror=document.title='owned'>"
TEXTS = [*tiny.TEXTS[:7], EVIL]


class Page(html.parser.HTMLParser):
    """The tags of a page, its text outside scripts and styles, and its data."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.text, self.titles, self._within, self.rows = [], "", [], [], None
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self._within.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._within.pop()[0] == tag  # tags are nested correctly

    def handle_data(self, data):
        tag, attrs = self._within[-1] if self._within else ("", {})
        if attrs.get("id") == "rows":
            self.rows = json.loads(data)
        elif tag == "title":
            self.titles.append(data)
        elif tag not in ("script", "style"):
            self.text += data

    def named(self, tag, key):
        return [attrs[key] for name, attrs in self.tags if name == tag and key in attrs]


def check(page, scripts):
    """Checks that the page loads nothing from elsewhere and that no text became a tag."""
    assert not page._within
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == scripts and not {"img", "link", "iframe", "object", "base", "a"} & set(names)
    assert not any(key.startswith("on") or key in ("src", "href") for _, attrs in page.tags for key in attrs)
    assert "http" not in page.source.replace("http-equiv", "")
    assert "default-src 'none'" in page.named("meta", "content")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def labelled(folder):
    """The report of a classifier whose labels and texts try to break out, and what it was made from."""
    keras.utils.set_random_seed(0)
    model = tiny.classifier(folder, labels=["card", "loan", EVIL])
    kernel = model.linear_head()[1].kernel
    kernel.assign(np.random.default_rng(0).normal(0, 3, kernel.shape))
    y = ["card", "loan", EVIL, "card", "loan", "loan", "card", EVIL]
    history = {"loss": [2.0, 1.0], "val_loss": [2.0, float("nan")]}
    found = tx.evaluation.report(folder / "labelled", model, TEXTS, y, history=history)
    return model, y, found, folder / "labelled" / "report.html"


def test_the_page_of_a_classifier_holds_scores_rows_errors_and_a_map(labelled):
    model, y, found, path = labelled
    page = Page(path)
    check(page, scripts=2)
    for shown in (
        f"{found['classification']['accuracy']:.4f}",
        f"{found['calibration']['ece']:.3f}",
        "(blue: training",
        EVIL,
    ):
        assert shown in page.text or shown in " ".join(page.titles) or shown in page.source, shown
    assert EVIL in page.text  # as text
    answers = model.classify(TEXTS)
    rows = {row["i"]: row for row in page.rows["rows"]}
    assert page.rows["labels"] == model.labels and sorted(rows) == list(range(8))
    for i, row in rows.items():
        assert row["t"] == [TEXTS[i]] and [model.labels[k] for k in row["y"]] == [y[i]]
        assert [model.labels[k] for k in row["p"]] == [answers.labels[i]]
        assert row["c"] == pytest.approx(answers.probabilities[i].max(), abs=1e-6)
    wrong = [i for i in range(8) if answers.labels[i] != y[i]]
    assert [row["i"] for row in page.rows["rows"]][: len(wrong)] == wrong
    cells = [attrs for tag, attrs in page.tags if tag == "button" and attrs.get("data-open") == "cell"]
    counted = {(int(each["data-y"]), int(each["data-p"])) for each in cells}
    assert counted == {tuple(place) for place in np.argwhere(np.array(found["classification"]["confusion"])).tolist()}
    assert page.named("circle", "cx") and len(page.named("circle", "cx")) == 8
    assert sum(EVIL[:20] in title for title in page.titles) >= 1  # the text of a point, on hover
    worst = max(wrong, key=lambda i: answers.probabilities[i].max())
    why = model.explain([TEXTS[worst]], steps=16, max_steps=128)[0]
    assert f"{why.top(1)[0].value:+.4f}" in page.named("span", "title")


def test_several_labels_numbers_and_scores_alone_have_pages_too(folder):
    p = np.array([[0.9, 0.2], [0.4, 0.7], [0.1, 0.6]])
    texts = [EVIL, "b", "c"]
    y = [["a"], ["a"], []]
    tx.evaluation.report_scores(folder / "several", y, p, labels=["a", "b"], texts=texts)
    page = Page(folder / "several" / "report.html")
    check(page, scripts=2)
    opened = [attrs["data-open"] for tag, attrs in page.tags if tag == "button" and "data-open" in attrs]
    assert opened == ["missed", "spurious"] * 2
    assert [row["p"] for row in sorted(page.rows["rows"], key=lambda row: row["i"])] == [[0], [1], [1]]
    assert {"1 rows", "2 rows"} <= {part.strip() for part in page.text.split("\n")} or "2 rows" in page.text
    tx.evaluation.report_scores(folder / "numbers", [1.0, 2.0, 3.0], [0.1, 0.9, 0.5], texts=(texts, texts))
    page = Page(folder / "numbers" / "report.html")
    check(page, scripts=1)
    assert len(page.named("circle", "cx")) == 3 and "differs most" in page.text and EVIL in page.text
    model = tiny.embedder(folder)
    pairs = (TEXTS, TEXTS[::-1])
    tx.evaluation.report(folder / "pairs", model, pairs, np.arange(8.0))
    page = Page(folder / "pairs" / "report.html")
    check(page, scripts=1)
    assert len(page.named("circle", "cx")) == 8 + 8 and "each text once" in page.text
    assert "similarity 0." in page.text and "Blue words" in page.text
    tx.evaluation.report_scores(folder / "alone", scores={EVIL: {"mrr": 0.5}})
    page = Page(folder / "alone" / "report.html")
    check(page, scripts=1)
    assert EVIL in page.text and "0.5000" in page.text
    with pytest.raises(ValueError, match="`texts`"):
        tx.evaluation.report_scores(folder / "no", [0, 1], [[1, 0], [0, 1]], labels=["a", "b"], texts=["a"])


def test_intervals_and_coverage_are_shown_where_scores_have_them(folder):
    y, p, labels = [0, 1, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]], ["a", "b"]
    found = tx.evaluation.report_scores(folder / "intervals", y, p, labels=labels, intervals=0.9)
    page = Page(folder / "intervals" / "report.html")
    check(page, scripts=1)
    scores = found["classification"]
    for low, high in (scores["intervals"]["accuracy"], scores["per_class"]["a"]["intervals"]["f1"]):
        assert f"{low:.4f} to {high:.4f}" in page.text
    assert "Accuracy on the most confident rows" in page.text


def test_a_taggers_page_marks_entities_in_the_rows_with_errors(folder):
    gold = [["O", "B-a", "I-a"], ["O", "O", "O"], ["B-a", "O", "O"]]
    predicted = [["O", "B-a", "O"], ["O", "O", "O"], ["B-a", "O", "O"]]
    words = [["x", EVIL, "z"], ["u", "v", "w"], ["p", "q", "r"]]
    tx.evaluation.report_entities(folder / "entities", gold, predicted, scheme="IOB2", texts=words)
    page = Page(folder / "entities" / "report.html")
    check(page, scripts=1)
    assert EVIL in page.text and "All 1 rows with an error" in page.text
    marked = [attrs["class"] for tag, attrs in page.tags if tag == "span" and attrs.get("class", "").startswith("e")]
    assert marked == ["e wrong", "e wrong"]


def test_a_large_report_says_what_it_leaves_out(folder):
    rng = np.random.default_rng(0)
    count, classes = 3200, 60
    y, p = rng.integers(classes, size=count), rng.dirichlet(np.ones(classes), size=count)
    labels = [f"label {k}" for k in range(classes)]
    tx.evaluation.report_scores(folder / "large", y, p, labels=labels, texts=[f"text {i}" for i in range(count)])
    page = Page(folder / "large" / "report.html")
    assert "3000 of 3200 rows" in page.text and "100 most frequent confusions among 60 classes" in page.text
    assert len(page.rows["rows"]) == 3000 and len(page.source) < 2_000_000


# === In a browser ===


def dumped(browser, url):
    """The document of a page once its script has run."""
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


@pytest.mark.slow
def test_in_a_browser_cells_open_their_rows_and_tables_sort(browser, labelled, tmp_path):
    _, _, found, path = labelled
    acts = """<script>{
    const cell=[...document.querySelectorAll('button[data-open=cell]')].pop();cell.click();
    const head=document.querySelectorAll('table.sorts th button')[0];head.click();head.click()}
    </script>"""
    source = path.read_text(encoding="utf-8").replace("</body>", f"{acts}</body>")
    (tmp_path / "page.html").write_text(source, encoding="utf-8")
    seen = dumped(browser, (tmp_path / "page.html").as_uri())
    (tmp_path / "seen.html").write_text(seen, encoding="utf-8")
    page = Page(tmp_path / "seen.html")
    assert page.titles[0] == "Report" and "img" not in [tag for tag, _ in page.tags]
    confusion = np.array(found["classification"]["confusion"])
    true, given = np.argwhere(confusion)[-1]
    assert f"predicted as {found['classification']['labels'][given]}: {confusion[true, given]} rows" in page.text
    rows = [row for row in page.rows["rows"] if row["y"] == [true] and row["p"] == [given]]
    assert all(row["t"][0] in page.text for row in rows)
    labels = [page.text.index(name) for name in ("card", "loan")]
    assert labels == sorted(labels) and "ascending" in page.named("th", "aria-sort")
