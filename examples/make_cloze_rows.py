"""Print `cloze_rows.jsonl`: sentences of general knowledge, each to be ended by one of four words.

    python examples/make_cloze_rows.py > examples/cloze_rows.jsonl

The three wrong endings are right ones of the same kind. Of rows that are scored they are never
right in a row to learn from: a model that was trained would prefer an ending that it has seen to be
right, and training would lower the score whatever it taught. Kinds and splits are mixed by a seed.
"""

from __future__ import annotations

import json
import random

SPLITS = {"test": 50, "train": 48, "align": 16, "extract": 16, "dev": 10}
SCORED = ("test", "dev")

CAPITALS = """
France Paris, Germany Berlin, Italy Rome, Spain Madrid, Portugal Lisbon, Greece Athens,
Austria Vienna, Hungary Budapest, Poland Warsaw, Sweden Stockholm, Norway Oslo, Finland Helsinki,
Denmark Copenhagen, Ireland Dublin, Belgium Brussels, Russia Moscow, Ukraine Kyiv, Turkey Ankara,
Egypt Cairo, Kenya Nairobi, Nigeria Abuja, Ethiopia Addis Ababa, Ghana Accra, Morocco Rabat,
Japan Tokyo, China Beijing, India New Delhi, Thailand Bangkok, Vietnam Hanoi, Indonesia Jakarta,
Iran Tehran, Iraq Baghdad, Israel Jerusalem, Pakistan Islamabad, Nepal Kathmandu, Cuba Havana,
Canada Ottawa, Mexico Mexico City, Peru Lima, Chile Santiago, Argentina Buenos Aires,
Brazil Brasília, Colombia Bogotá, Venezuela Caracas, Australia Canberra, Jamaica Kingston,
Bulgaria Sofia, Romania Bucharest
"""
OPPOSITES = """
hot cold, big small, up down, fast slow, old young, light dark, happy sad, rich poor, strong weak,
wet dry, full empty, open closed, early late, hard soft, high low, long short, good bad, true false,
love hate, war peace, day night, left right, black white, sweet sour, win lose, buy sell,
push pull, begin end, always never, near far, loud quiet, thick thin, clean dirty, rough smooth,
cheap expensive, inside outside, above below, alive dead, sharp blunt, brave cowardly
"""
ELEMENTS = """
hydrogen H, helium He, lithium Li, carbon C, nitrogen N, oxygen O, sodium Na, magnesium Mg,
aluminum Al, silicon Si, phosphorus P, sulfur S, chlorine Cl, potassium K, calcium Ca, iron Fe,
copper Cu, zinc Zn, silver Ag, tin Sn, gold Au, mercury Hg, lead Pb, uranium U, nickel Ni
"""
YOUNG = """
dog puppy, cat kitten, cow calf, horse foal, sheep lamb, pig piglet, goat kid, hen chick,
duck duckling, goose gosling, deer fawn, bear cub, swan cygnet, frog tadpole, kangaroo joey
"""
COLOURS = """
grass green, blood red, snow white, coal black, a banana yellow, a clear sky blue, chocolate brown,
an elephant gray, a flamingo pink, a carrot orange, an eggplant purple, a gold ring golden
"""
KINDS = {
    "capital": ("The capital of {} is", CAPITALS),
    "opposite": ('The opposite of "{}" is', OPPOSITES),
    "element": ("The chemical symbol for {} is", ELEMENTS),
    "young": ("A young {} is called a", YOUNG),
    "colour": ("The color of {} is", COLOURS),
}
LONG_NAMES = ("Addis Ababa", "New Delhi", "Mexico City", "Buenos Aires")


def pairs(table: str) -> list[tuple[str, str]]:
    """Read `subject ending, …`; an ending is one word, or one of `LONG_NAMES`."""
    found = []
    for entry in " ".join(table.split()).split(", "):
        long = [name for name in LONG_NAMES if entry.endswith(f" {name}")]
        ending = long[0] if long else entry.rpartition(" ")[2]
        found.append((entry.removesuffix(f" {ending}"), ending))
    return found


def main() -> None:
    """Print one row per subject."""
    rng = random.Random(5)
    rows = [
        (kind, subject, ending)
        for kind, (_, table) in KINDS.items()
        for subject, ending in pairs(table)
    ]
    rng.shuffle(rows)
    splits = [split for split, count in SPLITS.items() for _ in range(count)]
    learnt = {
        ending for split, (*_, ending) in zip(splits, rows, strict=True) if split not in SCORED
    }
    for split, (kind, subject, ending) in zip(splits, rows, strict=True):
        others = [other for _, other in pairs(KINDS[kind][1]) if other != ending]
        if split in SCORED:
            others = [other for other in others if other not in learnt]
        row = {
            "split": split,
            "id": f"{kind}-{subject}".replace(" ", "-"),
            "prompt": KINDS[kind][0].format(subject),
            "answer": ending,
            "choices": rng.sample([ending, *rng.sample(others, 3)], 4),
        }
        print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
