"""From rows to a trained adapter in Python: upload, create a job, follow it, download what it made.

    python3 submit_and_follow.py MODEL ROWS FOLDER

MODEL is a GGUF file or a Hugging Face folder, ROWS a .jsonl file; the adapter comes into FOLDER. The server is HONE_SERVER, by
default http://127.0.0.1:7400; HONE_TOKEN is sent where it is set, and HONE_CA_FILE checks a server at https://.
docs/python.md says how the stubs are generated that this imports.
"""

import hashlib
import json
import os
import pathlib
import sys
import time
import urllib.parse
import uuid

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hone.v1 import dataset_pb2, dataset_pb2_grpc, event_pb2, job_pb2, job_pb2_grpc, model_pb2, model_pb2_grpc, spec_pb2

CHUNK_BYTES = 1 << 20
CALL_SECONDS = 30
FINAL = {event_pb2.JOB_STATE_SUCCEEDED, event_pb2.JOB_STATE_FAILED, event_pb2.JOB_STATE_CANCELLED}
# What asking again would not change. Whatever else ends a watch is a lost connection.
DEFINITE = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DATA_LOSS,
}
LONGEST_SILENCE_SECONDS = 600


def main():
    """Trains, and says how it goes."""
    model, rows, folder = map(pathlib.Path, sys.argv[1:])
    with connect(os.environ.get("HONE_SERVER", "http://127.0.0.1:7400")) as channel:
        jobs = job_pb2_grpc.JobServiceStub(channel)
        base_model = upload_model(model_pb2_grpc.ModelServiceStub(channel), model)
        dataset = upload_rows(dataset_pb2_grpc.DatasetServiceStub(channel), rows)
        spec = spec_pb2.JobSpec(
            display_name="submit_and_follow.py",
            base_model={"uri": base_model.model_id},
            sft={"data": {"train": [dataset.dataset_id], "eval_fraction": 0.1}, "max_steps": 5},
        )
        job = create(jobs, spec)
        print(job.job_id)
        for event in watch(jobs, job.job_id):
            tell(event)
        job = get(jobs, job.job_id)
        if job.state != event_pb2.JOB_STATE_SUCCEEDED:
            sys.exit(f"{event_pb2.JobState.Name(job.state)}: {job.failure.message}; try: {job.failure.remedy}")
        download(jobs, job.job_id, job.result.final_checkpoint_id, folder)
        print(f"the adapter is in {folder}")


def connect(server):
    """A channel whose CreateJob and GetJob are tried again while the server is away."""
    names = [{"service": "hone.v1.JobService", "method": method} for method in ("CreateJob", "GetJob")]
    retry = {
        "maxAttempts": 5,
        "initialBackoff": "0.2s",
        "maxBackoff": "5s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    options = [
        ("grpc.service_config", json.dumps({"methodConfig": [{"name": names, "retryPolicy": retry}]})),
        # A connection that died in silence is noticed.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.max_receive_message_length", 64 << 20),
    ]
    url, token = urllib.parse.urlsplit(server), os.environ.get("HONE_TOKEN")
    if url.scheme == "http":
        if token:
            sys.exit("a token goes over https:// only")
        return grpc.insecure_channel(url.netloc, options)
    authorities = os.environ.get("HONE_CA_FILE")
    credentials = grpc.ssl_channel_credentials(pathlib.Path(authorities).read_bytes() if authorities else None)
    if token:
        credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
    return grpc.secure_channel(url.netloc, credentials, options)


