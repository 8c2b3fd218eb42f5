#!/usr/bin/env python3
"""Writes what the protos say of a job's spec: docs/spec.md for people, client/job-spec.schema.json for editors.

    spec_schema.py            writes both
    spec_schema.py --check    writes nothing and fails when one of them is out of date

Takes the descriptors, with their comments, from buf (scripts/fetch.py buf). Allowed ranges and defaults in the schema are read
out of the comments, where they stand in a few fixed phrases.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/spec.md"
SCHEMA = ROOT / "client/job-spec.schema.json"

INTRODUCTION = """\
# The spec of a job

What a job may be asked to do, field by field: `hone.v1.JobSpec` in the protobuf JSON that grpcurl takes, and in the files of `hone train --spec FILE` and `hone jobs create --spec FILE`.
`scripts/spec_schema.py` writes this page and [job-spec.schema.json](../client/job-spec.schema.json) from `proto/hone/v1/spec.proto`; `make lint` fails when they are out of date.

```json
{
  "display_name": "first try",
  "base_model": {"uri": "s3://models/SmolLM2-135M-Instruct"},
  "sft": {
    "data": {"train": ["s3://rows/train.jsonl"], "eval_fraction": 0.1},
    "adapter": {"lora": {"rank": 8}},
    "optimizer": {"learning_rate": 1e-4},
    "epochs": 2
  }
}
```

A file may be JSON, YAML or TOML (`.json`, `.yaml`, `.toml`): names and values are the same in all three.
`hone init sft` writes `sft.yaml` with every setting, its meaning and its default, and `hone train sft --spec sft.yaml` runs it; `hone init sft sft.toml` writes TOML, and a name that ends in `.json` gets what is required alone, since JSON has no room for comments:

- a flag beside `--spec` goes before what the file says, a list as a whole: `hone train sft --spec sft.yaml --learning-rate 1e-4`;
- models and rows may be local paths, which are uploaded first, and checkpoints may be `JOB` or `JOB/CHECKPOINT`, as with flags;
- `--dry-run` checks the file and shows it with every default filled in.

In all notations:

- Every field is optional unless it says that it is required; what is left out takes the default written beside it, and the job shows the spec in force (`hone jobs get`).
- `hone jobs create --validate-only --spec FILE` checks a spec and shows it with every default filled in, and creates nothing.
- The server reads field names in both spellings, `base_model` and `baseModel`; the schema knows the first.
- A 64-bit integer may also be written as text, `"7"`, and is read back so.
- Fields that exclude each other are named under their table.

Beside the file `hone init` puts `job-spec.schema.json`, and the file names it, so that an editor that knows JSON Schema (draft 2020-12) completes and checks what is written; in a file of one's own it is a line at its beginning:

| notation | line | read by |
|---|---|---|
| YAML | `# yaml-language-server: $schema=job-spec.schema.json` | yaml-language-server, which VS Code's YAML extension and others start |
| TOML | `#:schema job-spec.schema.json` | Taplo |
| JSON | `"$schema": "job-spec.schema.json",` as the first member | VS Code and others |

