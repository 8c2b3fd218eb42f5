"""Writes the inputs of corpus/ that were made by hand: real files of the fixtures, cut to what is parsed, and hostile ones.

Names tell what an input is; files named by a digest were found by the fuzzers. Run it from anywhere: python3 fuzz/seeds.py
"""

import gzip
import json
import shutil
import struct
from pathlib import Path

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "tests" / "fixtures"


def write(target, name, content):
    path = HERE / "corpus" / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def text(value):
    return json.dumps(value, ensure_ascii=False)


# Protocol buffers, as far as they are needed here: a field is a number and an int, float, text, or bytes of a message.
def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def message(*fields):
    out = b""
    for number, value in fields:
        if isinstance(value, bool) or isinstance(value, int):
            out += varint(number << 3) + varint(value % (1 << 64))
        elif isinstance(value, float):
            out += varint(number << 3 | 1) + struct.pack("<d", value)
        else:
            content = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(content)) + content
    return out


def rows():
    pairs = (FIXTURES / "dpo/pairs.jsonl").read_text().splitlines()
    write("jsonl", "pairs", pairs[0] + "\n" + pairs[1] + "\n")
    user, assistant = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for name, row in {
        "text": {"text": "wörld \u0000"},
        "completion": {"prompt": "a", "completion": "b"},
        "chat": {"messages": [user, assistant], "tools": [tool], "chat_template_kwargs": {"enable_thinking": False}},
        "chat_completion": {"prompt": [user], "completion": [assistant]},
        "tools_as_text": {"messages": [user, {**assistant, "tool_calls": [tool]}], "tools": text([tool])},
        "share_gpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"},
        "alpaca": {"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]]},
        "tokens": {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "attention_mask": [1, 1, 1]},
        "masks": {"input_ids": [1, 2], "completion_mask": [0, 1], "assistant_masks": [False, True]},
        "pair_of_texts": {"prompt": "a", "chosen": "ab", "rejected": "ac"},
        "pair_of_chats": {"chosen": [user, assistant], "rejected": [user, {**assistant, "content": "no"}]},
        "ids_out_of_range": {"input_ids": [4294967295, 4294967296, -1, 1.5]},
        "noncharacters": {"messages": [{"role": "user", "content": "\ufdd0\ufdd1"}, assistant]},
    }.items():
        write("jsonl", name, text(row) + "\n")
    write("jsonl", "byte_order_mark", b"\xef\xbb\xbf{\"text\": \"a\"}\r\n\r\n{}")
    write("jsonl", "numbers", '{"text": 1e999}\n{"text": -0.0, "a": 123456789012345678901234567890}\n{"a": NaN}\n')
    write("jsonl", "not_utf8", b'{"text": "\xff\xfe"}\n{"text": "\\ud800"}\n')
    write("jsonl", "deep", "[" * 5000 + "\n" + '{"a":' * 5000 + "1" + "}" * 5000)
    bomb = gzip.compress(b"a" * (64 << 20), mtime=0)
    write("jsonl", "line_of_64_MiB.gz", bomb)
    write("jsonl", "a_million_lines.gz", gzip.compress(b"[]\n" * (1 << 20), mtime=0))
    write("jsonl", "packed_twice.gz", gzip.compress(bomb, mtime=0))
    write("jsonl", "cut.gz", bomb[:1000])
    # A Zstandard frame of one block that repeats a byte, 128 KiB each, in a window of more than is allowed.
    blocks = b"".join(struct.pack("<I", (128 << 10) << 3 | 2 | (index == 511))[:3] + b"a" for index in range(512))
    write("jsonl", "line_of_64_MiB.zst", b"\x28\xb5\x2f\xfd\x00\x58" + blocks)
    write("jsonl", "window_of_2_GiB.zst", b"\x28\xb5\x2f\xfd\x00\xa8" + blocks[:8])
    shutil.copy(FIXTURES / "rows/pyarrow.parquet", HERE / "corpus/jsonl/pyarrow.parquet")


