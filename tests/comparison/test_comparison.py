"""The command compare: its rows, its numbers, and its page."""

import csv
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from helpers import stored_runs
from helpers.figures import LENET, write_run
from supsup_jax.comparison.charts import Axis, Series, chart
from supsup_jax.comparison.measures import MEASURES, Statistic
from supsup_jax.comparison.page import page
from supsup_jax.comparison.sections import compare
from supsup_jax.runs import results, tables
from supsup_jax.runs.records import Record
from supsup_jax.runs.tables import Curve

SUPSUP, UPPER, LOWER = f"{LENET}/supsup_h", "upper", "lower"
BOUND = {"scenario": "GG", "features": 10, "steps": 1000}


@pytest.fixture
def runs(tmp_path):
    """Write runs of three methods on one benchmark, SupSup with two seeds."""
    folder = tmp_path / "runs"
    write_run(folder, SUPSUP, 1, [0.9, 0.8, 0.7], [0.85, 0.8, 0.6], learned=[0.9, 0.8, 0.7])
    write_run(folder, SUPSUP, 2, [0.8, 0.8, 0.8], [0.7, 0.7, 0.7], learned=[0.8, 0.8, 0.8])
    write_run(folder, UPPER, 1, [0.95, 0.9, 0.85], learned=[0.95, 0.9, 0.85], method="UpperBound", **BOUND)
    write_run(folder, LOWER, 1, [0.2, 0.3, 0.85], learned=[0.9, 0.9, 0.85], method="LowerBound", **BOUND)
    return folder


