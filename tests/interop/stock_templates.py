"""Makes tests/fixtures/templates: chat templates as models are published with them, and what transformers and TRL make of
them. tests/fixtures/README.md describes what comes out.

The texts come from pinned packages: TRL's bundled templates, the source package of llama-cpp-python (templates and tests of
llama.cpp), guidance, and the GGUF file that `scripts/fetch.py model` fetches. A second run writes the same bytes.

SmolLM3's is llama.cpp's copy, which Unsloth edited: it has neither tools, nor the day, nor generation tags. The text as
published was in none of the packages that were searched: TRL, transformers, axolotl, unsloth, unsloth_zoo, renderers,
chat-bricks, bfcl-eval, npm's @huggingface/jinja.
"""

import argparse
import ast
import pathlib
import re
import shutil
import tarfile
import tempfile
import zipfile

import gguf
import jinja2
import trl
from transformers.utils.chat_template_utils import render_jinja_template

import packages
import reference

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LLAMA_CPP = "llama-cpp-python==0.3.36"
LLAMA_CPP_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
GUIDANCE = "guidance==0.3.1"
GUIDANCE_SHA256 = "6d69dee7fb9ca3d5d50928571a5a34a6fb4de92d454c6dcfccd805501ee6987f"
GGUF_FILE = ROOT / ".cache/model/SmolLM2-135M-Instruct.Q4_1.gguf"

# Templates of TRL; those with True have a variant with generation tags, whose spans are recorded.
TRL = {
    "llama3": True,
    "llama3_1": False,
    "llama3_2": False,
    "gemma": True,
    "gemma3": True,
    "qwen2_5": True,
    "qwen3": True,
    "qwen3_instruct_2507": True,
    "phi3": True,
    "phi3_5": True,
}
# Templates of llama.cpp: files, and texts in a test by the name that the test gives them.
FILES = {"smollm3": "HuggingFaceTB-SmolLM3-3B", "mistral_nemo": "mistralai-Mistral-Nemo-Instruct-2407"}
NAMED = {
    "mistral_v1": "mistralai/Mistral-7B-Instruct-v0.2 (mistralai 'v1' template with a system prompt)",
    "mistral_v3": "Mistral-Large-Instruct-2407 (mistralai 'v3' template; modified to have system prompt at start)",
    "mistral_v7": "mistralai/Mistral-Large-Instruct-2411 (mistralai 'v7' template)",
    "phi4": "phi-4",
}
# Tokens that the templates write by name.
TOKENS = {
    "llama": ("<|begin_of_text|>", "<|eot_id|>"),
    "gemma": ("<bos>", "<eos>"),
    "qwen": (None, "<|im_end|>"),
    "phi3": ("<s>", "<|endoftext|>"),
    "phi4_mini": ("<|endoftext|>", "<|endoftext|>"),
    "phi4": ("<|endoftext|>", "<|im_end|>"),
    "smollm": ("<|im_start|>", "<|im_end|>"),
    "mistral": ("<s>", "</s>"),
}

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


def call(a, b):
    """A turn that calls the tool, with the nine-letter id that Mistral asks for."""
    function = {"name": "add", "arguments": {"a": a, "b": b}}
    return {"role": "assistant", "content": "", "tool_calls": [{"id": "call00001", "type": "function", "function": function}]}


def said(role, content, **more):
    """A message."""
    return {"role": role, "content": content, **more}