def parquet():
    real = (FIXTURES / "rows/pyarrow.parquet").read_bytes()
    write("parquet", "pyarrow", real)
    write("parquet", "cut", real[:-100])
    write("parquet", "footer_of_4_GiB", real[:-8] + b"\xff\xff\xff\xffPAR1")
    # Thrift, compact: version, schema of a root without columns, row count, one row group without columns.
    rows = b"\xfe" + b"\xff" * 8 + b"\x01"  # 2^63 - 1, zigzag
    footer = b"\x15\x02" + b"\x19\x1c\x48\x01r\x15\x00\x00" + b"\x16" + rows
    footer += b"\x19\x1c" + b"\x19\x0c" + b"\x16\x00" + b"\x16" + rows + b"\x00" + b"\x00"
    write("parquet", "rows_without_columns", b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1")
    lists = b"\x15\x02\x19\xfc\xff\xff\xff\xff\x0f"
    write("parquet", "a_schema_of_2_to_the_32", b"PAR1" + lists + struct.pack("<I", len(lists)) + b"PAR1")


def gguf_text(value):
    content = value.encode()
    return struct.pack("<Q", len(content)) + content


def gguf(pairs, tensors=b"", num_tensors=0, num_pairs=None):
    count = len(pairs) if num_pairs is None else num_pairs
    head = b"GGUF" + struct.pack("<IQQ", 3, num_tensors, count)
    return head + b"".join(gguf_text(key) + value for key, value in pairs) + tensors


def tensor(name, dims, kind, offset):
    return gguf_text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def ggufs():
    u32, array = lambda value: struct.pack("<II", 4, value), lambda kind, count: struct.pack("<IIQ", 9, kind, count)
    string = lambda value: struct.pack("<I", 8) + gguf_text(value)
    for path in (FIXTURES / "gguf").glob("*.gguf"):
        data = path.read_bytes()
        # Up to the tensors' data, which is behind the last of their descriptions.
        last = max(data.rfind(name) for name in [b"output_norm.weight", b"token_embd.weight", b"ffn_up.weight", b"attn_output.weight", b"ffn_norm.weight"])
        write("gguf", path.stem, data[: last + 96])
    llama = [("general.architecture", string("llama"))]
    sizes = {"block_count": 1, "context_length": 64, "embedding_length": 8, "feed_forward_length": 8, "attention.head_count": 2}
    shape = lambda **more: llama + [(f"llama.{key}", u32(value)) for key, value in {**sizes, **more}.items()]
    embedding = tensor("token_embd.weight", [8, 8], 0, 0)
    write("gguf", "tiny", gguf(shape(), embedding, 1))
    write("gguf", "a_billion_layers", gguf(shape(block_count=10**9), embedding, 1))
    write("gguf", "a_context_of_2_to_the_32", gguf(shape(context_length=2**32 - 1), embedding, 1))
    write("gguf", "no_heads", gguf(shape(**{"attention.head_count": 0}), embedding, 1))
    write("gguf", "vocabulary_of_2_to_the_31", gguf(shape(), tensor("token_embd.weight", [8, 2**31], 0, 0), 1))
    write("gguf", "sizes_that_overflow", gguf(shape(), tensor("token_embd.weight", [2**32, 2**32], 0, 0), 1))
    write("gguf", "nothing_of_everything", gguf(shape(), tensor("token_embd.weight", [2**63, 0], 0, 0), 1))
    write("gguf", "offset_of_2_to_the_64", gguf(shape(), tensor("token_embd.weight", [8, 8], 0, 2**64 - 32), 1))
    write("gguf", "65536_dimensions", gguf(shape(), gguf_text("a") + struct.pack("<I", 65536), 1))
    write("gguf", "tensors_without_end", gguf([], b"", 2**64 - 1))
    write("gguf", "pairs_without_end", gguf([], num_pairs=2**63))
    write("gguf", "key_of_2_to_the_63", b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63))
    write("gguf", "array_of_2_to_the_62", gguf([("a", array(10, 2**62))]))
    nested = b"".join(struct.pack("<IQ", 9, 1) for _ in range(1000))
    write("gguf", "arrays_in_arrays", gguf([("a", struct.pack("<I", 9) + nested)]))
    for value in [0, 3, 2**31]:
        write("gguf", f"alignment_of_{value}", gguf([("general.alignment", u32(value))] + shape(), embedding, 1))
    # A tokenizer whose pieces are made of one another.
    words = ["<s>", *["a" * n for n in range(1, 40)]]
    strings = array(8, len(words)) + b"".join(gguf_text(word) for word in words)
    scores = array(6, len(words)) + struct.pack(f"<{len(words)}f", *([float("nan"), float("inf")] * 20))
    spm = [("tokenizer.ggml.model", string("llama")), ("tokenizer.ggml.tokens", strings), ("tokenizer.ggml.scores", scores)]
    write("gguf", "pieces_and_scores", gguf(shape_with(shape(), spm + [("tokenizer.ggml.bos_token_id", u32(0))]), embedding, 1))
    write("gguf", "bos_out_of_range", gguf(shape_with(shape(), spm + [("tokenizer.ggml.bos_token_id", u32(2**32 - 1))]), embedding, 1))
    twice = array(8, 2) + gguf_text("a") * 2
    bpe = [("tokenizer.ggml.model", string("gpt2")), ("tokenizer.ggml.tokens", twice), ("tokenizer.ggml.merges", array(8, 1) + gguf_text("a a"))]
    write("gguf", "a_token_twice", gguf(shape_with(shape(), bpe), embedding, 1))


