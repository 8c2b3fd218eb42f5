#!/usr/bin/env python3
"""Grace periods from what a job's saves took. Reads its events on standard input, prints two settings.

    hone --json jobs watch JOB | k8s/grace.py
"""

import json
import math
import sys

# Saves differ, and one may be on its way when the next is due.
SAVES = 2
# As in k8s/base/statefulset.yaml: preStop; what the server gives the last calls once trainers are gone; to spare.
PRE_STOP, LAST_CALLS, SPARE = 5, 10, 15


def grace(events):
    """(HONE_STOP_GRACE, terminationGracePeriodSeconds) in seconds: a step is finished, then its checkpoint is saved."""
    step = max((event["train_step"]["step_seconds"] for event in events if "train_step" in event), default=None)
    save = max((event["checkpoint_saved"]["seconds"] for event in events if "checkpoint_saved" in event), default=None)
    if step is None or save is None:
        sys.exit("grace.py: the job has taken no step, or saved no checkpoint")
    stop = math.ceil(step + SAVES * save)
    return stop, PRE_STOP + stop + LAST_CALLS + SPARE


def main():
    """Prints the settings."""
    stop, termination = grace([json.loads(line) for line in sys.stdin if line.strip()])
    print(f"HONE_STOP_GRACE={stop}s\nterminationGracePeriodSeconds: {termination}")


if __name__ == "__main__":
    main()
