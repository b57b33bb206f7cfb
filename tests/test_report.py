"""Reports of runs: scores, pictures, files for TensorBoard."""

import json
import pathlib
import sys

import keras
import numpy as np
import pytest
import tiny
from matplotlib import image
from matplotlib.backends.backend_agg import FigureCanvasAgg

import tfxfer as tx

# Private: the figures themselves, because a report contains only their pixels.
from tfxfer.evaluation import _plots, _report

PAIRS = (tiny.TEXTS, tiny.TEXTS[3:] + tiny.TEXTS[:3])
PNG = b"\x89PNG\r\n"


def probabilities(y, classes, rng, sharpness=2.0):
    logits = sharpness * rng.normal(size=(len(y), classes))
    logits[np.arange(len(y)), y] += 2
    values = np.exp(logits)
    return values / values.sum(axis=1, keepdims=True)


def strictly(path):
    """Reads strict JSON, without `NaN` and `Infinity`."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def pictures(folder):
    found = {path.stem: image.imread(path) for path in folder.glob("*.png")}
    for name, pixels in found.items():
        assert min(pixels.shape[:2]) > 150 and pixels.std() > 0.01, name
    return found


# === Calibration ===


@pytest.mark.parametrize("bins", [1, 7, 15])
@pytest.mark.parametrize("several", [False, True])
def test_calibration_error_is_the_mean_gap_of_the_bins(bins, several):
    rng = np.random.default_rng(bins)
    if several:
        y, p = rng.integers(2, size=(60, 4)), rng.random((60, 4))
        decisions = [(p[i, j], y[i, j]) for i in range(60) for j in range(4)]
    else:
        y = rng.integers(4, size=200)
        p = probabilities(y, 4, rng)
        decisions = [(max(p[i]), list(p[i]).index(max(p[i])) == y[i]) for i in range(200)]
    gaps, counts = [], []
    for k in range(bins):
        inside = [d for d in decisions if k / bins < d[0] <= (k + 1) / bins or (k == 0 and d[0] == 0)]
        gaps.append(abs(sum(c for c, _ in inside) - sum(r for _, r in inside)) / len(inside) if inside else 0.0)
        counts.append(len(inside))
    found = tx.evaluation.calibration_scores(y, p, bins=bins)
    assert [each["rows"] for each in found["bins"]] == counts and found["rows"] == len(decisions)
    assert found["ece"] == pytest.approx(np.dot(gaps, counts) / len(decisions))
    assert found["mce"] == pytest.approx(max(gaps))
    assert found["right"] == pytest.approx(np.mean([r for _, r in decisions]))
    assert found["confidence"] == pytest.approx(np.mean([c for c, _ in decisions]))
    assert all((each["right"] is None) == (each["rows"] == 0) for each in found["bins"])


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    y, p = [0] * 4, [[1.0, 0.0], [0.6, 0.4], [0.8, 0.2], [0.5, 0.5]]
    rows = [each["rows"] for each in tx.evaluation.calibration_scores(y, p, bins=10)["bins"]]
    assert rows == [0, 0, 0, 0, 1, 1, 0, 1, 0, 1]


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not():
    p = np.tile([1.0, 0.0], (5, 1))
    assert tx.evaluation.calibration_scores([0] * 5, p)["ece"] == 0
    assert (
        tx.evaluation.calibration_scores([1] * 5, p)["ece"] == tx.evaluation.calibration_scores([1] * 5, p)["mce"] == 1
    )


@pytest.mark.parametrize(
    ("y", "p", "kwargs"),
    [
        ([0], [[2.0, -1.0]], {}),
        ([0], [[np.nan, 0.5]], {}),
        ([0], [0.5], {}),
        ([0, 1], [[0.5, 0.5]], {}),
        ([], np.zeros((0, 2)), {}),
        ([0], [[0.5, 0.5]], {"bins": 0}),
    ],
)
def test_what_cannot_be_calibrated_is_an_error(y, p, kwargs):
    with pytest.raises(ValueError, match="Invalid value"):
        tx.evaluation.calibration_scores(y, p, **kwargs)


# === Reports of arrays ===

HISTORY = {
    "loss": [2.0, 1.0, np.float32(0.5)],
    "val_loss": [2.0, float("inf"), 1.5],
    "val_f1": [0.1, float("nan"), 0.3],
    "learning_rate": [1e-5],
}


def test_a_report_of_classes_holds_scores_calibration_and_pictures(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=90)
    p, labels = probabilities(y, 3, rng), ["yes | no", "$x_1$ or \n $y", "日本語 " + 9 * "very long "]
    found = tx.evaluation.report_scores(
        tmp_path / "a" / "b", y, p, labels=labels, history=HISTORY, scores={"search": {"mrr": np.float64(0.5)}}
    )
    assert found == strictly(tmp_path / "a" / "b" / "metrics.json")
    assert found["classification"] == tx.evaluation.classification_scores(y, p, labels)
    assert found["calibration"] == tx.evaluation.calibration_scores(y, p)
    assert found["history"]["val_loss"] == [2.0, None, 1.5] and found["history"]["loss"] == [2.0, 1.0, 0.5]
    assert found["search"] == {"mrr": 0.5}
    assert set(pictures(tmp_path / "a" / "b")) == {
        "curves",
        "confusion",
        "reliability",
        "coverage",
        "precision_recall",
    }
    page = (tmp_path / "a" / "b" / "README.md").read_text(encoding="utf-8")
    for shown in (
        "![curves](curves.png)",
        f"{found['calibration']['ece']:.4f}",
        "| search | mrr | 0.5000 |",
        "yes \\| no",
    ):
        assert shown in page, shown


def test_the_largest_confusions_are_listed_first(tmp_path):
    p = np.eye(3)[[0, 1, 1, 1, 2, 0, 0]]
    tx.evaluation.report_scores(tmp_path, [0, 0, 0, 1, 1, 2, 1], p, labels=["a", "b", "c"])
    rows = [line for line in (tmp_path / "README.md").read_text().splitlines() if line.count("|") == 4]
    assert rows[-4:] == ["| a | b | 2 |", "| b | a | 1 |", "| b | c | 1 |", "| c | a | 1 |"]


@pytest.mark.parametrize("classes", [77, 130])
def test_many_classes_some_of_them_empty_make_a_picture(classes, tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(classes // 2, size=300)
    labels = [f"{'exchange rate ' * (k % 5)}intent {k}" for k in range(classes)]
    tx.evaluation.report_scores(tmp_path, y, probabilities(y, classes, rng), labels=labels)
    assert min(pictures(tmp_path)["confusion"].shape[:2]) > 900


def test_the_classes_with_the_most_errors_are_drawn_where_there_are_too_many():
    matrix = np.diag(np.arange(1, 121))
    matrix[7, 110] = 5
    drawing = _plots.confusion(matrix, [f"intent {k}" for k in range(120)])
    shown = [text.get_text() for text in drawing.axes[0].get_yticklabels()]
    assert len(shown) == 50 and {"intent 7", "intent 110"} <= set(shown)
    assert "50 of 120" in drawing.axes[0].get_title()


def test_labels_that_begin_and_end_alike_are_cut_in_the_middle():
    assert _plots.short("a\tb\n c") == "a b c"
    cut = _plots.short("exchange_rate_of_the_card_that_is_pending")
    assert len(cut) == 28 and cut.startswith("exchange_rate_") and cut.endswith("is_pending")


@pytest.mark.parametrize("kind", ["good", "overconfident", "underconfident", "sure", "one bin", "several"])
def test_the_legends_of_a_reliability_diagram_cover_nothing(kind):
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=400)
    p = probabilities(y, 4, rng, sharpness={"overconfident": 5.0, "underconfident": 0.1}.get(kind, 1.0))
    if kind == "sure":
        p = np.eye(4)[y]
    elif kind == "several":
        y, p = rng.integers(2, size=(100, 4)), rng.random((100, 4))
    drawing = _plots.reliability(tx.evaluation.calibration_scores(y, p, bins=1 if kind == "one bin" else 15))
    canvas = FigureCanvasAgg(drawing)
    canvas.draw()
    boxes = {"legend": [], "other": []}
    for axes in drawing.axes:
        boxes["legend"].append(axes.get_legend().get_window_extent())
        texts = (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels())
        shown = [text for text in texts if text.get_visible() and text.get_text()]
        # Lines as well, although the box of the axes contains them.
        parts = [*axes.patches, *axes.lines, axes, *shown]
        boxes["other"] += [part.get_window_extent(canvas.get_renderer()) for part in parts]
    assert len(boxes["legend"]) == 2 and len(boxes["other"]) > 20
    assert not [box for box in boxes["legend"] if box.count_overlaps(boxes["other"])]
    assert not boxes["legend"][0].overlaps(boxes["legend"][1])


def test_several_labels_a_text_show_each_label(tmp_path):
    rng = np.random.default_rng(0)
    y, p = rng.integers(2, size=(50, 6)), rng.random((50, 6))
    found = tx.evaluation.report_scores(tmp_path, y, p, labels=[f"l{k}" for k in range(6)])
    assert found["classification"]["micro_f1"] > 0 and found["calibration"]["rows"] == 300
    assert set(pictures(tmp_path)) == {"per_class", "reliability", "coverage", "precision_recall"}


@pytest.mark.parametrize("kind", ["binary", "graded", "steps"])
@pytest.mark.parametrize("constant", [False, True])
def test_pairs_show_their_similarities_by_group(kind, constant, tmp_path):
    rng = np.random.default_rng(0)
    y = {"binary": rng.integers(2, size=40), "graded": rng.random(40) * 5, "steps": rng.integers(4, size=40)}[kind]
    values = np.full(40, 0.7) if constant else y / 5 + rng.normal(0, 0.1, 40)
    found = tx.evaluation.report_scores(tmp_path, y, values)
    if kind == "binary":
        expected = tx.evaluation.pair_classification_scores(y, values)
        assert {key: found["pair_classification"][key] for key in expected} == expected
    else:
        assert found["similarity"]["rows"] == 40
        assert constant == (found["similarity"]["spearman"] == 0)
    assert set(pictures(tmp_path)) == {"similarity"}


def test_bands_cover_every_row_once():
    rng = np.random.default_rng(0)
    for y in (
        rng.random(99) * 5,
        rng.random(99) * 1e-4 - 3,
        np.arange(7.0),
        np.array([1.0, 4.5]),
        rng.integers(6, size=9),
    ):
        groups = _report._bands(y)
        assert np.sum(list(groups.values()), axis=0).tolist() == [1] * len(y) and len(groups) <= 6
    assert list(_report._bands(np.linspace(0, 5, 100)))[:2] == ["score 0 to 1", "score 1 to 2"]


@pytest.mark.parametrize(
    ("arguments", "kwargs", "said"),
    [
        ((), {}, "something to report"),
        ((), {"history": {"loss": []}}, "something to report"),
        ((), {"history": {"loss": [[1.0]]}}, "a list of numbers for 'loss'"),
        ((), {"history": [1.0]}, "the result of `fit`"),
        (([0],), {}, "or neither"),
        (([0, 1], [0.1, np.nan]), {}, "one finite number"),
        (([0, 1], [[0.1, 0.2], [0.3, 0.4]]), {}, "one finite number"),
        (([0, 0], [0.1, 0.2]), {}, "two of them different"),
        (([0, 1], [[0.1, 0.9], [0.5, 0.5]]), {"labels": ["a"]}, "`probabilities`"),
        ((), {"scores": {"history": {}}}, "other names"),
    ],
)
def test_what_cannot_be_reported_is_an_error(arguments, kwargs, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        tx.evaluation.report_scores(tmp_path / "a", *arguments, **kwargs)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("package", "kwargs"), [("matplotlib", {}), ("tensorboard", {"tensorboard": True})])
def test_a_missing_package_is_named_before_anything_is_computed(package, kwargs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        tx.evaluation.report(tmp_path / "a", object(), ["a"], [0], **kwargs)
    assert not (tmp_path / "a").exists()


def test_pictures_need_no_window_and_no_global_state():
    source = pathlib.Path(_plots.__file__).read_text()
    assert "import matplotlib" not in source and "pyplot import" not in source


# === Reports of models ===


def test_a_classifier_is_reported_as_it_is_evaluated(tmp_path):
    model = tiny.classifier(tmp_path)
    rows = tx.data.labelled({"text": tiny.TEXTS, "label": tiny.LABELS}, "text", "label", labels=model.labels)
    found = tx.evaluation.report(tmp_path / "a", model, rows)
    assert found["classification"] == tx.evaluation.classification(model, tiny.TEXTS, tiny.LABELS)
    assert tx.evaluation.report(tmp_path / "b", model, tiny.TEXTS, tiny.LABELS) == found


def test_an_embedder_is_reported_as_it_is_evaluated_and_shown_in_tensorboard(tmp_path):
    siamese = tx.models.Siamese(tiny.embedder(tmp_path))
    rows = tx.data.pairs({"a": PAIRS[0], "b": PAIRS[1], "s": np.arange(8.0)}, ("a", "b"), target="s")
    found = tx.evaluation.report(tmp_path / "a", siamese, rows, history=HISTORY, similarity="dot", tensorboard=True)
    assert found["similarity"] == tx.evaluation.similarity(siamese, *(PAIRS, np.arange(8.0)), similarity="dot")
    scalars, images = events(tmp_path / "a" / "tensorboard")
    assert set(scalars) == set(HISTORY) and set(images) == {"curves", "similarity"}
    assert scalars["loss"] == [(0, 2.0), (1, 1.0), (2, 0.5)]
    assert images["curves"] == (tmp_path / "a" / "curves.png").read_bytes()
    [(name, vectors, shown)] = points(tmp_path / "a" / "tensorboard")
    assert name == "embeddings" and len(vectors) == len(shown) == 8
    binary = tx.evaluation.report(tmp_path / "b", siamese.embedder, PAIRS, [0, 1] * 4)
    expected = tx.evaluation.pair_classification(siamese, PAIRS, [0, 1] * 4)
    assert binary["pair_classification"]["f1"] == expected["f1"]


def test_a_regressor_is_reported_on_texts_and_on_pairs(tmp_path):
    model = tx.models.TextRegressor(tiny.backbone(), tiny.preprocessor(tmp_path))
    y = np.arange(8.0)
    pairs = tx.evaluation.report(
        tmp_path / "a", model, tx.data.pairs({"a": PAIRS[0], "b": PAIRS[1], "s": y}, ("a", "b"), target="s")
    )
    assert pairs["similarity"]["spearman"] == tx.evaluation.similarity(model, PAIRS, y)["spearman"]
    single = tx.evaluation.report(tmp_path / "b", model, tiny.TEXTS, y)
    expected = np.corrcoef(model.predict(tiny.TEXTS, verbose=0)[:, 0], y)[0, 1]
    assert single["similarity"]["pearson"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((None, tiny.TEXTS), "`model`"),
        ((tiny, tiny.TEXTS, [0]), "`model`"),
        ((tiny, None), "`texts`"),
    ],
)
def test_a_model_without_texts_or_texts_without_a_model_are_errors(arguments, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        tx.evaluation.report(tmp_path, *arguments)


# === TensorBoard ===


def events(folder):
    """What TensorBoard reads from event files: scalars as (step, value), images as bytes."""
    from tensorboard.backend.event_processing import event_accumulator

    found = event_accumulator.EventAccumulator(str(folder)).Reload()
    tags = found.Tags()
    scalars = {tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in tags["scalars"]}
    return scalars, {tag: found.Images(tag)[0].encoded_image_string for tag in tags["images"]}


def points(folder):
    """What TensorBoard's projector serves: names, vectors, and lines of metadata without the header."""
    import werkzeug.test
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.projector import projector_plugin

    plugin = projector_plugin.ProjectorPlugin(base_plugin.TBContext(logdir=str(folder)))
    apps = plugin.get_plugin_apps()

    def get(route, **query):
        answer = werkzeug.test.Client(apps[route]).get("/", query_string={"run": ".", **query})
        assert answer.status_code == 200, answer.data
        return answer

    found = []
    for each in get("/info").json["embeddings"]:
        name = each["tensorName"]
        vectors = np.frombuffer(get("/tensor", name=name).data, "float32").reshape(each["tensorShape"])
        # The projector's page splits them in the same way.
        lines = [line for line in get("/metadata", name=name).data.decode().split("\n") if line]
        rows = [line.split("\t") for line in lines]
        found.append((name, vectors, rows[1:] if len(rows[0]) > 1 else rows))
    return found