def shape_with(shape, more):
    return shape + more


def safetensors():
    def file(header, data=b"", length=None):
        content = header.encode() if isinstance(header, str) else text(header).encode()
        return struct.pack("<Q", len(content) if length is None else length) + content + data

    real = (FIXTURES / "models/qwen3/model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", real[:8])
    write("safetensors", "header_of_a_model", real[: 8 + length])
    index = (FIXTURES / "models/llama/model.safetensors.index.json").read_bytes()
    write("safetensors", "index_of_a_model", index)
    of = lambda dtype, shape, begin, end: {"a": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}
    write("safetensors", "one", file(of("F32", [2], 0, 8), b"\0" * 8))
    write("safetensors", "nan_and_inf", file(of("F32", [2], 0, 8), struct.pack("<2f", float("nan"), float("inf"))))
    write("safetensors", "unknown_type", file(of("F8_E4M3", [2, 2], 0, 4), b"\0" * 4))
    write("safetensors", "header_of_2_to_the_64", file("{}", length=2**64 - 1))
    write("safetensors", "header_of_the_most", file("{}", length=100_000_000))
    write("safetensors", "offsets_the_wrong_way", file(of("F32", [2], 8, 0), b"\0" * 8))
    write("safetensors", "offset_of_2_to_the_64", file(of("F32", [2], 2**64 - 8, 2**64 - 1), b"\0" * 8))
    write("safetensors", "negative_offset", file(of("F32", [2], -8, 0), b"\0" * 8))
    write("safetensors", "sizes_that_overflow", file(of("F32", [2**32, 2**32], 0, 0)))
    write("safetensors", "nothing_of_everything", file(of("F32", [0, 2**63], 0, 0)))
    write("safetensors", "negative_size", file(of("F32", [-1], 0, 4), b"\0" * 4))
    write("safetensors", "deep", file("[" * 10000))
    write("safetensors", "named_twice", file('{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{}}', b"\0" * 4))
    for name, other in {"above": "../model.safetensors", "elsewhere": "/etc/passwd", "hidden": ".a", "itself": "model.safetensors.index.json", "dot": "."}.items():
        write("safetensors", f"index_of_a_file_{name}", text({"weight_map": {"a": other}}))


