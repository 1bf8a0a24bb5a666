"""Runs chains of random mutations on random networks, and says how to see again what it finds.

python tests/fuzz/fuzz.py --chains 100 [--seed 0] [--blocks 0,1,2] [--steps 0,4] [--kind linen]
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import jax
from chain import GRAMMARS, Find, Recipe, run, shorter


def numbers(text: str) -> tuple[int, ...]:
    return () if text == "none" else tuple(int(part) for part in text.split(","))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=1, help="how many; chain i has the seed SEED + i")
    parser.add_argument("--seed", type=int, default=0, help="of the first chain")
    parser.add_argument("--blocks", type=numbers, help="only these blocks of the network, by number")
    parser.add_argument("--steps", type=numbers, help="only these steps, by number")
    parser.add_argument("--kind", choices=list(GRAMMARS), help="only networks of this kind")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no further chain after that time")
    parser.add_argument("--no-reduce", action="store_true", help="leave chains that fail as they are")
    return parser.parse_args()


def told(find: Find) -> str:
    """A find, with the command that makes it again."""
    error = find.error
    frames = "".join(traceback.format_tb(error.__traceback__)[-3:])
    said = f"{type(error).__name__}: {str(error)[:600]}"
    about = "".join(f"  {line}\n" for line in find.about)
    return f"FOUND {find.kind} at step {find.step} ({find.verb})\n  {find.recipe.command}\n{about}{frames}{said}\n"


def main() -> int:
    given = arguments()
    jax.config.update("jax_traceback_filtering", "off")  # where an error was raised tells one find from another
    logging.getLogger("naivenas_jax").setLevel(logging.ERROR)  # what starts again is said for every carried tree
    seen, finds, started = Counter[str](), [], time.process_time()
    done, begun = 0, time.monotonic()
    for seed in range(given.seed, given.seed + given.chains):
        if time.monotonic() - begun > given.seconds:
            break
        recipe = Recipe.of(seed)
        if given.kind and recipe.kind != given.kind:
            continue
        if given.blocks is not None:
            recipe = replace(recipe, blocks=given.blocks)
        if given.steps is not None:
            recipe = replace(recipe, steps=given.steps)
        before = time.process_time()
        counts, find = run(recipe)
        seen += counts
        done += 1
        if find:
            find = find if given.no_reduce else shorter(find)
            finds.append(find)
            print(told(find), flush=True)
        if (took := time.process_time() - before) > 20 and not find:
            print(f"SLOW  seed {seed} took {took:.0f} CPU seconds", flush=True)
        if done % 20 == 0:
            jax.clear_caches()
            print(f"{done} chains, {len(finds)} finds, {time.process_time() - started:.0f} CPU s", flush=True)
    seconds = time.process_time() - started
    print(f"{done} chains, {len(finds)} finds, {seconds:.0f} CPU seconds, {seconds / max(done, 1):.1f} each")
    for name, count in sorted(seen.items()):
        print(f"  {count:6} {name}")
    for kind, count in Counter(find.kind for find in finds).most_common():
        print(f"  {count} x {kind}")
    return bool(finds)


if __name__ == "__main__":
    sys.exit(main())