class Tables(HTMLParser):
    """Reads the tables of a page: the cells of each row, as text and as values for sorting."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.tags, self.is_cell = {}, [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "table":
            self.rows = self.tables.setdefault(attributes["class"], [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append(["", attributes.get("data-value")])
            self.is_cell = True

    def handle_endtag(self, tag):
        self.is_cell = self.is_cell and tag not in ("th", "td")

    def handle_data(self, text):
        if self.is_cell:
            self.rows[-1][-1][0] += text


def results_of(text):
    """Return the results table of a page: the values for sorting by method and column."""
    header, *rows = Tables(text).tables["results"]
    titles = [re.sub(r"(%|points)$", "", title) for title, _ in header]
    return {row[0][0]: dict(zip(titles, (value for _, value in row), strict=True)) for row in rows}


def csv_rows(path):
    with path.open() as file:
        return [row for row in csv.reader(file)][1:]


def test_the_numbers_of_the_page_are_those_of_the_csv_files(command, runs):
    assert command("compare", runs, "--html", "report.html") == "report.html\n"
    shown = results_of((runs.parent / "report.html").read_text())["SupSup (GNu)"]
    expected = {title: 0.0 for title in shown}
    for seed in (1, 2):
        folder = runs / SUPSUP / f"seed={seed}"
        for count, kind, *accuracies in csv_rows(folder / "accuracy_matrix.csv"):
            if count == "3":
                expected[f"accuracy, task {kind}"] += 100 * sum(map(float, accuracies)) / 3 / 2
        for count, kind, _, forgetting, backward, _ in csv_rows(folder / "metrics.csv"):
            if count == "3":
                expected[f"forgetting, task {kind}"] += 100 * float(forgetting) / 2
                expected[f"backward transfer, task {kind}"] += 100 * float(backward) / 2
        for count, content, size in csv_rows(folder / "storage.csv"):
            expected["bytes"] += int(size) / 2 if count == "3" and "sparse" not in content else 0
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        (seconds,) = [line["training_seconds"] for line in lines if line.get("num_tasks") == 3]
        expected["training time"] += seconds / 2
    expected["accuracy right after learning"] = 80
    expected |= {"tasks": 3, "seeds": 2, "forward transfer": ((0.8 - 0.9) + (0.8 - 0.9)) / 2 * 100}
    del expected["method"]
    assert {title: float(shown[title]) for title in expected} == pytest.approx(expected)


def test_seeds_are_one_row_with_a_mean_and_a_standard_deviation(command, runs):
    (section,) = json.loads(command("compare", runs, "--json"))["benchmarks"]
    rows = {row["method"]: row for row in section["methods"]}
    assert list(rows) == ["UpperBound (GG)", "SupSup (GNu)", "LowerBound (GG)"]
    assert rows["SupSup (GNu)"]["seeds"] == [1, 2]
    inferred = rows["SupSup (GNu)"]["measured"]["inferred"]
    assert (inferred["mean"], inferred["deviation"]) == (pytest.approx(72.5), pytest.approx(3.535534))
    assert inferred["by_seed"] == pytest.approx({"1": 75, "2": 70})
    assert rows["LowerBound (GG)"]["measured"]["forgetting"]["mean"] == pytest.approx(65)
    assert rows["LowerBound (GG)"]["measured"]["backward"]["mean"] == pytest.approx(-65)
    assert "inferred" not in rows["LowerBound (GG)"]["measured"]
    assert rows["UpperBound (GG)"]["measured"]["forward"]["mean"] == 0
    assert rows["SupSup (GNu)"]["curves"]["given"]["at"] == [2, 3]


def test_settings_that_differ_and_quantities_not_measured_are_named(command, runs):
    shutil.rmtree(runs / UPPER)
    text = command("compare", runs)
    for words in ("SupSup (GNu)", "80.00 ± 0.00", "settings that differ", "scenario", "features"):
        assert words in text
    assert "not measured: forward transfer: there is no evaluated run of method UpperBound" in text
    assert "A value without ± is of a single seed." in text and "different seeds" in text
    assert "dataset" not in text  # it is equal


def test_rows_of_one_method_are_told_apart_by_their_settings(tmp_path):
    for scale in (8.0, 16.0):
        write_run(tmp_path, SUPSUP, 1, [0.9, 0.8], er_scale=scale)
    write_run(tmp_path, SUPSUP, 2, [0.9, 0.8], er_scale=16.0)
    (section,) = compare(tables.read_runs([tmp_path]))
    assert {row.label: row.seeds for row in section.rows} == {
        "SupSup (GNu), er_scale 8": [1],
        "SupSup (GNu), er_scale 16": [1, 2],
    }
    assert section.differing["er_scale"] in ([8.0, 16.0], [16.0, 8.0])


def test_runs_of_different_benchmarks_are_in_separate_sections(tmp_path):
    write_run(tmp_path, SUPSUP, 1, [0.9, 0.8])
    write_run(tmp_path, LOWER, 1, [0.9, 0.8], dataset="digits", **BOUND)
    write_run(tmp_path, "GNu/MNISTRotate/supsup", 1, [0.9, 0.8])
    write_run(tmp_path, "mine", 1, [0.5, 0.5], benchmark="OfMyScript", shift=3)
    write_run(tmp_path, "mine", 2, [0.5, 0.5], benchmark="OfMyScript", shift=4, features=7)
    write_run(tmp_path, "mine", 3, [0.5, 0.5], benchmark="OfMyScript", shift=4)
    sections = compare(tables.read_runs([tmp_path]))
    assert {section.title: len(section.rows) for section in sections} == {
        "Permuted mnist": 1,
        "Permuted digits": 1,
        "Rotated mnist, degrees 10": 1,
        "OfMyScript mnist, shift 3": 1,
        "OfMyScript mnist, shift 4": 2,
    }
    assert "different benchmarks, whose accuracies cannot be compared" in page(sections)


def test_methods_are_compared_after_the_same_number_of_tasks(tmp_path):
    write_run(tmp_path, SUPSUP, 1, [0.9] * 5)
    write_run(tmp_path, SUPSUP, 2, [0.5, 0.7], evaluate_at=())
    write_run(tmp_path, LOWER, 1, [0.5] * 3, **BOUND)
    write_run(tmp_path, LOWER, 2, [0.5] * 3, evaluate_at=(), **BOUND)
    (section,) = compare(tables.read_runs([tmp_path]))
    assert [(row.num_tasks, row.seeds) for row in section.rows] == [(2, [1, 2]), (2, [1])]
    assert section.rows[0].statistics["given"].values == {1: 90, 2: 60}
    assert any("seed=2 is left out: it was not evaluated after 2 tasks." in note for note in section.notes)
    assert any("compared after 2 tasks" in note and "up to 5 tasks" in note for note in section.notes)


def test_methods_without_a_common_evaluation_are_shown_with_a_warning(tmp_path):
    write_run(tmp_path, SUPSUP, 1, [0.9] * 5, evaluate_at=())
    write_run(tmp_path, LOWER, 1, [0.5] * 3, evaluate_at=(), **BOUND)
    (section,) = compare(tables.read_runs([tmp_path]))
    assert [row.num_tasks for row in section.rows] == [5, 3]
    assert any("the rows are not comparable" in note for note in section.notes)


def test_the_newest_evaluated_attempt_of_a_seed_counts(tmp_path):
    for accuracy in (0.5, 0.7):
        write_run(tmp_path, SUPSUP, 1, [accuracy] * 2)
    unfinished = results.new_folder(tmp_path / SUPSUP, "seed=1")  # being written: it has settings and no evaluation
    shutil.copy(tmp_path / SUPSUP / "seed=1/settings.yaml", unfinished)
    results.write_files(unfinished, "seed=1", Record())
    os.symlink(tmp_path / SUPSUP, tmp_path / "link")
    (section,) = compare(tables.read_runs([tmp_path]))
    assert section.rows[0].statistics["given"].values == {1: 70}
    assert [note for note in section.notes if "is newer" in note]


def test_stored_runs_of_version_0_1_and_of_a_stream_are_compared(command, tmp_path):
    for name in ("supsup", "batche", "nns", "upper-bound", "interrupted", "hopsupsup"):
        stored_runs.unpack(name, tmp_path / "runs" / name)
    plain = json.loads(command("compare", "runs", "--json"))
    methods = [row["method"] for section in plain["benchmarks"] for row in section["methods"]]
    assert {"BatchE (GG)", "UpperBound (GG)", "SupSup (NNs)", "HopSupSup (GNu)"} <= set(methods)
    assert len(plain["benchmarks"]) == 2
    command("compare", "runs", "--html", "report.html")


def test_the_page_is_self_contained_and_accessible(command, runs):
    command("compare", runs, "--html", "report.html")
    text = (runs.parent / "report.html").read_text()
    tags = Tables(text).tags
    assert not {name for _, attributes in tags for name in attributes} & {"src", "href", "srcset", "style", "onclick"}
    assert not re.search(r"https?://|@import|url\(", text)
    identifiers = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    pictures = [attributes for tag, attributes in tags if tag == "svg" and "aria-hidden" not in attributes]
    assert len(pictures) == 2
    for picture in pictures:
        assert picture["role"] == "img" and set(picture["aria-labelledby"].split()) <= set(identifiers)
    buttons = [attributes for tag, attributes in tags if tag == "button"]
    assert len(buttons) == len(Tables(text).tables["results"][0])
    assert all(attributes == {"type": "button"} for attributes in buttons)


SORT = """
<script>
const pressed = [];
for (const [title, times] of [["method", 1], ["bytes", 1], ["accuracy, task inferred", 2]]) {
  const header = document.querySelector(`th[data-title="${title}"]`);
  for (let time = 0; time < times; time += 1) header.querySelector("button").click();
  const rows = [...document.querySelectorAll(".results tbody tr")].map((row) => row.cells[0].textContent);
  pressed.push([title, header.getAttribute("aria-sort"), rows, document.querySelector("[role=status]").textContent]);
}
document.title = JSON.stringify(pressed);
</script>
"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="Chromium is not installed")
def test_a_press_on_a_header_sorts_the_rows(command, runs):
    command("compare", runs, "--html", "report.html")
    path = runs.parent / "report.html"
    path.write_text(path.read_text().replace("</body>", f"{SORT}</body>"))
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={runs.parent / 'browser'}"]
    dumped = subprocess.run([*browser, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120).stdout
    by_name, by_bytes, by_inferred = json.loads(re.search(r"<title>(.*)</title>", dumped)[1].replace("&quot;", '"'))
    names = ["LowerBound (GG)", "SupSup (GNu)", "UpperBound (GG)"]
    assert by_name[:3] == ["method", "ascending", names]
    assert by_bytes[1] == "ascending" and sorted(by_bytes[2]) == names
    # Rows without a value stay at the end in both directions.
    assert by_inferred[1] == "ascending" and by_inferred[2][0] == "SupSup (GNu)"
    assert by_inferred[3] == "Sorted by accuracy, task inferred, ascending."


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare"], ["compare requires at least one RUN"]),
        (["compare", "nowhere"], ["nowhere is not a folder"]),
        (["compare", "empty"], ["empty contains no evaluated run"]),
        (["compare", "runs", "--html", "no/report.html"], ["--html no/report.html: the folder no does not exist"]),
        (["compare", "runs", "--html", "empty"], ["--html empty: is a folder"]),
        (["compare", "damaged", "--html", "report.html"], ["metrics.csv is damaged"]),
    ],
)
def test_a_wrong_argument_gives_one_line_and_writes_nothing(command, runs, arguments, words):
    (runs.parent / "empty").mkdir()
    shutil.copytree(runs / LOWER, runs.parent / "damaged")
    (runs.parent / "damaged/seed=1/metrics.csv").write_text("a\n1,given,x,y\nx\n")
    before = set(runs.parent.rglob("*"))
    error = command(*arguments, status=2)
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert set(runs.parent.rglob("*")) == before