It knows names, types and ranges; what depends on another field, such as `beta1` with SGD, is refused by the server, and by `hone train` before it uploads anything.
"""

INTEGERS = {"TYPE_INT32", "TYPE_UINT32", "TYPE_INT64", "TYPE_UINT64"}
NUMBER = r"(\d+(?:\.\d+)?(?:e-?\d+)?)(?![\w.]*\w)"


def main():
    """Writes both files, or says which one is out of date."""
    messages, enums = descriptors()
    reached = reachable("JobSpec", messages)
    made = {PAGE: page(reached, messages, enums), SCHEMA: json.dumps(schema(reached, messages, enums), indent=2) + "\n"}
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        names = " and ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"{names}: out of date with the protos; run scripts/spec_schema.py" if stale else 0)
    for path in stale:
        path.write_text(made[path])


def descriptors():
    """Messages and enums of hone.v1 by name, each with its comments under `about`."""
    buf = ROOT / ".cache/bin/buf"
    command = [buf, "build", "--path", "hone/v1/spec.proto", "--output", "-#format=json"]
    image = json.loads(subprocess.run(command, cwd=ROOT / "proto", check=True, capture_output=True).stdout)
    (file,) = (file for file in image["file"] if file["name"] == "hone/v1/spec.proto")
    comments = {
        tuple(place["path"]): " ".join(place["leadingComments"].split())
        for place in file["sourceCodeInfo"]["location"]
        if "leadingComments" in place
    }

    def annotate(items, *path):
        for number, item in enumerate(items):
            item["about"] = comments.get((*path, number), "")
        return items

    # The numbers are those of the fields in descriptor.proto.
    for number, message in enumerate(annotate(file["messageType"], 4)):
        annotate(message.get("field", []), 4, number, 2)
        annotate(message.get("oneofDecl", []), 4, number, 8)
    for number, enum in enumerate(annotate(file["enumType"], 5)):
        annotate(enum["value"], 5, number, 2)
    return tuple({item["name"]: item for item in file[kind]} for kind in ("messageType", "enumType"))


def reachable(name, messages):
    """Names of what a spec is made of, the outer before the inner."""
    found, waiting = [], [name]
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found.append(name)
            fields = messages[name].get("field", []) if name in messages else []
            waiting += [type_of(field) for field in fields if "typeName" in field and not is_map(field)]
    return found


def type_of(field):
    """Name of a field's message or enum."""
    return field["typeName"].rpartition(".")[2]


def is_map(field):
    """Whether it is a map; the one kind in the spec is of texts."""
    return field.get("typeName", "").endswith("Entry")


def choices(message):
    """Fields of which at most one may be set, with what is said of them."""
    for number, oneof in enumerate(message.get("oneofDecl", [])):
        fields = [field for field in message["field"] if field.get("oneofIndex") == number]
        if not any(field.get("proto3Optional") for field in fields):
            yield [field["name"] for field in fields], oneof["about"]


def is_required(about):
    """Whether a comment says so."""
    return re.search(r"\bRequired\b", about) is not None


# The page


def page(reached, messages, enums):
    """docs/spec.md."""
    parts = [INTRODUCTION]
    for name in reached:
        part = message_table(messages[name]) if name in messages else enum_table(enums[name])
        parts.append(f"## {name}\n\n{part}")
    return "\n".join(parts)


def message_table(message):
    """What a message is, its fields, and which of them exclude each other."""
    text = sentences(message["about"])
    if fields := message.get("field"):
        rows = [f"| `{field['name']}` | {type_words(field)} | {cell(field['about'])} |\n" for field in fields]
        text += "\n| field | type | meaning |\n|---|---|---|\n" + "".join(rows)
    for names, about in choices(message):
        named = ", ".join(f"`{name}`" for name in names)
        text += f"\n{'One' if is_required(about) else 'At most one'} of {named}: {about[0].lower()}{about[1:]}\n"
    return text


def enum_table(enum):
    """What an enum is and its values."""
    rows = [f"| `{value['name']}` | {cell(value['about'])} |\n" for value in enum["value"]]
    return sentences(enum["about"]) + "\n| value | meaning |\n|---|---|\n" + "".join(rows)


def sentences(text):
    """One a line."""
    return re.sub(r"(?<=[a-z)`]\.) (?=[A-Z])", "\n", text) + "\n"


def cell(text):
    """Text for a table."""
    return text.replace("|", "\\|")


def type_words(field):
    """A field's type, for people."""
    if is_map(field):
        return "map of texts"
    if "typeName" in field:
        name = type_of(field)
        words = f"[{name}](#{name.lower()})"
    else:
        plain = {"TYPE_STRING": "text", "TYPE_BOOL": "true or false", "TYPE_DOUBLE": "number"}
        words = "integer" if field["type"] in INTEGERS else plain[field["type"]]
    return f"list of {words}{'' if 'typeName' in field else 's'}" if field["label"] == "LABEL_REPEATED" else words