def config_json():
    for path in (FIXTURES / "models").glob("*/config.json"):
        write("config_json", path.parent.name, path.read_bytes())
    llama = json.loads((FIXTURES / "models/llama/config.json").read_text())
    phi3 = json.loads((FIXTURES / "models/phi3_longrope/config.json").read_text())
    least, most = -(2**63), 2**63 - 1
    for name, changes in {
        "vocabulary_of_2_to_the_31": {"vocab_size": 2**31},
        "a_billion_layers": {"num_hidden_layers": 10**9},
        "negative_layers": {"num_hidden_layers": least},
        "layers_to_the_limit": {"num_hidden_layers": 1024},
        "width_of_2_to_the_63": {"hidden_size": most},
        "no_heads": {"num_attention_heads": 0, "head_dim": None},
        "least_heads": {"num_attention_heads": least, "hidden_size": least, "head_dim": None},
        "no_key_heads": {"num_key_value_heads": 0},
        "window_of_minus_one": {"architectures": ["MistralForCausalLM"], "sliding_window": -1},
        "window_of_2_to_the_63": {"architectures": ["MistralForCausalLM"], "sliding_window": most},
        "huge_theta": {"rope_parameters": {"rope_theta": 1.7e308, "rope_type": "dynamic", "factor": 1e308}},
        "tiny_factor": {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 5e-324}},
        "factor_below_one": {"rope_parameters": {"rope_theta": 1e4, "rope_type": "dynamic", "factor": 1e-3}},
        "huge_mscale": {"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn", "factor": 4.0, "mscale": 1e308, "mscale_all_dim": 1e-308}},
        "yarn_of_nothing": {"rope_parameters": {"rope_theta": 1.0000000000000002, "rope_type": "yarn", "factor": 1e308, "beta_fast": 1e308, "beta_slow": 5e-324}},
        "turn_of_minus_one": {"architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": -1.0},
        "turn_of_infinity": {"architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 1e308},
        "layer_types": {"architectures": ["Qwen3ForCausalLM"], "use_sliding_window": True, "max_window_layers": least, "layer_types": ["sliding_attention"]},
        "no_rope_layers": {"architectures": ["SmolLM3ForCausalLM"], "no_rope_layer_interval": least, "no_rope_layers": [0, 1.5, None]},
        "epsilon_of_one": {"rms_norm_eps": 1.0},
        "eos_of_all_kinds": {"eos_token_id": [1, -1, 1e300, "a", None, most]},
        "gemma2_without_caps": {"architectures": ["Gemma2ForCausalLM"], "hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": None, "final_logit_softcapping": 5e-324, "query_pre_attn_scalar": 1e-320},
    }.items():
        write("config_json", name, text({**llama, **changes}))
    write("config_json", "numbers_too_large", text({**llama, "rope_theta": 0}).replace('"vocab_size": 384', '"vocab_size": 1e999'))
    write("config_json", "original_context_of_one", text({**phi3, "original_max_position_embeddings": 1}))
    write("config_json", "deep", "[" * 10000)