def test_statistics_need_a_value_of_every_seed():
    assert Statistic.over({1: 2.0, 2: None}) is None
    assert Statistic.over({}) is None
    assert Statistic.over({3: 2.0}) == (2.0, None, {3: 2.0})
    assert Statistic.over({1: 1.0, 2: 3.0}).text("%") == "2.00 ± 1.41"
    assert Statistic.over({1: -0.001}).text("points") == "0.00"
    assert Statistic.over({1: 12345.0, 2: 12345.0}).text("bytes") == "12,345"
    assert Statistic.over({1: 60.0, 2: 180.0}).text("s") == "2.0 min ± 85 s"


def test_every_measure_says_why_it_may_be_missing():
    assert all(measure.meaning.endswith(".") and measure.missing for measure in MEASURES.values())


@pytest.mark.parametrize("is_log", [False, True])
@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [1.0, 2.0, 3.0], [10.0, 1e7]])
def test_charts_place_all_points_within_their_frame(values, is_log):
    curve = Curve([1 + index for index in range(len(values))], values, [0.0] * len(values), 1)
    text = chart("A <chart>", Axis("x"), Axis("y", is_log), [Series("a & b", 11, curve)], "name")
    marks = re.findall(r'class="mark" transform="translate\((\S+) (\S+)\)"', text)
    places = [tuple(map(float, match)) for match in marks]
    assert len(places) == len(values)
    assert all(0 < x < 480 and 0 < y < 310 for x, y in places)
    assert "A &lt;chart&gt;" in text and "a &amp; b" in text
    assert text.count('class="grid"') >= 2