def test_the_projector_gets_vectors_and_what_to_show_of_them(tmp_path):
    embedder = tiny.embedder(tmp_path)
    texts = ["my\tcard\r\nwas  lost", "", "\u2028", "日本語 |", "x" * 400, "a\x00b\x0bc"]
    folder = tmp_path / "logs"
    path = tx.evaluation.projector(folder, embedder, texts, {"topic": ["a", "", 3, None, 1.5, "b\tc"]})
    assert path == folder / "projector_config.pbtxt"
    [(name, vectors, shown)] = points(folder)
    np.testing.assert_allclose(vectors, embedder.encode(texts), atol=1e-5)
    assert name == "embeddings" and [len(row) for row in shown] == [2] * 6
    assert [row[1] for row in shown] == ["a", "(empty)", "3", "None", "1.5", "b c"]
    assert [row[0] for row in shown] == ["my card was lost", "(empty)", "(empty)", "日本語 |", "x" * 300 + "…", "a b c"]


def test_points_of_several_names_stand_side_by_side(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(3, 4))
    (tmp_path / "projector_config.pbtxt").write_text('model_checkpoint_path: ""')
    for _ in range(2):
        tx.evaluation.projector(tmp_path, vectors, ["a", "b", "c"], name="first")
        tx.evaluation.projector(tmp_path, -vectors, ["d", "", "f"], ["x", "y", "z"], name="second-1.0")
    one, other = points(tmp_path)
    np.testing.assert_allclose(one[1], vectors, rtol=1e-5)
    np.testing.assert_allclose(other[1], -vectors, rtol=1e-5)
    assert (one[0], one[2]) == ("first", [["a"], ["b"], ["c"]])
    assert (other[0], other[2]) == ("second-1.0", [["d", "x"], ["(empty)", "y"], ["f", "z"]])