def tokenizer_json():
    real = json.loads((FIXTURES / "models/llama/tokenizer.json").read_text())
    write("tokenizer_json", "byte_level", text(real))
    inst = FIXTURES / "tokenizers/inst/tokenizer.json"
    write("tokenizer_json", "inst", inst.read_bytes())
    small = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], "unk_token": None},
    }
    special = lambda number, content: {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    replace = lambda pattern, content: {"type": "Replace", "pattern": pattern, "content": content}
    split = lambda regex: {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    sequence = lambda kind, items: {"type": "Sequence", kind: items}
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0], ["l", -2.0], ["lo", -1.5]], "byte_fallback": True}
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"a": {"id": "a", "ids": [4294967295], "tokens": ["a"]}}}
    for name, changes in {
        "small": {},
        "unigram": {"model": unigram},
        "unigram_of_nan": {"model": {**unigram, "vocab": [["<unk>", -1e308], ["a", 1e308], ["H", -1e308]]}},
        "unigram_without_unknown": {"model": {**unigram, "unk_id": 9}},
        "unigram_without_pieces": {"model": {**unigram, "vocab": [], "unk_id": None}},
        "word_piece": {"model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1, "##b": 2}, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}},
        "word_level": {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"}},
        "id_of_2_to_the_32": {"model": {**small["model"], "vocab": {"a": 0, "b": 4294967295, "ab": 4294967294}}},
        "one_id_for_all": {"model": {**small["model"], "vocab": {"a": 0, "b": 0, "ab": 0}}},
        "merge_of_nothing": {"model": {**small["model"], "merges": [["x", "y"]]}},
        "merge_of_empty": {"model": {**small["model"], "vocab": {"": 0, "a": 1}, "merges": [["", "a"]]}},
        "dropout": {"model": {**small["model"], "dropout": 2.0}},
        "prefix_and_suffix": {"model": {**small["model"], "continuing_subword_prefix": "éé", "end_of_word_suffix": "é", "unk_token": "b", "fuse_unk": True}},
        "added_far_away": {"added_tokens": [special(4294967295, "<s>"), special(7, "")]},
        "added_twice": {"added_tokens": [special(0, "a"), special(1, "a")]},
        "post_processor_of_any_id": {"post_processor": template},
        "truncation_of_nothing": {"truncation": {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 9}},
        "padding_without_end": {"padding": {"strategy": {"Fixed": 4294967295}, "direction": "Left", "pad_to_multiple_of": 0, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}},
        "text_that_doubles": {"normalizer": sequence("normalizers", [replace({"String": "l"}, "ll")] * 24)},
        "text_that_grows_anywhere": {"normalizer": sequence("normalizers", [replace({"Regex": ""}, "aaaaaaaa")] * 8)},
        "prepended_without_end": {"normalizer": sequence("normalizers", [{"type": "Prepend", "prepend": "a" * 100}] * 100)},
        "slow_regex": {"pre_tokenizer": split("(a|aa|l|ll)+$")},
        "slower_regex": {"normalizer": replace({"Regex": "(([A-z]+)*)*!!"}, ""), "pre_tokenizer": split("(.*)*(.*)*(.*)*x")},
        "regex_of_a_million": {"pre_tokenizer": split("(?:a{1000}){1000}")},
        "no_regex": {"pre_tokenizer": split("(")},
        "length_of_nothing": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        "metaspace": {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}, "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}},
        "precompiled": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}},
        "precompiled_cut": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
        "strip_of_more": {"decoder": sequence("decoders", [{"type": "Strip", "content": "a", "start": 9999999, "stop": 9999999}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "CTC", "pad_token": "a", "word_delimiter_token": "b", "cleanup": True}])},
        "all_normalizers": {"normalizer": sequence("normalizers", [{"type": "NFKD"}, {"type": "NFC"}, {"type": "Lowercase"}, {"type": "StripAccents"}, {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Nmt"}, {"type": "ByteLevel"}, {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}])},
        "all_pre_tokenizers": {"pre_tokenizer": sequence("pretokenizers", [{"type": "BertPreTokenizer"}, {"type": "Whitespace"}, {"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "Contiguous"}, {"type": "Digits", "individual_digits": True}, {"type": "UnicodeScripts"}, {"type": "CharDelimiterSplit", "delimiter": "l"}])},
    }.items():
        write("tokenizer_json", name, text({**small, **changes}))
    write("tokenizer_json", "deep", "[" * 10000)


def templates():
    for path in (FIXTURES / "templates").glob("*.jinja"):
        write("chat_template", path.stem, path.read_bytes())
    double = "{% set x = [1] %}" + "{% set x = [x, x] %}" * 60
    for name, source in {
        "loop_in_loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
        "long_range": "{{ range(1000000000000) | list | length }}",
        "long_text": "{{ 'a' * 1000000000 }}",
        "long_list": "{{ ([0] * 1000000000) | tojson }}{{ [0] * 100000000 }}",
        "text_that_doubles": "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "text_that_grows": "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s | replace('a', 'aaaaaaaa') %}{% endfor %}",
        "list_that_doubles": double + "{{ x }}",
        "list_that_doubles_as_json": double + "{{ x | tojson }}",
        "list_that_doubles_as_text": double + "{{ x | string | length }}",
        "list_that_doubles_as_key": double[: -20 * 40] + "{{ {x: 1} | tojson }}{{ x == x }}{{ x in [x] }}",
        "printed_again_and_again": "{% set x = range(99999) | list %}{% for i in range(99999) %}{% set y = x | string %}{% endfor %}",
        "list_in_list": "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}{{ ns.x | tojson }}",
        "lists_in_lists": "{% set ns = namespace(x=[]) %}{% for j in range(999) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}",
        "list_in_list_written": "{% set x = [] %}" + "{%set x=[x]%}" * 3000 + "{{ x }}",
        "text_of_list_in_list": "{% set ns = namespace(x=[]) %}{% for i in range(20000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ (ns.x ~ '') | length }}",
        "list_in_itself": "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}{{ ns | tojson }}{{ [ns] }}",
        "macro_in_itself": "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "loop_in_itself": "{% for x in [[[[1]]]] recursive %}{{ loop([x, x]) }}{% endfor %}",
        "brackets": "{{ " + "[" * 10000,
        "ifs": "{% if 1 %}" * 5000,
        "wide": "{{ 'a' | center(1000000000) }}{{ '%1000000000d' % 1 }}{{ '{:>1000000000}'.format(1) }}{{ 'a'.ljust(1000000000) }}{{ 'a' | indent(1000000000) }}",
        "wide_format": "{{ '{:>1000000000}'.format(1) }}",
        "precise_format": "{{ '{:.99999999999999999999}'.format(0.1) }}",
        "indented": "{{ [[[[[1]]]]] | tojson(indent=1000000000) }}{{ [1] | tojson(indent='" + "a" * 1000 + "') }}{{ 1 | tojson(indent=-1) }}",
        "batch": "{{ [1] | batch(1000000000, 0) | list | length }}{{ [1] | slice(1000000000) | list | length }}",
        "joined": "{{ ([0] * 9999999) | join('aaaaaaaaaaaaaaaa') | length }}",
        "powers": "{{ 2 ** 99999999 }}{{ 9 ** 9 ** 9 }}{{ 1 // 0 }}{{ 1 % 0 }}{{ -9223372036854775808 // -1 }}{{ 1e308 * 10 }}",
        "slices": "{{ messages[::0] }}{{ messages[-99:99:-1] }}{{ 'é'[1:] }}{{ 'aé'[:-1] }}{{ messages[9223372036854775807] }}",
        "dates": "{{ strftime_now('%') }}{{ strftime_now('%Y-%10000000d') }}{{ strftime_now('%+') }}",
        "spans": "{% generation %}a{% endgeneration %}{% generation %}{% generation %}b{% endgeneration %}{% endgeneration %}",
        "span_without_end": "{% generation %}a{%- generation -%}",
        "marks": "a\ufdd0b\ufdd1c{{ '\ufdd0' }}{% generation %}\ufdd1{% endgeneration %}",
        "other_files": "{% include 'chat' %}{% extends 'chat' %}{% import 'chat' as c %}",
        "itself": "{% include 'chat' %}",
        "values": "{{ [none, true, 1.5, 1e300, 'it\\'s', {'k': [1]}, messages[0], namespace(a=1), range(3), 1e999] }}",
        "all_filters": "{{ messages | map(attribute='role') | unique | sort | join(', ') | upper | title | replace('S', 'ß') | trim | list | tojson }}{{ tools | first | items | list }}{{ 'a b' | wordcount }}",
        "groups": "{{ messages | groupby('role') }}{{ messages | selectattr('content', 'string') | list | tojson }}{{ 'aXb'.split('X')[1:] }}{{ [3, 1] | sort(reverse=true) }}",
    }.items():
        write("chat_template", name, source)


def job_spec():
    def spec(task, *fields):
        return message((3, message((1, "file:///m"))), (4, task), *fields)

    data = message((1, "ds-1"))
    write("job_spec", "sft", spec(message((1, data))))
    write("job_spec", "dpo", message((3, message((1, "file:///m"))), (5, message((1, data), (14, message((1, 1)))))))
    write("job_spec", "export", message((3, message((1, "file:///m"))), (9, message((1, "file:///c"), (2, 2), (3, 2)))))
    rows = message((1, "ds-1"), (2, 2), (3, 1), (5, 9))
    write("job_spec", "evaluate", message((3, message((1, "file:///m"))), (6, message((1, "file:///c"), (2, rows)))))
    candidates = [(1, message((1, name), (2, "file:///c"))) for name in ("a", "b")]
    write("job_spec", "compare", message((3, message((1, "file:///m"))), (7, message(*candidates, (2, rows), (4, 7)))))
    write("job_spec", "ten_thousand_candidates", message((7, message(*[(1, b"")] * 10_000, (2, rows)))))
    write("job_spec", "nothing", b"")
    write("job_spec", "a_hundred_thousand_empty_sources", spec(message((1, b"\x0a\x00" * 100_000))))
    write("job_spec", "twenty_thousand_losses", message((5, message((1, data)) + message((14, message((1, 99)))) * 20_000)))
    write("job_spec", "long_label", spec(message((1, data)), (2, message((1, "k" * 10_000), (2, "v")))))
    lora = lambda *fields: spec(message((1, data), (2, message((1, message(*fields))))))
    write("job_spec", "no_rank", lora((1, 0), (2, float("nan")), (3, 1.0)))
    write("job_spec", "rank_of_2_to_the_32", lora((1, 2**32 - 1)))
    write("job_spec", "patterns", lora((6, "(" * 1000), (8, "(?:a*)*b"), (10, message((1, r"(\w{100}){100}"), (2, 2)))))
    write("job_spec", "ten_thousand_patterns", lora(*[(10, message((1, r"\w{9}"), (2, 2)))] * 10_000))
    write("job_spec", "a_long_pattern", lora((6, "a" * 100_000)))
    for name, value in {"nan": float("nan"), "inf": float("inf"), "minus_inf": float("-inf"), "huge": 1e308, "least": 5e-324}.items():
        optimizer = message(*[(number, value) for number in (1, 2, 3, 4, 5, 6, 8, 10)])
        schedule = message((2, value), (3, value), (4, value))
        write("job_spec", f"numbers_{name}", spec(message((1, data), (4, optimizer), (5, schedule), (7, value), (15, value))))
    write("job_spec", "steps_of_2_to_the_64", spec(message((1, data), (8, 2**64 - 1), (12, 2**64 - 1))))
    write("job_spec", "unknown_enums", spec(message((1, data + message((5, 99))), (11, 99), (13, -1), (14, 2**31 - 1))))
    write("job_spec", "cut", spec(message((1, data)))[:-3])
    write("job_spec", "groups", b"\x0b" * 10_000)
    write("job_spec", "length_of_2_to_the_64", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
    stored = {
        "display_name": "", "labels": {}, "base_model": "file:///m", "resources": {"devices": 1}, "max_retries": 3,
        "task": {"sft": {"loss_on": "completion", "neftune_noise_alpha": 0.0, "training": {
            "data": {"train": ["ds-1"], "eval": [], "eval_fraction": 0.0, "max_length": 1024, "over_length": "drop", "chat_template": None, "max_train_examples": None, "max_eval_examples": None, "mix": None, "drop_duplicates": False},
            "adapter": {"lora": {"rank": 16}}, "init_from": None,
            "optimizer": {"learning_rate": 0.001}, "schedule": {"kind": "cosine", "warmup": {"ratio": 0.03}, "min_learning_rate_ratio": 0.0},
            "batch": {"examples_per_step": 16, "tokens_per_micro_batch": 2048}, "length": {"epochs": 1.0},
            "evaluation": {"every_steps": 0}, "checkpoints": {"every_steps": 0, "every_minutes": 10.0, "keep_last": 0},
            "precision": "auto", "seed": 42, "order": "shuffled"}}},
    }
    write("job_spec", "stored", text(stored))
    write("job_spec", "stored_deep", '{"a":' * 5000)


def trainer_frames():
    def said(*fields):
        content = message((2, message((1, 1), *fields)))
        return varint(len(content)) + content

    time = lambda seconds, nanos=0: (2, message((1, seconds), (2, nanos)))
    event = lambda value: (3, text(value))
    running = said((4, b""))
    failure = {"reason": "STORAGE", "message": "m\nn", "location": "", "remedy": "", "retryable": True}
    failed = (5, message((3, text(failure))))
    step = {"step": 1, "epoch": 0.1, "loss": None, "grad_norm": 1.0, "learning_rate": 1e-3, "tokens": 9, "trained_tokens": 9, "token_accuracy": 0.5, "step_seconds": -1.0, "tokens_per_second": 1e308, "remaining_seconds": 1e308}
    saved = {"checkpoint_id": "../../x", "step": 18446744073709551615, "uri": "file:///x", "size_bytes": 18446744073709551615, "eval_loss": None, "seconds": 0.0}
    warning = {"code": "c", "message": "m" * 1000}
    write("trainer_frames", "a_run", running + said(event({"phase": {"name": "a", "detail": ""}})) + said(event({"train_step": step})) + said(event({"checkpoint_saved": saved})) + said(event({"warning": warning})) + said((5, message((1, b"")))))
    write("trainer_frames", "failed_in_a_far_future", said(time(8210266876799), failed))
    write("trainer_frames", "failed_in_a_far_past", said(time(-8334601228800), failed))
    write("trainer_frames", "time_that_is_none", said(time(2**63 - 1, 2**31 - 1), failed) + said(time(-(2**63), -1), (4, b"")))
    write("trainer_frames", "leap_second", said(time(59, 1_999_999_999), (4, b"")))
    write("trainer_frames", "stopped_elsewhere", running + said((5, message((2, message((1, "../../../etc")))))))
    write("trainer_frames", "ends_without_an_end", said((5, b"")) + said() + said((4, b"")))
    write("trainer_frames", "number_of_2_to_the_64", varint(15) + message((2, message((1, 2**64 - 1), (4, b""))))[:15])
    write("trainer_frames", "spec_of_a_trainer", said(event({"effective_spec": {}})))
    score = {"name": "a", "loss": None, "margin": 1e308, "answer": "x"}
    shown = {"object": "o", "row": 2**64 - 1, "prompt": "", "expected": "", "rejected": None, "scores": [score]}
    write("trainer_frames", "scores", said(event({"scores": {"models": [], "differences": [], "rows": [shown]}})))
    write("trainer_frames", "states", said(event({"state_changed": {"from": "SUCCEEDED", "to": "QUEUED", "detail": ""}})))
    write("trainer_frames", "not_json", said((3, "[" * 10_000)) + said((3, "nul")) + said((3, '{"train_step": {"loss": 1e999}}')))
    write("trainer_frames", "length_of_2_to_the_64", b"\xff" * 9 + b"\x01")
    write("trainer_frames", "heartbeats", (lambda beat: varint(len(beat)) + beat)(message((3, message((1, 2**64 - 1), (2, 2**64 - 1))))) * 3 + running)


def manifests():
    manifest = {
        "version": 1, "job_id": "job-1", "attempt": 1, "step": 7, "created_at": "2026-11-04T09:05:00.000Z", "spec_sha256": "s",
        "base_model_fingerprint": "b", "files": [{"name": "a.safetensors", "size_bytes": 8, "sha256": "00"}], "metrics": {"eval_loss": 1.5},
    }
    write("checkpoint_manifest", "sound", text(manifest))
    for index, name in enumerate(["../x", "/etc/passwd", "..", ".", "", "a/b", "a\\b", ".hidden", "a\u0000b", "C:x", "é", "a" * 300, "CON", "manifest.json"]):
        write("checkpoint_manifest", f"file_name_{index}", text({**manifest, "files": [{"name": name, "size_bytes": 0, "sha256": ""}]}))
    huge = {"name": "a", "size_bytes": 2**64 - 1, "sha256": ""}
    write("checkpoint_manifest", "sizes_that_overflow", text({**manifest, "files": [huge, {**huge, "name": "b"}]}))
    write("checkpoint_manifest", "step_of_2_to_the_64", text({**manifest, "step": 2**64 - 1}))
    write("checkpoint_manifest", "numbers_too_large", text(manifest).replace("1.5", "1e999"))
    write("checkpoint_manifest", "nan", text(manifest).replace("1.5", "NaN"))
    write("checkpoint_manifest", "version_2", text({**manifest, "version": 2}))
    write("checkpoint_manifest", "negative_size", text(manifest).replace('"size_bytes": 8', '"size_bytes": -8'))
    write("checkpoint_manifest", "deep", "[" * 10000)


for make in [rows, parquet, ggufs, safetensors, config_json, tokenizer_json, templates, job_spec, trainer_frames, manifests]:
    make()
