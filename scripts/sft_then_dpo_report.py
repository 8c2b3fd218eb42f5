"""The table of a run of sft_then_dpo.sh, from what its jobs told: sft_then_dpo_report.py FOLDER"""

import json
import sys
from pathlib import Path


def events(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def plus_minus(value, error, digits=3):
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def scores(path):
    return next(event["scores"] for event in events(path) if "scores" in event)


def interval(found, digits=3):
    low, high = found.get("low", 0.0), found.get("high", 0.0)
    return f"{found.get('difference', 0.0):+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def comparison(rows, pairs):
    print("| against the base model, 95% intervals | SFT | DPO |")
    print("| --- | ---: | ---: |")
    lines = [
        ("nats per token of the answers", rows, "loss"),
        ("token accuracy of the answers", rows, "token_accuracy"),
        ("pairs whose true answer is the likelier one", pairs, "preference_accuracy"),
        ("margin of the pairs, in nats", pairs, "margin"),
    ]
    for label, report, figure in lines:
        print(f"| {label} | " + " | ".join(interval(one[figure]) for one in report["differences"]) + " |")
    for label, report in (("rows", rows), ("pairs", pairs)):
        better = [f"{one.get('wins', 0)} of {report['models'][0]['evaluation']['examples']}" for one in report["differences"]]
        print(f"| better on {label} | " + " | ".join(better) + " |")


def main():
    home = Path(sys.argv[1])
    told = {name: events(home / f"{name}.jsonl") for name in ("sft", "dpo")}
    held_out = {name: [event["evaluation"] for event in all if "evaluation" in event] for name, all in told.items()}
    results = {name: json.loads((home / f"{name}.json").read_text())["result"] for name in told}
    print("| held out | before | after |")
    print("| --- | ---: | ---: |")
    first, last = held_out["sft"][0], held_out["sft"][-1]
    nll = [plus_minus(one["loss"], one.get("loss_standard_error", 0.0)) for one in (first, last)]
    print(f"| SFT: nats per token of {last['examples']} answers | {nll[0]} | {nll[1]} |")
    first, last = (one["preference"] for one in (held_out["dpo"][0], held_out["dpo"][-1]))
    losses = [plus_minus(one["loss"], one.get("loss_standard_error", 0.0)) for one in (held_out["dpo"][0], held_out["dpo"][-1])]
    print(f"| DPO: loss of {last['pairs']} pairs | {losses[0]} | {losses[1]} |")

    def metric(one, name):
        return plus_minus(one.get(name, 0.0), one.get(f"{name}_standard_error", 0.0))

    for name, label in (("accuracy", "pairs told apart by the reward"), ("margin", "reward margin")):
        print(f"| DPO: {label} | {metric(first, name)} | {metric(last, name)} |")
    print(f"| DPO: log-probability of the chosen answer | {first['logps_chosen']:.1f} | {last['logps_chosen']:.1f} |")
    print(f"| DPO: log-probability of the rejected one | {first['logps_rejected']:.1f} | {last['logps_rejected']:.1f} |")
    print()
    comparison(scores(home / "compared-rows.jsonl"), scores(home / "compared-pairs.jsonl"))
    print()
    for name, result in results.items():
        seconds = result["train_seconds"]
        print(f"{name.upper()}: {result['steps']} steps, {result['tokens']} tokens, {seconds:.0f} s of training. ", end="")
    print()


if __name__ == "__main__":
    main()
