import csv
import errno
import json
import os

import pytest
import yaml

from helpers.runs import evaluation
from supsup_jax.runs import records, results, shared_table
from supsup_jax.system import atomic


def task(number):
    return records.TaskResult(number, "2020-12-06 12:00:00", 0.25, 0.9371, 0.94, 2.5)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_results_csv_has_the_columns_of_the_original_and_one_row_per_task(tmp_path):
    path = tmp_path / "results.csv"
    results.append_results(path, tmp_path / "seed=1", "seed=1", [task(0), task(1)])
    header, *rows = rows_of(path)
    assert ",".join(header) == "Date Finished,Name,Current Val,Best Val,Save Directory"
    assert rows[1] == ["2020-12-06 12:00:00", "seed=1~task=1", "0.9371", "0.9400", str(tmp_path / "seed=1")]


def test_existing_rows_are_not_written_again(tmp_path):
    path = tmp_path / "results.csv"
    results.append_results(path, tmp_path / "seed=1", "seed=1", [task(0)])
    results.append_results(path, tmp_path / "seed=1", "seed=1", [task(0), task(1)])
    results.append_results(path, tmp_path / "seed=1", "seed=1", [task(2)], are_new=True)
    results.append_results(path, tmp_path / "seed=1~try=1", "seed=1~try=1", [task(0)])
    assert len(rows_of(path)) == 5


def test_an_incomplete_row_is_not_joined_with_the_next(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(",".join(shared_table.RESULTS_HEADER) + "\n2020-12-06,some")
    results.append_results(path, tmp_path, "seed=1", [task(0)])
    assert rows_of(path)[1] == ["2020-12-06", "some"]
    assert len(rows_of(path)[2]) == 5


def test_a_second_run_with_the_same_name_gets_a_new_folder(tmp_path):
    names = [results.new_folder(tmp_path / "a/b", "seed=1").name for _ in range(3)]
    assert names == ["seed=1", "seed=1~try=1", "seed=1~try=2"]
    results.new_folder(tmp_path / "a/b", "seed=10")
    assert [folder.name for folder in results.existing_folders(tmp_path / "a/b", "seed=1")] == names[::-1]


def test_a_record_survives_conversion_to_json():
    record = records.Record([task(0), task(1)], [evaluation(2)])
    assert records.Record.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_files_of_a_run_are_written_from_its_record(tmp_path):
    results.write_files(tmp_path, "seed=1", records.Record([task(0), task(1)], [evaluation(2)]))
    header, *rows = rows_of(tmp_path / "adapt_results.csv")
    assert ",".join(header) == "Date Finished,Name,Task,Num Tasks Learned,Current Val,Adapt Val"
    assert [row[1:] for row in rows] == [
        ["seed=1", "0", "2", "0.5000", "0.2500"],
        ["seed=1", "1", "2", "1.0000", "0.5000"],
    ]
    assert rows_of(tmp_path / "confusion.csv")[1:] == [
        ["2", "0", "0", "3"],
        ["2", "0", "1", "1"],
        ["2", "1", "1", "3"],
    ]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["task", "task", "evaluation"]
    assert lines[2]["given"] == pytest.approx(0.75)


def test_tasks_learned_since_the_last_evaluation_are_appended(tmp_path):
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    for folder in (whole, grown):
        folder.mkdir()
    record = records.Record([task(0), task(1)])
    results.write_files(whole, "seed=1", record)
    results.write_files(grown, "seed=1", records.Record([task(0)]))
    results.append_tasks(grown, [task(1)])
    assert (grown / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_settings_contain_what_is_needed_to_run_again(tmp_path):
    results.write_settings(tmp_path, {"experiment": {"steps": 3}})
    assert results.read_settings(tmp_path)["experiment"] == {"steps": 3}
    settings = yaml.safe_load((tmp_path / "settings.yaml").read_text())
    assert {"jax", "flax", "orbax-checkpoint"} <= settings["versions"].keys()
    assert {"devices", "git_commit", "command", "python"} <= settings.keys()
    assert results.read_settings(tmp_path / "nowhere") == {}


def test_an_error_while_appending_names_the_file_and_leaves_it(tmp_path, monkeypatch):
    (path := tmp_path / "metrics.jsonl").write_text("a")

    def refuse(descriptor):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", refuse)  # as some network file systems do
    with pytest.raises(OSError, match=r"Invalid argument: '.*metrics\.jsonl'"):
        atomic.append(path, "b")
    assert path.read_text() == "a"


def test_events_contain_the_measurements(tmp_path):
    with results.EventWriter(tmp_path) as writer:
        writer.write(records.Record([task(0)]))
        writer.write(records.Record([task(0), task(1)], [evaluation(2)]))
    (path,) = tmp_path.glob("events.out.tfevents.*")
    assert path.read_bytes().count(b"task/accuracy") == 2
    assert path.read_bytes().count(b"tasks_learned/inferred_per_image") == 1


def test_the_accuracy_matrix_has_a_row_per_evaluation_and_yields_metrics(tmp_path):
    record = records.Record(
        [records.TaskResult(number, "2020-12-06 12:00:00", 0.25, 0.9, 0.9, 1.0) for number in range(2)],
        [
            records.EvaluationResult(1, "2020-12-06 12:00:00", 1.0, 1.0, {"masks as bits": 8}, [0.9]),
            records.EvaluationResult(2, "2020-12-06 12:00:00", 1.0, 1.0, {"masks as bits": 8}, [0.6, 0.8]),
        ],
    )
    results.write_files(tmp_path, "seed=1", record)
    assert rows_of(tmp_path / "accuracy_matrix.csv") == [
        ["Num Tasks Learned", "Task Identity", "Task 0", "Task 1"],
        ["1", "given", "0.9000"],
        ["2", "given", "0.6000", "0.8000"],
    ]
    assert rows_of(tmp_path / "metrics.csv")[1:] == [
        ["1", "given", "0.9000", "", "", "0"],
        ["2", "given", "0.7000", "0.3000", "-0.3000", "1"],
    ]
    assert not (tmp_path / "adapt_results.csv").exists()
    assert "inferred" not in json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])


def test_recoveries_and_streams_have_separate_tables(tmp_path):
    path = {"hamming": [4, 1, 0], "energy": [-1.0, -2.5], "entropy": [2.0, 0.5]}
    evaluation = records.EvaluationResult(
        1,
        "2020-12-06 12:00:00",
        1.0,
        1.0,
        {"masks as bits": 8},
        [0.9],
        [0.8],
        picked=[1.0],
        confusion=[[0, 0, 1]],
        recovery=[path],
    )
    stream = [records.StreamResult(0, [[0, 3], [1, 2]], [0, 1], 1, 2)]
    record = records.Record([], [evaluation], stream)
    assert records.Record.from_json(json.loads(json.dumps(record.to_json()))) == record
    results.write_files(tmp_path, "seed=1", record)
    assert rows_of(tmp_path / "recovery.csv")[1:] == [
        ["1", "0", "0", "4", "-1", "2"],
        ["1", "0", "1", "1", "-2.5", "0.5"],
        ["1", "0", "2", "0", "", ""],
    ]
    assert rows_of(tmp_path / "stream.csv") == [
        ["Task", "First Batch", "Batches", "Mask"],
        ["0", "0", "3", "0"],
        ["0", "3", "2", "1"],
    ]
