"""Event files that `hone export-metrics` and the server write, read back by TensorBoard's own reader; Parquet, by Arrow's."""

import csv
import json

import pyarrow.parquet
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import hone
from conftest import FIXTURES, MODELS


@pytest.fixture(scope="module")
def run(service):
    """A job that has ended, and its events."""
    spec = hone.sft_spec(
        service.upload_model(MODELS / "llama"),
        service.upload_rows(FIXTURES / "sft/rows.jsonl"),
        max_steps=4,
        evaluation={"every_steps": "2", "max_time_fraction": 1.0},
    )
    spec["sft"]["data"]["eval_fraction"] = 0.2
    return service.run(spec)


@pytest.mark.parametrize("follow", [False, True])
def test_tensorboard_reads_what_the_job_told(service, run, tmp_path, follow):
    """Every number at its step, with the time of its event, whether one follows or not."""
    job_id, events = run
    told = service.cli("export-metrics", job_id, "--tensorboard", tmp_path, *(["--follow"] if follow else []))
    path = json.loads(told)["output"]
    assert str(tmp_path / job_id) in path
    reader = EventAccumulator(str(tmp_path / job_id))
    reader.Reload()
    assert {"train/loss", "train/learning_rate", "train/grad_norm", "eval/loss"} <= set(reader.Tags()["scalars"])
    for tag, kind, field in [
        ("train/loss", "train_step", "loss"),
        ("train/learning_rate", "train_step", "learning_rate"),
        ("eval/loss", "evaluation", "loss"),
    ]:
        expected = [(int(event[kind].get("step", 0)), event[kind].get(field, 0.0)) for event in events if kind in event]
        assert len(expected) in (3, 4)
        assert [(one.step, one.value) for one in reader.Scalars(tag)] == [
            (step, pytest.approx(value, rel=1e-6)) for step, value in expected
        ]


def test_csv_has_a_line_for_every_number(service, run, tmp_path):
    """The same numbers, in full."""
    job_id, events = run
    service.cli("export-metrics", job_id, "--csv", tmp_path)
    with (tmp_path / f"{job_id}.csv").open() as file:
        lines = list(csv.DictReader(file))
    losses = [(int(line["step"]), float(line["value"])) for line in lines if line["name"] == "train/loss"]
    assert losses == [(int(one["step"]), one["loss"]) for one in (e["train_step"] for e in events if "train_step" in e)]


def test_the_run_itself_leaves_event_files_in_storage(service, run):
    """The same numbers, without anybody asking."""
    job_id, events = run
    folder = service.folder / "storage/jobs" / job_id / "tensorboard"
    reader = EventAccumulator(str(folder))
    reader.Reload()
    expected = [(int(one["step"]), one["loss"]) for one in (e["train_step"] for e in events if "train_step" in e)]
    assert [(one.step, one.value) for one in reader.Scalars("train/loss")] == [
        (step, pytest.approx(loss, rel=1e-6)) for step, loss in expected
    ]
    assert {"eval/loss", "time/forward_seconds"} <= set(reader.Tags()["scalars"])


def test_parquet_has_a_row_for_every_number(service, run, tmp_path):
    """The same numbers, with their types."""
    job_id, events = run
    service.cli("export-metrics", job_id, "--parquet", tmp_path)
    table = pyarrow.parquet.read_table(tmp_path / f"{job_id}.parquet")
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("step", "int64"),
        ("time", "double"),
        ("name", "string"),
        ("value", "double"),
    ]
    losses = [(row["step"], row["value"]) for row in table.to_pylist() if row["name"] == "train/loss"]
    assert losses == [(int(one["step"]), one["loss"]) for one in (e["train_step"] for e in events if "train_step" in e)]
