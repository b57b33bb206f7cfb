"""The local page: its answers, the requests it rejects, and how it works in a browser."""

import contextlib
import http.client
import json
import re
import subprocess
import threading
import urllib.parse

import keras
import pytest
import tiny

import tfxfer as tx
import tfxfer._try as command  # private: it implements the command `try`

# The tests query its server as a browser does.
from tfxfer._try import _answers, _server

EVIL = "my card </script><img src=x onerror=document.title='owned'> \u202e\" loan"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("try")


@pytest.fixture(scope="module")
def classifier(folder):
    keras.utils.set_random_seed(0)
    return tiny.classifier(folder, labels=["card", "loan", EVIL])


@contextlib.contextmanager
def served(asked, **kwargs):
    with _server.Server(asked, **kwargs) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, body, method="POST", path="/answer", **headers):
    """Sends a request; returns the status, headers and content of the response."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    headers = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request(method, path, body, {k: v for k, v in headers.items() if v is not None})
    response = connection.getresponse()
    content = response.read().decode()
    connection.close()
    return response.status, response.headers, content


def answer(server, *texts):
    status, _, content = ask(server, json.dumps({"texts": texts}))
    assert status == 200, content
    return json.loads(content)


ECHO = _answers.Asked({"title": "an echo", "about": "", "texts": ["Text", "Other"]}, lambda texts: {"note": texts[0]})


# === Rejected requests ===


def test_only_the_page_itself_is_answered():
    with served(ECHO) as server:
        port = server.server_address[1]
        body = json.dumps({"texts": ["x"]})
        assert ask(server, body)[0] == 200
        for host in (
            "evil.example",
            f"evil.example:{port}",
            f"127.0.0.1.evil.example:{port}",
            f"localhost:{port + 1}",
            "",
        ):
            assert ask(server, body, Host=host)[0] == 403, host
            assert ask(server, None, "GET", "/", Host=host)[0] == 403, host
        for host in (f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}"):
            assert ask(server, body, Host=host)[0] == 200, host
        for origin in ("http://evil.example", "null", f"https://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"):
            assert ask(server, body, Origin=origin)[0] == 403, origin
        status, headers, _ = ask(server, body, Origin=f"http://127.0.0.1:{port}")
        assert status == 200 and not [name for name in headers if name.lower().startswith("access-control")]
        assert headers["X-Frame-Options"] == "DENY" and headers["Cache-Control"] == "no-store"
        assert ask(server, body, "OPTIONS", Origin="http://evil.example")[0] == 501


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ("{", {}, 400),
        ("[]", {}, 400),
        ('{"texts": []}', {}, 400),
        ('{"texts": ["a", "b", "c"]}', {}, 400),
        ('{"texts": [1]}', {}, 400),
        ('{"texts": "abc"}', {}, 400),
        ("[" * 100_000, {}, 400),
        ('{"texts": ["a"]}', {"Content_Type": "text/plain"}, 415),
        ('{"texts": ["a"]}', {"Content_Type": None}, 415),
        ('{"texts": ["a"]}', {"Content_Length": "x"}, 411),
        ("", {"Content_Length": str(1 << 30)}, 413),
        ("", {"Content_Length": "-1"}, 413),
    ],
)
def test_what_is_no_question_is_an_error_and_the_next_one_is_answered(body, headers, status):
    with served(ECHO) as server:
        assert ask(server, body, **headers)[0] == status
        assert answer(server, "x") == {"note": "x"}
        assert ask(server, '{"texts": ["a"]}', path="/other")[0] == 404
        assert ask(server, None, "GET", "/other")[0] == 404


def test_a_text_at_which_the_model_fails_is_told_of():
    def fail(texts):
        raise ValueError("no such text")

    with served(_answers.Asked(ECHO.form, fail)) as server:
        status, _, content = ask(server, '{"texts": ["a"]}')
        assert status == 500 and json.loads(content) == {"error": "no such text"}


def test_others_reach_it_only_where_that_was_asked_for():
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(ValueError, match="`host`"):
            _server.Server(ECHO, host)
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        _server.check_host(host, ())
    with served(ECHO, host="0.0.0.0", allowed=["Box.Example"]) as server:
        port = server.server_address[1]
        assert ask(server, '{"texts": ["a"]}', Host=f"box.example:{port}")[0] == 200
        assert ask(server, '{"texts": ["a"]}', Host=f"evil.example:{port}")[0] == 403


def test_the_page_loads_nothing_and_runs_its_own_script_alone():
    with served(_answers.Asked({**ECHO.form, "title": EVIL}, ECHO.answer)) as server:
        status, headers, page = ask(server, None, "GET", "/")
    policy = headers["Content-Security-Policy"]
    assert status == 200 and "default-src 'none'" in policy and "unsafe-inline" not in policy.split("style-src")[0]
    assert page.count("<script>") == 1 and "<img" not in page and "&lt;img" in page
    assert "http" not in page and not re.search(r"(src|href)=", page.replace("&lt;img src=", ""))
    assert page.count("<textarea") == 2


# === Answers ===


@pytest.mark.slow
def test_a_classifier_gives_labels_and_the_words_that_speak_for_them(classifier, folder):
    classifier.save(folder / "model.keras")
    asked = _answers.load(str(folder / "model.keras"))
    with served(asked) as server:
        found = answer(server, EVIL)
    said = classifier.classify([EVIL])
    assert found["labels"][0]["label"] == said.labels[0]
    assert [each["probability"] for each in found["labels"]] == pytest.approx(sorted(said.probabilities[0])[::-1])
    why = classifier.explain([EVIL])[0]
    pieces = found["why"]["texts"][0]
    assert "".join(piece["text"] for piece in pieces) == EVIL
    assert [p["value"] for p in pieces if p["value"] is not None] == pytest.approx(
        [w.value for w in why.words], abs=1e-5
    )
    assert max(abs(piece["share"] or 0) for piece in pieces) == 1.0


@pytest.mark.slow
def test_an_embedder_compares_and_searches(folder):
    model = tiny.embedder(folder)
    (folder / "lines.txt").write_text("\n".join([*tiny.TEXTS, ""]), encoding="utf-8")
    asked = _answers.of_model(model, "texts", index=folder / "lines.txt")
    assert "7 texts" in asked.form["about"]
    found = asked.answer(["Where is my card?", "My loan"])
    vectors = model.encode(["Where is my card?", "My loan"])
    assert found["numbers"][0]["value"] == pytest.approx(model.similarity(vectors[0], vectors[1])[0, 0], abs=1e-5)
    assert [len(part) > 1 for part in found["why"]["texts"]] == [True, True]
    assert found["hits"][0]["text"] == "Where is my card?" and len(found["hits"]) == 7
    alone = _answers.of_model(model, "texts")
    assert "another text" in alone.answer(["a card"])["note"]


@pytest.mark.slow
def test_taggers_regressors_pairs_and_presets_answer(folder, classifier):
    tagger = tiny.tagger(folder)
    tagger.save_to_preset(folder / "tagger")
    found = _answers.load(str(folder / "tagger")).answer([tiny.TEXTS[0]])["entities"]
    assert "".join(piece["text"] for piece in found) == tiny.TEXTS[0]
    spans = [(piece["text"], piece["label"]) for piece in found if piece["label"]]
    assert spans == [(each.text, each.label) for each in tagger.extract([tiny.TEXTS[0]])[0]]
    pairs = _answers.of_model(classifier, "pairs", pairs=True)
    assert pairs.form["texts"] == ["First text", "Second text"] and "error" in pairs.answer(["one"])
    found = pairs.answer(["my card", "my loan"])
    assert found["labels"][0]["probability"] == pytest.approx(
        classifier.classify((["my card"], ["my loan"])).probabilities.max(), abs=1e-5
    )
    assert len(found["why"]["texts"]) == 2
    regressor = tx.models.TextRegressor(tiny.backbone(), tiny.preprocessor(folder), num_outputs=2)
    found = _answers.of_model(regressor, "numbers").answer(["my card"])
    assert [each["value"] for each in found["numbers"]] == pytest.approx(regressor.predict(["my card"], verbose=0)[0])
    with pytest.raises(ValueError, match="`index`"):
        _answers.of_model(classifier, "x", index="lines.txt")
    with pytest.raises(ValueError, match="`model`"):
        _answers.of_model(tiny.masked(folder), "masked")


@pytest.mark.slow
def test_exports_answer_as_their_models_do(folder, classifier):
    tx.export.saved_model(classifier, folder / "plain")
    tx.export.saved_model(classifier, folder / "why", explain=True)
    plain, why = (_answers.load(str(folder / name)) for name in ("plain", "why"))
    model = _answers.of_model(classifier, "model").answer([EVIL])
    found = why.answer([EVIL])
    assert "why" not in plain.answer([EVIL]) and plain.form["title"] == "plain, version 1"
    for ours, theirs in zip(found["labels"], model["labels"], strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-5)
    values = [
        {piece["text"]: piece["value"] for piece in each["why"]["texts"][0] if piece["value"]}
        for each in (found, model)
    ]
    assert values[0].keys() == values[1].keys()
    assert list(values[0].values()) == pytest.approx(list(values[1].values()), abs=1e-5)
    embedder = tiny.embedder(folder)
    tx.export.saved_model(embedder, folder / "search", index={"texts": tiny.TEXTS[:5]}, max_k=4)
    found = _answers.load(str(folder / "search")).answer(["Where is my card?", "my loan"])
    assert found["hits"][0]["text"] == "Where is my card?" and "similarity" in found["numbers"][0]["name"]


# === From the command line, in a browser ===


def test_what_is_no_model_is_an_error_that_says_what_to_do(tmp_path):
    for name in ("all_minilm_l6_v2", str(tmp_path / "missing")):
        with pytest.raises(ValueError, match="--task TextEmbedder"):
            _answers.load(name)
    with pytest.raises(ValueError, match="`task`"):
        _answers.load("all_minilm_l6_v2", task="few_shot")
    with pytest.raises(ValueError, match="`folder`"):
        _answers.load(str(tmp_path))


def test_help_teaches_and_a_host_is_checked_before_anything_is_loaded(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "--allow-remote" in shown and "tfxfer try intents.keras" in shown
    with pytest.raises(ValueError, match="allow-remote"):
        command.main(["no_such_model", "--host", "0.0.0.0"])


@pytest.mark.slow
def test_in_a_browser_a_text_is_answered_and_stays_text(browser, classifier):
    with served(_answers.of_model(classifier, "model")) as server:
        server.asked.answer([EVIL])  # traces before the browser has to wait
        done = subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--virtual-time-budget=20000",
                "--dump-dom",
                f"{server.url}#{urllib.parse.quote(EVIL)}",
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    seen = done.stdout.partition('id="answer"')[2].partition("<script>")[0]
    assert "<title>model</title>" in done.stdout and "<img" not in seen
    assert "&lt;/script&gt;&lt;img" in seen and 'class="bar"' in seen and 'class="w"' in seen
    label = classifier.classify([EVIL]).labels[0]
    assert (label if label != EVIL else "my card &lt;") in seen