@pytest.mark.parametrize(
    ("arguments", "kwargs"),
    [
        ((np.eye(2), ["a"]), {}),
        ((np.full((1, 2), np.nan), ["a"]), {}),
        ((np.eye(2), ["a", "b"], ["x"]), {}),
        ((np.eye(2), ["a", "b"], {"text": ["x", "y"]}), {}),
        ((np.eye(2), "ab"), {}),
        ((np.eye(2), ["a", "b"]), {"name": "a/b"}),
        ((np.eye(2), ["a", "b"]), {"name": "..x"}),
        ((np.eye(2), ["a", "b"]), {"name": "a:0"}),
        ((object(), ["a"]), {}),
    ],
)
def test_points_that_do_not_fit_are_errors(arguments, kwargs, tmp_path):
    with pytest.raises(ValueError, match="Invalid value"):
        tx.evaluation.projector(tmp_path / "a", *arguments, **kwargs)
    assert not (tmp_path / "a").exists()


def test_points_move_as_training_goes_on_beside_the_curves(tmp_path):
    model = tx.models.Siamese(tiny.embedder(tmp_path))
    model.compile(keras.optimizers.Adam(0.1), loss=tx.losses.CoSENTLoss(), run_eagerly=True)
    logs = tmp_path / "logs"
    callbacks = [
        tx.callbacks.Projector(logs, tiny.TEXTS, tiny.LABELS, every=2),
        keras.callbacks.TensorBoard(logs, write_graph=False),
    ]
    before = model.embedder.encode(tiny.TEXTS)
    model.fit(PAIRS, np.arange(8.0), batch_size=8, epochs=3, seed=0, verbose=0, callbacks=callbacks)
    found = {name: vectors for name, vectors, _ in points(logs)}
    assert list(found) == ["start", "epoch_002", "epoch_003"]
    np.testing.assert_allclose(found["start"], before, atol=1e-5)
    np.testing.assert_allclose(found["epoch_003"], model.embedder.encode(tiny.TEXTS), atol=1e-5)
    assert np.abs(found["epoch_002"] - found["start"]).max() > 1e-2
    assert (logs / "train").is_dir()


def test_a_projector_that_cannot_work_is_an_error_at_once(tmp_path):
    for make in (
        lambda: tx.callbacks.Projector("", ["a"]),
        lambda: tx.callbacks.Projector("a", []),
        lambda: tx.callbacks.Projector("a", ["a"], ["x", "y"]),
        lambda: tx.callbacks.Projector("a", ["a"], every=0),
    ):
        with pytest.raises(ValueError, match="Invalid value"):
            make()
    with pytest.raises(ValueError, match="model=embedder"):
        tx.callbacks.Projector(tmp_path, ["a"]).set_model(tiny.classifier(tmp_path))