def chunks(path):
    """A file in the pieces that an upload takes."""
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def sha256(path):
    """What the server is to find that it got."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def upload_model(models, path):
    """Stores a GGUF file or the files of a folder."""

    def requests():
        yield model_pb2.UploadModelRequest(header={"display_name": path.name})
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            yield model_pb2.UploadModelRequest(file={"name": file.name, "sha256": sha256(file)})
            for piece in chunks(file):
                yield model_pb2.UploadModelRequest(chunk=piece)

    return models.UploadModel(requests()).model


def upload_rows(datasets, path):
    """Stores a file of rows."""

    def requests():
        yield dataset_pb2.UploadDatasetRequest(header={"file_name": path.name, "sha256": sha256(path)})
        for piece in chunks(path):
            yield dataset_pb2.UploadDatasetRequest(chunk=piece)

    return datasets.UploadDataset(requests()).dataset


def create(jobs, spec):
    """Creates the job; the request id makes that safe to repeat when the answer is lost."""
    request = job_pb2.CreateJobRequest(spec=spec, request_id=str(uuid.uuid4()))
    return jobs.CreateJob(request, timeout=CALL_SECONDS).job


def get(jobs, job_id):
    """The job as it stands."""
    return jobs.GetJob(job_pb2.GetJobRequest(job_id=job_id), timeout=CALL_SECONDS).job


def watch(jobs, job_id, after_sequence=0):
    """The job's events after a number, each once and in order, over as many connections as it takes."""
    wait, heard = 0.2, time.monotonic()
    while True:
        try:
            for response in jobs.WatchJob(job_pb2.WatchJobRequest(job_id=job_id, after_sequence=after_sequence)):
                wait, heard = 0.2, time.monotonic()
                if response.HasField("event"):  # else it is a heartbeat
                    yield response.event
                    after_sequence = response.event.sequence  # only now is it dealt with
            if get(jobs, job_id).state in FINAL:
                return
        except grpc.RpcError as error:
            if error.code() in DEFINITE or time.monotonic() - heard > LONGEST_SILENCE_SECONDS:
                raise
            print(f"{error.code().name}: {error.details()}; asking again after event {after_sequence}", file=sys.stderr)
        time.sleep(wait)
        wait = min(2 * wait, 30)


def tell(event):
    """An event as a line; those of other kinds, and kinds that come later, are skipped."""
    match event.WhichOneof("event"):
        case "state_changed":
            print(event_pb2.JobState.Name(event.state_changed.to), event.state_changed.detail)
        case "train_step":
            loss = event.train_step.loss if event.train_step.HasField("loss") else float("nan")
            print(f"step {event.train_step.step}: loss {loss:.4f}")
        case "evaluation":
            print(f"held-out loss {event.evaluation.loss:.4f} +- {event.evaluation.loss_standard_error:.4f}")
        case "warning":
            print(f"{event.warning.code}: {event.warning.message}")


def download(jobs, job_id, checkpoint_id, folder):
    """Brings a checkpoint home: `folder` is there once every file has arrived whole."""
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True)
    announced, digests = {}, {}
    request = job_pb2.DownloadCheckpointRequest(job_id=job_id, checkpoint_id=checkpoint_id)
    for response in jobs.DownloadCheckpoint(request):
        if response.HasField("file"):
            name = pathlib.PurePath(response.file.name).name  # never a path
            announced[name], digests[name] = response.file.sha256, hashlib.sha256()
        digests[name].update(response.data)
        with (partial / name).open("ab") as file:
            file.write(response.data)
    damaged = [name for name, digest in digests.items() if digest.hexdigest() != announced[name]]
    if damaged or "manifest.json" not in announced:
        sys.exit(f"{partial} is not whole: {damaged or 'the manifest is missing'}")
    partial.rename(folder)


def explain(error):
    """What an error says beside its code and message: a reason for programs, the fields that are wrong, what to try."""
    lines = [f"{error.code().name}: {error.details()}"]
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info, request, remedy = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.Help()
        if detail.Unpack(info):
            lines.append(f"  {info.reason} {dict(info.metadata) or ''}".rstrip())
        elif detail.Unpack(request):
            lines += [f"  {field.field}: {field.description}" for field in request.field_violations]
        elif detail.Unpack(remedy):
            lines += [f"  try: {link.description}" for link in remedy.links]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(explain(error))
