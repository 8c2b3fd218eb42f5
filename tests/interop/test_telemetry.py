"""Spans and metrics as a receiver decodes them that shares no code with hone."""

import hone
import oteltap
from conftest import FIXTURES, MODELS

SPANS = {"hone.v1.JobService/CreateJob", "attempt", "prepare", "step", "checkpoint", "upload"}
METRICS = {"hone.jobs", "hone.step.duration", "hone.checkpoint.size", "rpc.server.call.duration", "process.memory.usage"}


def test_spans_and_metrics_are_decoded_by_someone_else(tmp_path, monkeypatch):
    """Names, parents, links and units, of server and trainer."""
    for name in ("OTEL_BSP_SCHEDULE_DELAY", "OTEL_METRIC_EXPORT_INTERVAL"):
        monkeypatch.setenv(name, "200")
    with oteltap.running() as (url, until), hone.service(tmp_path, "--otlp-endpoint", url) as service:
        model = service.upload_model(MODELS / "llama_tied")
        rows = service.upload_rows(FIXTURES / "sft/rows.jsonl")
        _, events = service.run(hone.sft_spec(model, rows, max_steps=2))
        decoded = until(lambda so_far: SPANS | METRICS <= {one["name"] for one in so_far})
    spans = {one["name"]: one for one in decoded if "spanId" in one}
    metrics = {one["name"]: one for one in decoded if "spanId" not in one}
    call, attempt = spans["hone.v1.JobService/CreateJob"], spans["attempt"]
    assert [(link["traceId"], link["spanId"]) for link in attempt["links"]] == [(call["traceId"], call["spanId"])]
    for name in ("prepare", "step", "checkpoint"):
        assert (spans[name]["traceId"], spans[name]["parentSpanId"]) == (attempt["traceId"], attempt["spanId"])
    assert spans["upload"]["parentSpanId"] == spans["checkpoint"]["spanId"]
    assert all(int(one["endTimeUnixNano"]) >= int(one["startTimeUnixNano"]) > 0 for one in spans.values())
    assert {event["trace_id"] for event in events if event.get("attempt")} == {attempt["traceId"]}
    assert {event["trace_id"] for event in events if not event.get("attempt")} == {call["traceId"]}
    units = {"hone.jobs": "{job}", "hone.step.duration": "s", "hone.checkpoint.size": "By", "process.memory.usage": "By"}
    assert {name: metrics[name]["unit"] for name in units} == units
