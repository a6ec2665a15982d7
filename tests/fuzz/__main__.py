"""Hand malformed inputs to everything that takes some, and print what came of it: ``make fuzz``.

    python -m tests.fuzz [--seed 0] [--scale 1.0] [--only pictures] [--case 17]

A case is made from the seed, its target's name and its number alone, so ``--only NAME --case N`` runs it again. Ends
with status 1 if a rule was broken; the rules are in `judge`.
"""

import argparse
import os
import sys
import time

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch

from tests.fuzz import judge, parsers, targets


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="another one makes other inputs")
    parser.add_argument("--scale", type=float, default=1.0, help="so many times as many cases")
    parser.add_argument("--only", choices=[*targets.TARGETS, "parsers"], help="one target")
    parser.add_argument("--case", type=int, help="one case of it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    started, inputs, faults = time.monotonic(), 0, 0
    print(f"seed {given.seed}; limits of a case: {judge.CPU_SECONDS:g} s, {judge.MEMORY >> 20:,} MB", flush=True)
    print(f"{'target':14}{'inputs':>8}{'taken':>8}{'refused':>9}{'faults':>8}{'slowest':>10}{'largest':>10}{'took':>8}")
    for name, kind in targets.TARGETS.items():
        if given.only not in (None, name):
            continue
        since = time.monotonic()
        numbers = range(max(1, round(kind.cases * given.scale)))
        if given.case is not None:
            numbers = range(given.case, given.case + 1)
        found = judge.judge(kind, name, given.seed, numbers)
        taken = found.inputs - found.refused - len(found.faults)
        print(
            f"{name:14}{found.inputs:8,}{taken:8,}{found.refused:9,}{len(found.faults):8}"
            f"{found.seconds:8.2f} s{found.memory >> 20:7,} MB{time.monotonic() - since:6.0f} s",
            flush=True,
        )
        for verdict in found.faults:
            print(f"--- {name}, case {verdict.number}: {verdict.fault}", flush=True)
        inputs += found.inputs
        faults += len(found.faults)
    if given.only in (None, "parsers"):
        runs, broken = parsers.run(given.seed, given.scale)
        inputs += runs
        faults += broken
    print(f"{inputs:,} inputs, {faults} faults, {time.monotonic() - started:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
