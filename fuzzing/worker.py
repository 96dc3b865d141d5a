"""The process that fuzzes one target, with atheris: libFuzzer, guided by the branches of bestiary that inputs reach.

An input is the number of a case, one byte, and the content of the file that is changed.
"""

from __future__ import annotations

import random
import sys
import warnings

import atheris

with atheris.instrument_imports(include=["bestiary"]):
    from fuzzing.targets import TARGETS, Bench

from fuzzing.mutations import choose_mutation

STRUCTURED = 0.6  # of the changes; the others are libFuzzer's, of bytes


def main() -> None:
    """Fuzz the target that the first argument names; the others are libFuzzer's."""
    _, name, *arguments = sys.argv
    warnings.simplefilter("ignore")  # of decoders, about the damage that the fuzzer did
    bench = Bench(TARGETS[name])

    def run(data: bytes) -> None:
        if data:
            bench.run(data[0], data[1:])

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        number = data[0] if data else 0
        case = bench.cases[number % len(bench.cases)]
        if rng.random() < STRUCTURED:
            content = choose_mutation(case.fuzzed)(data[1:], rng)
        else:
            content = bytes(atheris.Mutate(data[1:], max_size - 1))
        return (bytes([number]) + content)[:max_size]

    atheris.Setup([sys.argv[0], *arguments], run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
