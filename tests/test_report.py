"""The page of a run: true to what the run holds, whole without a network, and safe to open."""

import base64
import dataclasses
import html
import importlib.util
import io
import itertools
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import soundfile

from deepspectrumlite.comparison import compare_systems, read_system
from deepspectrumlite.config import ReportOptions
from deepspectrumlite.errors import DeepSpectrumLiteError, ManifestError, ModelError
from deepspectrumlite.mistakes import audio_excerpt, worst_outputs
from deepspectrumlite.model_card import AUTHOR_PARTS, escape_markdown, write_card
from deepspectrumlite.report import write_report
from deepspectrumlite.report_facts import data_table, group_table, limits, read_facts
from deepspectrumlite.report_plots import Dot, Line, audio_uri, dot_chart, line_chart, nice_ticks
from deepspectrumlite.runs import train_run

EVIL = {"low": "<b>low</b>", "high": "a|b \"q\" & 'c'", "noise": "$\\alpha$ `x` _y_"}
KINDS = {
    "softmax": EVIL,
    "sigmoid": {"low": "a;<i>b</i>", "high": "<i>b</i>", "noise": ""},
    "linear": {"low": "1.5", "high": "3", "noise": "2"},
    "ordinal": {"low": "1", "high": "3", "noise": "2"},
}
BROWSER_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"),
)
PLAIN = ReportOptions(explain=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_recipe, small_settings, tone):
    """A barely trained run of each output, with names that want to break the page, six groups."""
    folder = tmp_path_factory.mktemp("report")
    rows = []
    for i in range(36):
        split = ("train", "train", "train", "devel", "test", "test")[i // 6]
        label = ("low", "high", "noise")[i % 3]
        name = f"it's <i>{i:02} & $x.wav"
        # Some of two segments, one longer than what goes into the page.
        seconds = 33.0 if i == 35 else 0.5 + 0.5 * (i % 2)
        soundfile.write(folder / name, tone(label, i, seconds), 8000)
        rows.append({"path": name, "label": label, "split": split, "group": f"{split}<{i % 6}>"})
    made = {}
    for output, labels in KINDS.items():
        number = 0.1 if output == "linear" else 0
        table = pd.DataFrame(rows)
        table["label"] = [
            f"{float(labels[x]) + number * i}" if number else labels[x]
            for i, x in enumerate(table["label"])
        ]
        table.to_csv(folder / f"{output}.csv", index=False)
        recipe = make_recipe(f"model.output={output}", *small_settings)
        train_run(recipe, folder / f"{output}.csv", folder / output)
        made[output] = folder / output
    return made


@pytest.fixture(scope="module")
def pages(runs):
    """The page of each of them, with everything on it."""
    read_facts(runs["softmax"])  # evaluates it
    system = read_system(runs["softmax"])
    named = [dataclasses.replace(system, title=title) for title in ("<u>Network</u>", "Again")]
    found = compare_systems(named, n_resamples=100)
    (runs["softmax"].parent / "comparison.json").write_text(json.dumps(found))
    worst = {"softmax": 8}
    return {
        output: write_report(run, options=ReportOptions(worst=worst.get(output, 2)))[0]
        for output, run in runs.items()
    }


class Tables(HTMLParser):
    """All tables of a page, by caption: lists of rows of cells."""

    def __init__(self, text):
        super().__init__()
        self.found, self.caption, self.rows, self.into = {}, "", [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.caption, self.rows = "", []
        elif tag == "caption":
            self.into = "caption"
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.into = "cell"
        elif tag == "small":
            self.into = None

    def handle_endtag(self, tag):
        if tag in ("caption", "td", "th"):
            self.into = None
        elif tag == "table":
            self.found[self.caption] = self.rows

    def handle_data(self, text):
        if self.into == "caption":
            self.caption += text
        elif self.into == "cell":
            self.rows[-1][-1] += text


def table_of(page, start):
    """The rows of the table whose caption begins so."""
    found = Tables(page.read_text(encoding="utf-8")).found
    return next(rows for caption, rows in found.items() if caption.startswith(start))


@pytest.fixture(scope="module")
def browser():
    """A Chromium that tells of every error."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    path = path or shutil.which("google-chrome")
    if path is None:
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=path, args=BROWSER_ARGUMENTS) as opened,
    ):
        yield opened


def opened(browser, page, **settings):
    """The page in a window of its own, and the list of what went wrong there."""
    window, problems = browser.new_page(**settings), []
    window.on("console", lambda m: problems.append(f"console {m.type}: {m.text}"))
    window.on("pageerror", lambda error: problems.append(f"error: {error}"))
    own = page.absolute().as_uri()

    def note(request):
        if request.url != own and not request.url.startswith("data:"):
            problems.append(f"request: {request.url}")

    window.on("request", note)
    window.goto(own)
    return window, problems


@pytest.mark.parametrize("output", KINDS)
@pytest.mark.parametrize(
    ("scheme", "media", "width"),
    [("light", "screen", 1280), ("dark", "screen", 360), ("light", "print", 794)],
)
def test_opens_without_a_complaint(browser, pages, output, scheme, media, width):
    viewport = {"width": width, "height": 800}
    window, problems = opened(browser, pages[output], viewport=viewport, color_scheme=scheme)
    window.emulate_media(media=media, color_scheme=scheme)
    window.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert problems == []
    assert window.evaluate("document.documentElement.scrollWidth") <= width
    pictures = "[...document.images].map(i => [i.complete && i.naturalWidth, i.alt.length])"
    found = window.evaluate(pictures)
    assert all(shown > 0 and words > 20 for shown, words in found), found
    cards = window.evaluate(
        "[...document.querySelectorAll('.cards li')].map(c => !!c.querySelector('img'))"
    )
    assert all(cards)
    assert len(found) > len(cards) >= 1  # a picture for each, and of the means
    drawn = window.evaluate("[...document.querySelectorAll('svg')].map(s => s.ariaLabel)")
    assert len(drawn) >= 4
    assert all(re.search(r"\d", words) for words in drawn), drawn
    levels = window.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[:2] == [1, 2]
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    window.close()


def test_contents_lead_somewhere(browser, pages):
    window, _ = opened(browser, pages["softmax"])
    found = window.evaluate(
        "[...document.querySelectorAll('nav a')].map(a => !!document.querySelector(a.hash))"
    )
    assert len(found) == 8
    assert all(found)
    window.close()


def test_text_is_dark_on_light_and_light_on_dark(browser, runs, tmp_path):
    """At least 4.5 to 1 (WCAG 2.2, 1.4.3) for text, links, captions, and the matrix."""
    run = copy_of(runs["softmax"], tmp_path)
    path = run / "test" / "scores.json"
    found = json.loads(path.read_text())
    # Where text in the cells turns from black to white.
    found["files"]["confusion"] = [[77, 23, 0], [24, 76, 0], [35, 0, 65]]
    path.write_text(json.dumps(found))
    page, _ = write_report(run, tmp_path / "page.html", PLAIN)
    for scheme in ("light", "dark"):
        window, _ = opened(browser, page, color_scheme=scheme)
        contrast = window.evaluate(CONTRAST)
        assert len(contrast) > 50
        assert min(ratio for ratio, _ in contrast) >= 4.5, sorted(contrast)[:5]
        window.close()


# Of every text, its colour against the backgrounds below it, blended.
CONTRAST = """() => {
  const parse = color => [...color.match(/[\\d.]+/g).map(Number), 1].slice(0, 4);
  const light = color => {
    const linear = color.slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat([1]);
  const behind = e => {
    const own = parse(getComputedStyle(e).backgroundColor);
    return own[3] === 1 || !e.parentElement ? own : over(own, behind(e.parentElement));
  };
  const texts = 'p, a, th, td, small, dt, dd, h1, h2, h3, caption span, li, summary';
  return [...document.querySelectorAll(texts)]
    .filter(e => e.textContent.trim() && e.offsetParent !== null)
    .map(e => {
      const pair = [light(parse(getComputedStyle(e).color)), light(behind(e))];
      const [low, high] = [Math.min(...pair), Math.max(...pair)];
      return [(high + 0.05) / (low + 0.05), e.tagName + e.textContent.slice(0, 30)];
    });
}"""
# Loads every recording; gives their durations in seconds.
DURATIONS = """() => Promise.all([...document.querySelectorAll('audio')].map(audio =>
  new Promise((done, failed) => {
    audio.onloadeddata = () => done(audio.duration);
    audio.onerror = () => failed(audio.error.message);
    audio.preload = 'auto';
    audio.load();
  })))"""


def test_recordings_can_be_heard(browser, pages):
    window, problems = opened(browser, pages["softmax"])
    durations = window.evaluate(DURATIONS)
    assert problems == []
    assert len(durations) >= 1
    assert all(0.4 < seconds <= 30.01 for seconds in durations)
    window.close()


@pytest.mark.parametrize("output", KINDS)
def test_needs_nothing_else_and_escapes_everything(pages, output):
    text = pages[output].read_text(encoding="utf-8")
    targets = re.findall(r"""(?:src|href|srcset|action|data|poster)=["']?([^"'\s>]{0,12})""", text)
    assert targets
    assert all(target.startswith(("data:", "#")) for target in targets)
    assert "<script" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    # No name became a tag; none of the tags that the names hold is used by the page.
    assert not re.search(r"<(b|i|u)>", text)
    assert "&lt;i&gt;" in text
    assert str(pages[output].parent.parent) not in text  # no folder of this machine


def test_numbers_are_those_of_the_run(runs, pages):
    run, page = runs["softmax"], pages["softmax"]
    scores = json.loads((run / "test" / "scores.json").read_text())
    main = scores["files"]["by_group"]["uar"]
    text = page.read_text(encoding="utf-8")
    assert f"<strong>{main['value']:.3f}</strong>" in text
    assert f"{main['low']:.3f} to {main['high']:.3f}" in text
    assert "95 % interval over 6 groups" in text
    header, *rows = table_of(page, "Confusion matrix")
    assert header[1:] == sorted(EVIL.values())
    assert [[int(cell) for cell in row[1:]] for row in rows] == scores["files"]["confusion"]
    for name, *cells in table_of(page, "Scores of each label")[1:]:
        recall = scores["files"]["by_group"]["recall"][name]["value"]
        assert cells[1].startswith(f"{recall:.3f}")


def test_data_table_counts_the_manifest(runs, pages):
    manifest = pd.read_csv(runs["softmax"] / "manifest.csv")
    rows = table_of(pages["softmax"], "Recordings by split;")
    for split, part in manifest.groupby("split"):
        seconds = part["duration"]
        expected = [split, "3", str(len(part)), "6", f"{seconds.sum() / 60:.2f}"]
        assert [*expected, f"{seconds.mean():.2f}", f"{seconds.std():.2f}"] in rows
    assert rows[-1][:4] == ["total", "", "36", "18"]
    by_label = table_of(pages["softmax"], "Recordings by split and")
    assert ["<b>low</b>", "test", "4", "2"] in [row[:4] for row in by_label]


def test_groups_are_scored_one_by_one(runs):
    facts = read_facts(runs["softmax"])
    found = pd.read_csv(runs["softmax"] / "test" / "predictions.csv")
    rows = group_table(facts).rows
    assert [float(row[2]) for row in rows] == sorted(float(row[2]) for row in rows)
    for name, n, accuracy, recall in rows:
        part = found[found["group"] == name]
        right = part["predicted"] == part["label"]
        assert (int(n), float(accuracy)) == (len(part), pytest.approx(right.mean(), abs=5e-4))
        by_class = right.groupby(part["label"]).mean().mean()
        assert float(recall) == pytest.approx(by_class, abs=5e-4)


def test_limits_are_told(runs):
    few = "Over so few groups, the interval of the CCC is likely too narrow."
    assert few in limits(read_facts(runs["linear"]))
    facts = read_facts(runs["softmax"])
    assert limits(facts) == []
    scores = facts.scores | {"seen_in_training": 3, "skipped": 2, "files_without_a_segment": 1}
    told = " ".join(limits(dataclasses.replace(facts, scores=scores, plan={"skipped": 7})))
    assert "3 of these recordings were trained on" in told
    assert "2 recordings of this split were unreadable" in told
    assert "1 recordings of this split were shorter" in told
    assert "7 unreadable recordings" in told


def with_predictions(facts, **columns):
    """The facts with other predictions."""
    paths = [f"/x/{i}.wav" for i in range(len(next(iter(columns.values()))))]
    table = pd.DataFrame({"path": paths, **{k: [str(x) for x in v] for k, v in columns.items()}})
    return dataclasses.replace(facts, predictions=table)


def test_the_worst_come_first(runs):
    low, high, noise = EVIL["low"], EVIL["high"], EVIL["noise"]
    scores = {f"score_{low}": [0.9, 0.6, 0.1], f"score_{high}": [0.1, 0.3, 0.7]}
    scores[f"score_{noise}"] = [0.0, 0.1, 0.2]
    answers = {"label": [low, high, low], "predicted": [low, low, high]}
    facts = with_predictions(read_facts(runs["softmax"]), **answers, **scores)
    losses, columns = worst_outputs(facts)
    assert losses.tolist() == pytest.approx([0.0, 0.6, 0.7])  # the first is right
    facts.predictions.loc[1, "predicted"] = "unknown"
    assert worst_outputs(facts)[0].tolist() == pytest.approx([0.0, 0.0, 0.7])
    assert [facts.model.labels[i] for i in columns[1:]] == [low, high]

    scores = {"score_<i>b</i>": [0.5, 0.5], "score_a": [0.9, 0.1]}
    facts = with_predictions(read_facts(runs["sigmoid"]), label=["a", "a;<i>b</i>"], **scores)
    losses, columns = worst_outputs(facts)
    assert losses.tolist() == pytest.approx([-np.log(0.5 * 0.9), -np.log(0.5 * 0.1)])
    assert [facts.model.labels[i] for i in columns] == ["<i>b</i>", "a"]

    facts = with_predictions(
        read_facts(runs["ordinal"]), label=["1", "3"], predicted_value=[2, 2.5]
    )
    scale = float(facts.model.scale)
    assert worst_outputs(facts)[0].tolist() == pytest.approx([1 / scale, 0.5 / scale])


def test_mistakes_are_on_the_page(runs, pages):
    found = pd.read_csv(runs["softmax"] / "test" / "predictions.csv", keep_default_na=False)
    wrong = found[found["predicted"] != found["label"]]
    top = wrong[[f"score_{name}" for name in EVIL.values()]].max(axis=1)
    ranked = wrong.loc[top.sort_values(ascending=False, kind="stable").index, "path"]
    worst = ranked.str.rsplit("/", n=1).str[1].tolist()
    shown = re.findall(r"<h3>(.*?)</h3>", pages["softmax"].read_text(encoding="utf-8"))
    assert len(shown) == min(8, len(wrong)) > 0
    assert [html.unescape(name) for name in shown] == worst[:8]


def test_audio_is_what_was_recorded():
    waveform = np.sin(np.arange(4000) / 5).astype(np.float32)
    uri = audio_uri(waveform, 8000)
    content = base64.b64decode(uri.removeprefix("data:audio/flac;base64,"))
    heard, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    assert rate == 8000
    assert np.abs(heard - waveform).max() <= 1 / 2**15


def test_of_a_long_recording_the_wrong_part_is_heard(runs):
    facts = read_facts(runs["softmax"])
    i = (
        facts.predictions["path"]
        .tolist()
        .index(next(path for path in facts.predictions["path"] if "<i>35" in path))
    )
    uri, words = audio_excerpt(facts, i, 31.5)
    content = base64.b64decode(uri.partition(",")[2])
    heard, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    original, _ = soundfile.read(facts.predictions["path"][i], dtype="float32")
    assert words == "3.0 to 33.0 s, mono, 8000 Hz"
    assert np.abs(heard - original[24_000:]).max() <= 1 / 2**15


def copy_of(run, tmp_path):
    """A run that may be changed."""
    read_facts(run)  # evaluates it
    return shutil.copytree(run, tmp_path / "copy")


def test_a_lost_recording_is_told_of(runs, tmp_path):
    run = copy_of(runs["softmax"], tmp_path)
    path = run / "test" / "predictions.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table["path"] = "/gone/" + table["path"].str.rsplit("/", n=1).str[1]
    table.to_csv(path, index=False)
    page, _ = write_report(run, tmp_path / "page.html", PLAIN)
    text = page.read_text(encoding="utf-8")
    assert "no such file" in text
    assert "are not in the run&#39;s manifest as test" in text
    assert "/gone" not in text


def test_a_run_without_its_manifest_has_a_page(runs, tmp_path):
    run = copy_of(runs["linear"], tmp_path)
    (run / "manifest.csv").unlink()
    page, card = write_report(run)
    text = page.read_text(encoding="utf-8")
    assert 'id="data"' not in text
    assert "the run&#39;s manifest, to compare with its recordings, is gone" in text
    assert "what it was trained on is not known" in card.read_text(encoding="utf-8")


def test_why_nothing_is_explained(runs, tmp_path, monkeypatch):
    page = tmp_path / "page.html"

    def told():
        write_report(runs["softmax"], page)
        text = page.read_text(encoding="utf-8")
        # The spectrogram stands in its place.
        assert "<image " in text
        assert "<img" not in text
        return text

    def refuse(model):
        raise DeepSpectrumLiteError("no layer for Grad-CAM")

    monkeypatch.setattr("deepspectrumlite.attribution.spatial_layer", refuse)
    assert "Not explained: no layer for Grad-CAM" in told()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "captum" else find(name)
    )
    assert "pip install &#39;deepspectrumlite[explain]&#39;" in told()


def test_is_evaluated_where_that_was_not_done(trained, tmp_path):
    run = copy_of(trained, tmp_path)
    shutil.rmtree(run / "test", ignore_errors=True)
    shutil.rmtree(run / "devel", ignore_errors=True)
    facts = read_facts(run)
    assert facts.split == "test"
    assert (run / "test" / "scores.json").is_file()
    assert "names no groups" in " ".join(limits(facts))
    # Without a test split, devel is shown, and called too good.
    manifest = pd.read_csv(run / "manifest.csv")
    shutil.rmtree(run / "test")
    manifest[manifest["split"] != "test"].to_csv(run / "manifest.csv", index=False)
    facts = read_facts(run)
    assert facts.split == "devel"
    assert "the best epoch was chosen" in limits(facts)[0]
    assert "test" not in [row[0] for row in data_table(facts).rows]
    with pytest.raises(ManifestError, match="no split 'test'; allowed: train, devel"):
        read_facts(run, "test")


def test_what_is_no_run_is_refused(trained, tmp_path):
    for nothing in (tmp_path, tmp_path / "nope"):
        with pytest.raises(ModelError, match="no model there"):
            write_report(nothing)
    with pytest.raises(ModelError, match="a model without its run"):
        write_report(trained / "model", tmp_path / "page.html")
    for bad in (tmp_path / "page.pdf", tmp_path / "none" / "page.html"):
        with pytest.raises(DeepSpectrumLiteError, match=r"a name ending in \.html"):
            write_report(trained, bad)


def test_a_system_of_several_folds_names_a_run(trained, tmp_path):
    (tmp_path / "system.json").write_text("{}")
    with pytest.raises(ModelError, match="a system without runs"):
        write_report(tmp_path)
    for fold in ("fold2", "fold1"):
        (tmp_path / fold).mkdir()
        shutil.copytree(trained / "model", tmp_path / fold / "model")
    with pytest.raises(ModelError, match=r"these 2 runs, such as .*fold1$"):
        write_report(tmp_path)


def test_no_means_without_a_word(runs, tmp_path):
    run = copy_of(runs["linear"], tmp_path)
    manifest = pd.read_csv(run / "manifest.csv", dtype=str, keep_default_na=False)
    test = manifest["split"] == "test"
    folder = manifest["path"].str.rsplit("/", n=1).str[0].iloc[0]
    manifest.loc[test, "path"] = manifest.loc[test, "path"].str.replace("it's", "gone")
    manifest.to_csv(run / "manifest.csv", index=False)
    page, _ = write_report(run, tmp_path / "page.html", ReportOptions(worst=0))
    text = page.read_text(encoding="utf-8")
    section = text.partition('<section id="averages">')[2].partition("</section>")[0]
    assert "Not shown: gone" in html.unescape(section)
    assert "no such file" in section
    assert "<img" not in section
    assert folder not in text


@pytest.mark.parametrize(("method", "told"), [("gradcam", True), ("occlusion", False)])
def test_how_far_to_trust_maps(runs, tmp_path, method, told):
    options = ReportOptions(worst=0, method=method)
    page, _ = write_report(runs["softmax"], tmp_path / "page.html", options)
    assert ("hardly better than random order" in page.read_text(encoding="utf-8")) == told


def test_only_a_named_comparison_is_of_other_recordings(runs, tmp_path):
    run = copy_of(runs["softmax"], tmp_path)
    found = compare_systems([read_system(run)] * 2, n_resamples=100)
    path, page = tmp_path / "comparison.json", tmp_path / "page.html"

    def section(options):
        write_report(run, page, options)
        text = page.read_text(encoding="utf-8")
        return text.partition('<section id="comparison">')[2].partition("</section>")[0]

    named = dataclasses.replace(PLAIN, comparison=tmp_path)
    path.write_text(json.dumps(found))
    assert section(PLAIN) == section(named) != ""
    assert 'role="note"' not in section(named)
    unknown = {key: value for key, value in found.items() if key != "recordings"}
    for other, note in (
        (found | {"recordings": "0" * 32}, "is over other recordings than those of test"),
        (unknown, "does not tell which recordings it is over"),
    ):
        path.write_text(json.dumps(other))
        assert section(PLAIN) == ""
        assert note in section(named)


def test_comparison_is_that_of_its_file(pages, runs):
    found = json.loads((runs["softmax"].parent / "comparison.json").read_text())
    rows = table_of(pages["softmax"], "12 recordings")
    for row, system in zip(rows[1:], found["systems"], strict=True):
        assert row[0] == system["title"]
        assert row[1].startswith(f"{system['value']:.3f} [{system['low']:.3f}")


@pytest.mark.parametrize(
    ("text", "problem"), [("{", "broken"), ("[]", "not an object"), ("{}", "not a comparison")]
)
def test_what_is_no_comparison_is_refused(runs, tmp_path, text, problem):
    (tmp_path / "comparison.json").write_text(text)
    options = dataclasses.replace(PLAIN, comparison=tmp_path)
    with pytest.raises(ModelError, match=problem):
        write_report(runs["softmax"], tmp_path / "page.html", options)


def test_exported_files_are_told_of(runs, pages, tmp_path):
    first, second = tmp_path / "a.tflite", tmp_path / "b.onnx"
    first.write_bytes(b"x" * 2_000_000)
    second.write_bytes(b"y")
    estimate = {"value": 0.625, "low": 0.5, "high": 0.75, "level": 0.95}
    proof = {"kind": "int8.tflite", "file": "a.tflite", "bytes": 2_000_000, "metric": "UAR"}
    proof |= {"max_difference": 0.125, "agreement": 0.9, "value": estimate, "drop": estimate}
    found = {"split": "devel", "clips": 40, "files": [proof]}
    (tmp_path / "a.tflite.json").write_text(json.dumps(found))
    options = dataclasses.replace(PLAIN, exported=(first, second, first))
    page, card = write_report(runs["softmax"], tmp_path / "page.html", options)
    rows = table_of(page, "Exported files")
    interval = "0.625 [0.500, 0.750]"
    expected = ["a.tflite", "int8.tflite", "2.00 MB", interval, interval, "90.0 %", "1.2e-01"]
    assert rows[1:] == [expected, ["b.onnx", "onnx", "0.00 MB", *["–"] * 4]]
    text = page.read_text(encoding="utf-8")
    assert "was compared with the model on 40 recordings of devel" in text
    assert "b.onnx has no report" in text
    assert "| a.tflite | int8.tflite | 2.00 MB |" in card.read_text(encoding="utf-8")
    # Written over since.
    first.write_bytes(b"x")
    page, _ = write_report(runs["softmax"], tmp_path / "page.html", options)
    assert table_of(page, "Exported files")[1][3] == "–"
    assert "is not the file that a.tflite.json tells of" in page.read_text(encoding="utf-8")
    with pytest.raises(ModelError, match=r"gone\.tflite: no such exported file"):
        write_report(
            runs["softmax"],
            tmp_path / "page.html",
            dataclasses.replace(PLAIN, exported=(tmp_path / "gone.tflite",)),
        )


@pytest.mark.slow
def test_latency_is_measured_on_request(trained, exported, tmp_path):
    options = dataclasses.replace(PLAIN, exported=(exported,), latency=True)
    run = copy_of(trained, tmp_path)
    page, _ = write_report(run, options=options)
    header, row = table_of(page, "Time for one segment on one thread")
    found = dict(zip(header, row, strict=True))
    median, p95 = (float(found[key].split()[0]) for key in ("median", "95th percentile"))
    assert found["file"] == exported.name
    assert 0 < median <= p95
    # A segment is half a second.
    assert float(found["real-time factor"]) == pytest.approx(median / 500, rel=0.2, abs=2e-4)


def test_what_the_author_wrote_in_the_card_is_kept(runs, tmp_path):
    facts, path = read_facts(runs["softmax"]), tmp_path / "model_card.md"
    write_card(facts, path)
    text = path.read_text(encoding="utf-8")
    assert all(f"**{part}**" in text for part in AUTHOR_PARTS.values())
    part = f"**{AUTHOR_PARTS['intended-use']}**"
    mine = "For *my* shed only: a|b <https://example.org>\n\n- not for yours"
    path.write_text(text.replace(part, mine), encoding="utf-8")
    write_card(facts, path)
    assert path.read_text(encoding="utf-8") == text.replace(part, mine)
    path.write_text("# My own card\n", encoding="utf-8")
    with pytest.raises(DeepSpectrumLiteError, match="is not replaced; move it away"):
        write_card(facts, path)
    assert path.read_text(encoding="utf-8") == "# My own card\n"


@pytest.mark.parametrize("output", KINDS)
def test_card_tables_hold_together(runs, tmp_path, output):
    """As many cells in each row as its header has, whatever the labels hold."""
    path = tmp_path / "model_card.md"
    write_card(read_facts(runs[output]), path)
    tables = re.findall(r"(?:^\|.*\n)+", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(tables) >= 4 - (output == "linear")
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, table
    assert "<b>" not in re.sub(r"\\<", "", path.read_text(encoding="utf-8"))


def test_markdown_is_escaped():
    assert escape_markdown("[x](http://y)\n# z") == r"[x\](http://y) \# z"
    assert escape_markdown("hihat_open _x_") == r"hihat_open \_x\_"


def test_decisions_are_shown_where_they_were_measured(runs, tmp_path):
    run = copy_of(runs["softmax"], tmp_path)
    path = run / "test" / "scores.json"
    estimate = {"value": 0.875, "low": 0.75, "high": 1.0}
    found = {
        "over": "files",
        "coverage": estimate | {"wanted": 0.9},
        "mean_set_size": {"value": 1.25, "low": 1.0, "high": 1.5},
        "unknown": {
            "by": "score",
            "false_rejection": estimate | {"wanted": 0.05},
            "accuracy_of_accepted": estimate,
        },
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decisions": found}))
    page, _ = write_report(run, options=PLAIN)
    rows = table_of(page, "Decisions on test")
    assert rows[1] == ["prediction set holds the truth", "0.900", "0.875 [0.750, 1.000]"]
    assert rows[2][1:] == ["", "1.250 [1.000, 1.500]"]
    assert rows[3][:2] == ["known recordings refused, by score", "0.050"]


def places(picture, kind):
    """Where circles of a class are: (x, y)."""
    found = re.findall(rf'<circle cx="([\d.]+)" cy="([\d.]+)" r="[\d.]+" class="{kind}"', picture)
    return np.array(found, dtype=float)


def test_dots_stand_where_their_numbers_are():
    picture = dot_chart([Dot("a", 0.0), Dot("b", 0.25), Dot("c", 1.0)], words="x")
    x, y = places(picture, "dot").T
    assert (x[1] - x[0]) / (x[2] - x[0]) == pytest.approx(0.25, abs=1e-3)
    assert (np.diff(y) > 0).all()
    assert places(dot_chart([Dot("a", None)], words="x"), "dot").size == 0


def test_curves_have_gaps_where_nothing_is_known():
    lines = [Line("a", [0.5, None, float("nan"), 1.0])]
    picture = line_chart([1, 2, 3, 4], lines, words="<x>", x_name="epoch", best=3)
    points = places(picture, "p1")
    assert len(points) == 2
    assert places(picture, "ring").tolist() == [points[-1].tolist()]
    assert points[1, 1] < points[0, 1]  # upwards
    assert 'aria-label="&lt;x&gt;"' in picture


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.13, 0.94), (-3, 7e5), (2, 2), (0, 0), (1, 1e9)]
)
def test_ticks_hold_all_numbers_evenly(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 8
    assert np.ptp(np.diff(ticks)) == pytest.approx(0, abs=1e-9 * (high - low + 1))
