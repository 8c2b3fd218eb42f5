"""The documents say what is so: their commands work, their specs are specs, and nothing that fails is left unexplained."""

import json
import re
import subprocess
import sys

import jsonschema
import pytest

import hone
import pages
from conftest import FIXTURES, MODELS


def test_every_failure_reason_and_the_warnings_it_names_have_a_section():
    """In docs/troubleshooting.md; a warning that has one is among those of docs/api.md."""
    sections = re.findall(r"^### (\w+)", pages.read("docs/troubleshooting.md"), flags=re.MULTILINE)
    reasons = re.findall(r"FAILURE_REASON_(\w+) = [1-9]", pages.read("proto/hone/v1/event.proto"))
    assert len(reasons) >= 9 and [name for name in sections if name.isupper()] == reasons
    (warnings,) = re.findall(r"^## Warnings\n(.*?)^## ", pages.read("docs/api.md"), flags=re.DOTALL | re.MULTILINE)
    assert {name for name in sections if name.islower()} <= set(re.findall(r"^\| `(\w+)`", warnings, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def schema():
    """docs/job-spec.schema.json, itself checked."""
    schema = json.loads(pages.read("docs/job-spec.schema.json"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_page_and_schema_of_the_spec_are_up_to_date():
    """scripts/spec_schema.py would write them as they are."""
    subprocess.run([sys.executable, hone.ROOT / "scripts/spec_schema.py", "--check"], check=True)


def test_every_spec_in_the_documents_fits_the_schema(schema):
    """Those that stand as JSON, and those that docs/api.md puts together in the shell."""
    written = [block for page in hone.ROOT.glob("docs/*.md") for block in pages.blocks(page, "json")]
    specs = [spec for spec in map(json.loads, written) if "base_model" in spec]
    lines = re.findall(r"^((?:SPEC|LORA|CANDIDATES)\w*)=.*$", pages.read("docs/api.md"), flags=re.MULTILINE)
    shell = [line for line in pages.read("docs/api.md").splitlines() if line.partition("=")[0] in lines]
    shell = [f"{line}\nprintf '%s\\n' \"${line.partition('=')[0]}\"" for line in shell]
    told = pages.paste("\n".join(shell), MODEL="model-1", ROWS="ds-1", SOURCE="file:///c").splitlines()
    specs += [spec for spec in map(json.loads, told) if "base_model" in spec]
    assert len(specs) >= 7
    for spec in specs:
        schema.validate(spec)


def test_specs_in_force_fit_the_schema(service, schema):
    """What the server makes of a spec, every default filled in, is a spec again."""
    model = service.upload_model(MODELS / "llama")
    rows = service.upload_rows(FIXTURES / "sft/rows.jsonl")
    for task in [
        {"sft": {"data": {"train": [rows], "eval_fraction": 0.1}, "evaluation": {"early_stopping": {}}, "max_steps": 7}},
        {"dpo": {"data": {"train": [rows]}, "losses": [{"type": "PREFERENCE_LOSS_TYPE_IPO"}]}},
        {"compare": {"candidates": [{"name": "a"}, {"name": "b"}], "data": {"rows": [rows]}}},
        {"generate": {"data": {"rows": [rows]}}},
        {"export": {}},
    ]:
        spec = in_force(service, {"base_model": {"uri": model}, **task})
        schema.validate(spec)


def in_force(service, spec, tmp=None):
    """A spec as the server reads it, without a job."""
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(spec, file)
        file.flush()
        return json.loads(service.cli("jobs", "create", "--validate-only", "--spec", file.name))["spec"]