CONVERSATIONS = {
    "one_turn": {"messages": [said("user", "Hi"), said("assistant", "Hello!")]},
    "two_turns": {
        "messages": [
            said("user", "Capital of France?"),
            said("assistant", "Paris"),
            said("user", "And of Japan?"),
            said("assistant", "Tokyo.\n\nIt was Edo."),
        ]
    },
    "system_and_two_turns": {
        "messages": [
            said("system", "Answer in one word."),
            said("user", "Capital of France?"),
            said("assistant", "Paris"),
            said("user", "And of Japan?"),
            said("assistant", "Tokyo"),
        ]
    },
    "repeated_answer": {
        "messages": [
            said("user", "Say Paris"),
            said("assistant", "Paris"),
            said("user", "Paris"),
            said("assistant", "Paris"),
            said("user", "Paris"),
            said("assistant", "Paris"),
        ]
    },
    "ends_with_user": {"messages": [said("user", "Hi"), said("assistant", "Hello!"), said("user", "How are you?")]},
    "thinking": {
        "messages": [
            said("user", "2 + 2?"),
            said("assistant", "<think>\nTwo and two.\n</think>\n\n4"),
            said("user", "And 3 + 3?"),
            said("assistant", "<think>\nThree and three.\n</think>\n\n6"),
        ]
    },
    "not_thinking": {
        "messages": [said("user", "2 + 2?"), said("assistant", "4"), said("user", "And 3 + 3?"), said("assistant", "6")],
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "tools": {
        "messages": [
            said("user", "Add 1 and 2, please."),
            call(1, 2),
            said("tool", "3", tool_call_id="call00001"),
            said("assistant", "It is 3."),
            said("user", "And 3 and 4?"),
            call(3, 4),
            said("tool", "7", tool_call_id="call00001"),
            said("assistant", "It is 7."),
        ],
        "tools": [TOOL],
    },
}
# Conversations for the families that know what they are about; a template that is not asked would write nonsense.
ONLY = {"thinking": ("qwen3",), "not_thinking": ("qwen3", "smollm3"), "tools": ("llama3_1", "llama3_2", "qwen", "mistral_nemo", "mistral_v3")}
# The day that Llama's templates write, so that it is the same every day.
KWARGS = {"llama3_1": {"date_string": "26 Jul 2024"}, "llama3_2": {"date_string": "26 Jul 2024"}}


def texts():
    """Every template by name, with the variant that has generation tags where there is one."""
    bundled = pathlib.Path(trl.__file__).parent / "chat_templates"
    found = {name: (bundled / f"{name}.jinja").read_text() for name in TRL}
    tagged = {name: (bundled / f"{name}_training.jinja").read_text() for name, has in TRL.items() if has}
    found |= from_llama_cpp()
    found["phi4_mini"] = from_guidance("phi_4_mini_template")
    found["smollm2"] = str(gguf.GGUFReader(GGUF_FILE).fields["tokenizer.chat_template"].contents())
    return found, tagged


def from_llama_cpp():
    """Templates out of the source package of llama-cpp-python."""
    # Wheels hold neither templates nor tests.
    options = ("--no-binary", "llama-cpp-python")
    with (
        tempfile.TemporaryDirectory() as scratch,
        tarfile.open(packages.fetch(LLAMA_CPP, LLAMA_CPP_SHA256, scratch, *options)) as archive,
    ):
        root = archive.getnames()[0].split("/")[0] + "/vendor/llama.cpp"

        def read(path):
            return archive.extractfile(f"{root}/{path}").read().decode()

        found = {name: read(f"models/templates/{file}.jinja") for name, file in FILES.items()}
        test = read("tests/test-chat-template.cpp")
    for name, title in NAMED.items():
        literal = re.search(re.escape(f'"{title}",') + r'\s*/\* \.template_str= \*/ ("(?:[^"\\]|\\.)*")', test)
        found[name] = ast.literal_eval(literal[1])
    return found


def from_guidance(variable):
    """A template out of guidance, which copied it from the model's tokenizer_config.json: a string of its chat.py."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        zipfile.ZipFile(packages.fetch(GUIDANCE, GUIDANCE_SHA256, scratch, "--only-binary", ":all:")) as wheel,
    ):
        tree = ast.parse(wheel.read("guidance/chat.py"))
    assignments = (node for node in tree.body if isinstance(node, ast.Assign))
    (text,) = (node.value for node in assignments if ast.unparse(node.targets[0]) == variable)
    return ast.literal_eval(text)


def tokens(name):
    """BOS and EOS of the model that a template belongs to: of the longest name that it begins with."""
    return TOKENS[max((family for family in TOKENS if name.startswith(family)), key=len)]


def cases(name, text, tagged):
    """Every conversation as transformers renders it, or the message of the error that the template raises."""
    bos, eos = tokens(name)
    special = {"bos_token": bos, "eos_token": eos}
    special = {key: token for key, token in special.items() if token is not None}
    for case, conversation in CONVERSATIONS.items():
        if case in ONLY and not name.startswith(ONLY[case]):
            continue
        messages, tools = conversation["messages"], conversation.get("tools")
        kwargs = {**KWARGS.get(name, {}), **conversation.get("chat_template_kwargs", {})}
        record = {"name": case, "messages": messages, "tools": tools, "chat_template_kwargs": kwargs}

        def render(template, spans=False, prompt=False):
            return render_jinja_template(
                [messages],
                tools=tools,
                chat_template=template,
                return_assistant_tokens_mask=spans,
                add_generation_prompt=prompt,
                **special,
                **kwargs,
            )

        try:
            record["rendered"] = render(text)[0][0]
            record["rendered_with_generation_prompt"] = render(text, prompt=True)[0][0]
        except jinja2.TemplateError as error:
            yield {**record, "error": str(error)}
            continue
        if tagged:
            rendered, spans = render(tagged, spans=True)
            # Qwen3's variant keeps the thinking of earlier turns, so it may say something else.
            if rendered[0] == record["rendered"]:
                record["spans"] = [rendered[0][start:end] for start, end in spans[0]]
        yield record


def main():
    """Makes the folder anew, then puts it in place of the old one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/fixtures/templates")
    out = parser.parse_args().out
    found, tagged = texts()
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        fresh = pathlib.Path(scratch, "templates")
        fresh.mkdir()
        for name, text in sorted(found.items()):
            bos, eos = tokens(name)
            (fresh / f"{name}.jinja").write_text(text)
            record = {"bos_token": bos, "eos_token": eos, "conversations": list(cases(name, text, tagged.get(name)))}
            reference.write_json(fresh / f"{name}.json", record)
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(fresh, out)


if __name__ == "__main__":
    main()
