"""Pairs of answers, derived from question/answer rows: make_pairs.py ROWS PAIRS

The chosen answer is the row's own. The rejected one is the answer to another question of the same file, a fixed distance away:
real text that does not answer. Such pairs teach to answer what was asked; they are derived, not people's preferences.
"""

import json
import sys

# A prime, so that neighbours (questions on one topic stand together) and repeats of the files' parts do not line up.
DISTANCE = 37


def main():
    rows_file, pairs_file = sys.argv[1:]
    with open(rows_file) as file:
        rows = [json.loads(line)["messages"] for line in file]
    with open(pairs_file, "w") as out:
        for number, (question, answer) in enumerate(rows):
            other = rows[(number + DISTANCE) % len(rows)][1]
            if other["content"] != answer["content"]:
                pair = {"prompt": [question], "chosen": [answer], "rejected": [other]}
                out.write(json.dumps(pair, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