# The schema


def schema(reached, messages, enums):
    """client/job-spec.schema.json."""
    definitions = {
        name: message_schema(messages[name]) if name in messages else enum_schema(enums[name]) for name in reached
    }
    own = {"description": "Where this schema is. Of no meaning to hone.", "type": "string"}
    definitions["JobSpec"]["properties"]["$schema"] = own
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hone.v1.JobSpec",
        "$ref": "#/$defs/JobSpec",
        "$defs": definitions,
    }


def message_schema(message):
    """Its fields and no others, what is required, and what excludes what."""
    fields = message.get("field", [])
    made = {
        "description": message["about"],
        "type": "object",
        "properties": {field["name"]: field_schema(field) for field in fields},
        "additionalProperties": False,
    }
    if required := [field["name"] for field in fields if is_required(field["about"])]:
        made["required"] = required
    if exclusions := [choice_schema(names, is_required(about)) for names, about in choices(message)]:
        made["allOf"] = exclusions
    return made


def choice_schema(names, required):
    """Exactly one of these fields, or at most one."""
    each = [{"required": [name]} for name in names]
    return {"oneOf": each if required else [*each, {"not": {"anyOf": each}}]}


def enum_schema(enum):
    """One of its names."""
    values = [{"const": value["name"], "description": value["about"]} for value in enum["value"]]
    return {"description": enum["about"], "oneOf": values}


def field_schema(field):
    """A field's type, with what its comment says."""
    about = {"description": field["about"]}
    if is_map(field):
        return {**about, "type": "object", "additionalProperties": {"type": "string"}}
    if field["label"] == "LABEL_REPEATED":
        return {**about, "type": "array", "items": value_schema(field)}
    return {**about, **value_schema(field), **default(field)}


def value_schema(field):
    """The type of one value."""
    kind = field["type"]
    if "typeName" in field:
        return {"$ref": f"#/$defs/{type_of(field)}"}
    if kind in ("TYPE_STRING", "TYPE_BOOL"):
        return {"type": {"TYPE_STRING": "string", "TYPE_BOOL": "boolean"}[kind]}
    if kind == "TYPE_DOUBLE":
        return {"type": "number", **bounds(field["about"])}
    number = {"type": "integer", "minimum": 0, **bounds(field["about"])}
    # As protobuf's JSON writes 64-bit integers.
    return {"anyOf": [number, {"type": "string", "pattern": "^[0-9]+$"}]} if "64" in kind else number


def bounds(about):
    """The range that a comment states."""
    phrases = {
        rf"\b{NUMBER} to below {NUMBER}": ("minimum", "exclusiveMaximum"),
        rf"\b{NUMBER} to {NUMBER}": ("minimum", "maximum"),
        rf"\bAbove {NUMBER}, at most {NUMBER}": ("exclusiveMinimum", "maximum"),
        rf"\bAbove {NUMBER}, below {NUMBER}": ("exclusiveMinimum", "exclusiveMaximum"),
        rf"\bAbove {NUMBER}": ("exclusiveMinimum",),
        rf"\bAt least {NUMBER}": ("minimum",),
        rf"\bAt most {NUMBER}": ("maximum",),
    }
    for phrase, names in phrases.items():
        if found := re.search(phrase, about):
            return dict(zip(names, map(number, found.groups())))
    return {}


def default(field):
    """The default that a comment states as a plain value; others it explains."""
    if field["type"] == "TYPE_BOOL":
        return {"default": False} if re.search(r"Default(?: off|: it is counted)", field["about"]) else {}
    found = re.search(rf"Default {NUMBER}(?:[.:]|$)", field["about"])
    return {"default": number(found[1])} if found else {}


def number(text):
    """As JSON writes it."""
    value = float(text)
    return int(value) if value.is_integer() else value


if __name__ == "__main__":
    main()
