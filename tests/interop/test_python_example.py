"""examples/python, with stubs generated as docs/python.md says: against a real server, over TLS, across a restart."""

import contextlib
import json
import os
import shutil
import subprocess
import sys

import pytest

import hone
import pages
from conftest import FIXTURES, MODELS

PAGE = "docs/python.md"
FOLDER = hone.ROOT / "examples/python"
EXAMPLE = FOLDER / "submit_and_follow.py"
MODEL = MODELS / "llama"
ROWS = FIXTURES / "sft/rows.jsonl"


@pytest.fixture(scope="session", autouse=True)
def stubs():
    """Generated as the page says; its first command installs what this environment has."""
    _, generate, *_ = pages.blocks(PAGE, "sh")
    pages.paste(generate)


def run(*arguments, **environment):
    """Runs the example to its end."""
    command = [sys.executable, EXAMPLE, *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


def test_every_command_of_the_page_works_as_pasted(service, tmp_path):
    """The example trains, tells every step, and its adapter is the one that the command line downloads."""
    commands = "\n".join(pages.blocks(PAGE, "sh")[1:])
    told = pages.paste(
        commands, HONE_SERVER=service.url, MODEL=str(MODEL), ROWS=str(ROWS), FOLDER=str(tmp_path / "adapter")
    )
    for words in ["JOB_STATE_SUCCEEDED", "step 5: loss ", "held-out loss "]:
        assert words in told
    job_id = next(line for line in told.splitlines() if line.startswith("job-"))
    other = service.download(job_id, tmp_path / "other")
    files = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    assert files == {path.name: path.read_bytes() for path in other.iterdir()}
    assert "adapter_model.safetensors" in files


def test_the_page_shows_the_example_s_own_lines():
    """What the page quotes of the example stands in it."""
    (quoted,) = pages.blocks(PAGE, "python")
    lines = [line.strip() for line in quoted.splitlines()]
    assert "\n".join(lines) in "\n".join(line.strip() for line in EXAMPLE.read_text().splitlines())


def test_an_error_is_explained_with_its_reason_and_its_fields(service, tmp_path):
    """A file name that is not allowed is refused by field."""
    rows = tmp_path / "rows.txt"
    rows.write_text('{"text": "x"}\n')
    done = run(MODEL, rows, tmp_path / "adapter", HONE_SERVER=service.url)
    assert done.returncode == 1
    for words in ["INVALID_ARGUMENT", "INVALID_FIELDS", "header.file_name: "]:
        assert words in done.stderr


def test_a_watch_goes_on_where_it_was_when_the_server_comes_back(tmp_path):
    """Every event comes once and in order, although the server was stopped in between."""
    script = "import submit_and_follow as it, sys\n"
    script += "with it.connect(sys.argv[1]) as channel:\n"
    script += "    for event in it.watch(it.job_pb2_grpc.JobServiceStub(channel), sys.argv[2]):\n"
    script += "        print(event.sequence, event.WhichOneof('event'), flush=True)\n"
    with contextlib.ExitStack() as stack:
        with hone.service(tmp_path) as service:
            spec = hone.sft_spec(service.upload_model(MODEL), service.upload_rows(ROWS), max_steps=60)
            command = [sys.executable, "-c", script, service.url, service.create(spec)]
            watch = stack.enter_context(
                subprocess.Popen(command, cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
            events = []
            while "train_step" not in (events[-1] if events else ""):
                events.append(watch.stdout.readline().strip())
        with hone.service(tmp_path, listen=service.url.removeprefix("http://")):
            rest, errors = watch.communicate(timeout=120)
    events += rest.splitlines()
    assert "asking again after event " in errors
    assert [int(event.split()[0]) for event in events] == list(range(1, len(events) + 1))
    assert sum(event.endswith("train_step") for event in events) == 60


def test_the_example_speaks_tls_and_sends_its_token(tmp_path):
    """With the right token it trains; with none it is told so."""
    certificate, key, tokens = (tmp_path / name for name in ("cert.pem", "key.pem", "tokens"))
    if not shutil.which("openssl"):
        pytest.skip("openssl, which makes the certificate, is not installed")
    config = tmp_path / "openssl.cnf"
    config.write_text("[req]\ndistinguished_name=name\nx509_extensions=own\n[name]\n[own]\nsubjectAltName=IP:127.0.0.1\n")
    making = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=hone"]
    making += ["-config", config, "-keyout", key, "-out", certificate]
    subprocess.run(making, check=True, capture_output=True)
    made = subprocess.run(
        [hone.binary("hone-server"), "token", "test", "--project", "p", "--role", "submit"],
        check=True,
        capture_output=True,
        text=True,
    )
    tokens.write_text(made.stderr)
    with hone.service(
        tmp_path / "data", "--tls-cert", certificate, "--tls-key", key, "--token-file", tokens
    ) as service:
        reach = {"HONE_SERVER": service.url.replace("http:", "https:"), "HONE_CA_FILE": str(certificate)}
        done = run(MODEL, ROWS, tmp_path / "adapter", **reach, HONE_TOKEN=made.stdout.strip())
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["peft_type"] == "LORA"
        refused = run(MODEL, ROWS, tmp_path / "no", **reach)
    assert "UNAUTHENTICATED" in refused.stderr and "TOKEN_REQUIRED" in refused.stderr
