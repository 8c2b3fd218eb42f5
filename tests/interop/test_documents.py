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
    """client/job-spec.schema.json, itself checked."""
    schema = json.loads(pages.read("client/job-spec.schema.json"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_page_and_schema_of_the_spec_are_up_to_date():
    """scripts/spec_schema.py would write them as they are."""
    subprocess.run([sys.executable, hone.ROOT / "scripts/spec_schema.py", "--check"], check=True)


def test_every_spec_in_the_documents_fits_the_schema(schema):
    """Those that stand as JSON, and those that docs/api.md puts together in the shell."""
    written = [block for page in hone.ROOT.glob("docs/*.md") for block in pages.blocks(page, "json")]
    specs = [spec for spec in map(json.loads, written) if "base_model" in spec]
    shell = re.findall(r"^(((?:SPEC|LORA|CANDIDATES)\w*)=.*)$", pages.read("docs/api.md"), flags=re.MULTILINE)
    shell = "\n".join(f"{line}\nprintf '%s\\n' \"${name}\"" for line, name in shell)
    told = pages.paste(shell, MODEL="model-1", ROWS="ds-1", SOURCE="file:///c").splitlines()
    specs += [spec for spec in map(json.loads, told) if "base_model" in spec]  # the others are parts of these
    assert len(specs) >= 7
    for spec in specs:
        schema.validate(spec)


def test_specs_in_force_fit_the_schema(service, schema, tmp_path):
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
        schema.validate(in_force(service, {"base_model": {"uri": model}, **task}, tmp_path / "spec.json"))


ROWS = ["file:///rows.jsonl"]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"sft": {}},
        {"sft": {"data": {"train": ROWS}}, "export": {}},
        {"sft": {"data": {"train": ROWS}, "max_steps": 1, "epochs": 1}},
        {"sft": {"data": {"train": ROWS, "max_length": 1}}},
        {"sft": {"data": {"train": ROWS, "eval_fraction": 1}}},
        {"sft": {"daata": {"train": ROWS}}},
        {"sft": {"data": {"train": ROWS}, "adapter": {"lora": {"rank": "8.5"}}}},
        {"dpo": {"data": {"train": ROWS}, "beta": 0}},
        {"generate": {"data": {"rows": ROWS}, "sampling": {"top_p": 1.5}}},
        {"export": {"format": "GGUF"}},
    ],
    ids=json.dumps,
)
def test_schema_and_server_refuse_the_same(service, schema, tmp_path, wrong):
    """Names, types, ranges, what is required and what excludes what."""
    spec, path = {"base_model": {"uri": "file:///model"}}, tmp_path / "spec.json"
    in_force(service, {**spec, "sft": {"data": {"train": ROWS}}}, path)
    assert not schema.is_valid({**spec, **wrong})
    with pytest.raises(hone.HoneError):
        in_force(service, {**spec, **wrong}, path)


def in_force(service, spec, path):
    """A spec as the server reads it; no job is made."""
    path.write_text(json.dumps(spec))
    return json.loads(service.cli("jobs", "create", "--validate-only", "--spec", path))["spec"]


@pytest.fixture
def conversations(tmp_path):
    """A folder with train.jsonl and heldout.jsonl in place of the real ones."""
    with (FIXTURES / "sft/rows.jsonl").open() as file:
        pairs = [(row["prompt"], row["completion"]) for row in map(json.loads, file)]
    for name, part in [("train", pairs[:80]), ("heldout", pairs[80:])]:
        rows = [[{"role": "user", "content": asked}, {"role": "assistant", "content": said}] for asked, said in part]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return tmp_path


def test_every_command_of_the_readme_works_as_pasted(service, conversations):
    """But those that build, fetch and start a server; with a tiny model and rows in place of the real ones."""
    commands = [block for block in pages.blocks("README.md", "sh") if not block.startswith("make")]
    text = "\n".join(commands).replace("python3 scripts/fetch.py model rows\n", "")
    text = text.replace(".cache/model/SmolLM2-135M-Instruct.Q4_1.gguf", str(MODELS / "llama"))
    text = text.replace(".cache/rows/", f"{conversations}/").replace(".hone/", f"{conversations}/")
    told = pages.paste(text, HONE_SERVER=service.url)
    for words in ["hardest row", "dpo against base", "merging: model.safetensors", "merging: model.gguf"]:
        assert words in told, told
    for path in ["answers/answers.jsonl", "merged/model.safetensors", "for-llama.cpp/model.gguf"]:
        assert (conversations / path).is_file(), told


def test_every_command_of_the_tutorial_works_as_pasted(service, conversations):
    """With a tiny model and rows in place of the real ones; its first commands build and fetch what is here."""
    told = pages.paste(
        "\n".join(pages.blocks("docs/tutorial.md", "sh")[1:]),
        HONE_SERVER=service.url,
        MODEL=str(MODELS / "llama"),
        TRAIN=str(conversations / "train.jsonl"),
        HELDOUT=str(conversations / "heldout.jsonl"),
        TMPDIR=str(conversations),
    )
    for words in ["over_length_dropped", "hardest row", "dpo against base", "pairs told apart", "model.safetensors"]:
        assert words in told, told
