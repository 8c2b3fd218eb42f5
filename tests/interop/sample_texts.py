"""Texts for the fixtures: rows to train on, conversations to render, strings to tokenise."""

import random

WORDS = (
    "lantern harbour copper winter violet engine marble thunder pepper saddle orchard candle river mirror basket "
    "falcon anchor meadow pillow rocket ginger silver bottle garden tunnel ladder button carpet dragon ribbon"
).split()


def training_rows(count, seed):
    """Prompt and completion rows of mixed length: spelling, reversing, sums, lists."""
    rng = random.Random(seed)
    return [make_row(rng, kind) for kind in rng.choices(["spell", "reverse", "sum", "list"], k=count)]


def make_row(rng, kind):
    """One row of the given kind."""
    word = rng.choice(WORDS)
    if kind == "spell":
        return {"prompt": f"Spell the word {word}.\n", "completion": "-".join(word)}
    if kind == "reverse":
        return {"prompt": f"Write {word} backwards:", "completion": f" {word[::-1]}"}
    if kind == "sum":
        numbers = [rng.randrange(2, 60) for _ in range(rng.randrange(2, 5))]
        return {
            "prompt": f"Question: what is {' plus '.join(map(str, numbers))}?\nAnswer:",
            "completion": f" It is {sum(numbers)}.",
        }
    things = rng.sample(WORDS, rng.randrange(2, 7))
    lines = "".join(f"{index}. {thing}\n" for index, thing in enumerate(sorted(things), 1))
    return {"prompt": f"Sort these words: {', '.join(things)}.\n", "completion": lines}


TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  leading and trailing  ",
    "line one\nline two\r\n\n\n\tindented",
    "naïve café – “quoted” … 12345 1,000.5",
    "日本語と中文 и русский עברית العربية",
    "👩‍👩‍👧‍👦 🇩🇰 e\u0301 \u200b zero width",
    "don't we'll I'VE",
    "special <|im_end|> and </s> inside",
]

CONVERSATIONS = {
    "one_turn": [
        {"role": "user", "content": "What colour is the sky?"},
        {"role": "assistant", "content": "Blue, on a clear day."},
    ],
    "system_and_two_turns": [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Capital of France?"},
        {"role": "assistant", "content": "Paris"},
        {"role": "user", "content": "And of Japan?"},
        {"role": "assistant", "content": "Tokyo"},
    ],
    "whitespace": [
        {"role": "user", "content": "  \n indented question\t\n"},
        {"role": "assistant", "content": "\n\n  code:\n    x = 1\n\n"},
    ],
    "unicode": [
        {"role": "user", "content": "Übersetze „Straße“ 👩‍👩‍👧 → 日本語"},
        {"role": "assistant", "content": "通り 🛣️ e\u0301"},
        {"role": "user", "content": "עברית?"},
        {"role": "assistant", "content": "רחוב"},
    ],
    "braces_and_special_tokens": [
        {"role": "user", "content": "Render {{ x }} and {% if y %} literally"},
        {"role": "assistant", "content": "{{ x }} <|im_end|> {% if y %} </s> [INST]"},
    ],
    "empty_answer": [
        {"role": "user", "content": "Say nothing."},
        {"role": "assistant", "content": ""},
    ],
    "ends_with_user": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "How are you?"},
    ],
    "two_users_in_a_row": [
        {"role": "user", "content": "First"},
        {"role": "user", "content": "Second"},
        {"role": "assistant", "content": "Both."},
    ],
}

TOKEN_ROWS = [
    {"input_ids": [9, 30, 31, 32, 2]},
    {"input_ids": [9, 30, 31, 32, 2], "labels": [-100, -100, 31, -100, 2]},
    {"input_ids": [9, 30, 31, 32, 2], "completion_mask": [0, 0, 1, 1, 1]},
    {"input_ids": [9, 30, 31, 32, 2], "assistant_masks": [0, 1, 1, 0, 0]},
    {"input_ids": [9, 30, 31, 32, 2], "completion_mask": [0, 0, 1, 1, 1], "assistant_masks": [0, 1, 1, 1, 0]},
    {"input_ids": [9, 30, 31, 32, 2], "labels": [-100, 30, -100, -100, 2], "completion_mask": [0, 0, 1, 1, 1]},
]

PROMPT_COMPLETIONS = [
    {"prompt": "Capital of France?", "completion": " Paris"},
    {"prompt": "No space between", "completion": "and the answer"},
    {"prompt": "Ends with a space ", "completion": "merges at the boundary"},
    {"prompt": "Already closed:", "completion": " yes<|im_end|>"},
    {"prompt": "日本", "completion": "語です 👩‍👩‍👧"},
    {"prompt": "\n\n", "completion": "\n\nonly newlines before"},
    {"prompt": "Empty completion:", "completion": ""},
]
