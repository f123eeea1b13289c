"""Write `gsm_rows.jsonl`: made-up word problems in the format of GSM8K.

    python examples/make_gsm_rows.py > examples/gsm_rows.jsonl

Twelve stories are told ten times each with other people and numbers. The stories are our own; no
row comes from a data set. Each answer works the problem out and ends in `#### ` and the number.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

PEOPLE = ("Ines", "Otto", "Priya", "Karel", "Maud", "Tariq", "Wanda", "Yusuf", "Lotte", "Ravi")
Story = Callable[[random.Random, str], tuple[str, str, int]]


def ferry(rng: random.Random, who: str) -> tuple[str, str, int]:
    crossings, cars, fare = rng.randint(3, 9), rng.randint(8, 19), rng.randint(4, 12)
    total = crossings * cars
    return (
        f"{who} runs a ferry that crosses the lake {crossings} times a day and carries {cars} cars "
        f"each time. A car pays ${fare}. How many dollars does the ferry take in a day?",
        f"The ferry carries {crossings} * {cars} = {total} cars a day.\n"
        f"They pay {total} * {fare} = {total * fare} dollars.",
        total * fare,
    )


def tiles(rng: random.Random, who: str) -> tuple[str, str, int]:
    rows, columns, broken = rng.randint(9, 20), rng.randint(6, 15), rng.randint(3, 25)
    need = rows * columns
    return (
        f"{who} lays a floor of {rows} rows with {columns} tiles each and breaks {broken} tiles "
        "on the way. How many tiles were used up in all?",
        f"The floor takes {rows} * {columns} = {need} tiles.\n"
        f"With the broken ones that is {need} + {broken} = {need + broken} tiles.",
        need + broken,
    )


def bees(rng: random.Random, who: str) -> tuple[str, str, int]:
    hives, jars, kept = rng.randint(4, 11), rng.randint(6, 14), rng.randint(5, 20)
    filled = hives * jars
    return (
        f"{who} has {hives} beehives. Each fills {jars} jars of honey. {kept} jars stay at home "
        "and the others are sold. How many jars are sold?",
        f"The hives fill {hives} * {jars} = {filled} jars.\n"
        f"{filled} - {kept} = {filled - kept} jars are sold.",
        filled - kept,
    )


def train(rng: random.Random, who: str) -> tuple[str, str, int]:
    start, off, on = rng.randint(60, 140), rng.randint(10, 35), rng.randint(5, 30)
    middle = start - off
    return (
        f"{who} drives a train with {start} passengers. At the first stop {off} get off and {on} "
        "get on. At the second stop nobody gets on but 12 get off. How many are left?",
        f"After getting off at the first stop there are {start} - {off} = {middle} passengers.\n"
        f"With the new ones there are {middle} + {on} = {middle + on}.\n"
        f"After the second stop there are {middle + on} - 12 = {middle + on - 12}.",
        middle + on - 12,
    )


def baking(rng: random.Random, who: str) -> tuple[str, str, int]:
    trays, rolls, bag = rng.randint(3, 8), rng.choice((12, 18, 24)), rng.choice((2, 3, 6))
    total = trays * rolls
    return (
        f"{who} bakes {trays} trays of {rolls} rolls and packs them into bags of {bag}. "
        "How many bags are filled?",
        f"There are {trays} * {rolls} = {total} rolls.\n"
        f"They fill {total} / {bag} = {total // bag} bags.",
        total // bag,
    )


def savings(rng: random.Random, who: str) -> tuple[str, str, int]:
    weekly, weeks, had = rng.randint(5, 20), rng.randint(4, 15), rng.randint(10, 90)
    saved = weekly * weeks
    return (
        f"{who} had ${had} and puts aside ${weekly} a week for {weeks} weeks. "
        "How many dollars are there then?",
        f"In {weeks} weeks {who} saves {weekly} * {weeks} = {saved} dollars.\n"
        f"Together that is {had} + {saved} = {had + saved} dollars.",
        had + saved,
    )


def orchard(rng: random.Random, who: str) -> tuple[str, str, int]:
    apple, more, each = rng.randint(6, 20), rng.randint(2, 9), rng.randint(10, 40)
    pears = apple + more
    return (
        f"In {who}'s orchard stand {apple} apple trees and {more} more pear trees than apple "
        f"trees. Each pear tree gives {each} kilograms. How many kilograms of pears is that?",
        f"There are {apple} + {more} = {pears} pear trees.\n"
        f"They give {pears} * {each} = {pears * each} kilograms.",
        pears * each,
    )


def reading(rng: random.Random, who: str) -> tuple[str, str, int]:
    daily, days, left = rng.randint(12, 40), rng.randint(3, 9), rng.randint(15, 120)
    read = daily * days
    return (
        f"{who} reads {daily} pages a day. After {days} days {left} pages are left. "
        "How many pages has the book?",
        f"{who} has read {daily} * {days} = {read} pages.\n"
        f"The book has {read} + {left} = {read + left} pages.",
        read + left,
    )


def sharing(rng: random.Random, who: str) -> tuple[str, str, int]:
    friends, each, spare = rng.randint(3, 9), rng.randint(4, 15), rng.randint(1, 9)
    given = friends * each
    return (
        f"{who} gives {each} marbles to each of {friends} friends and keeps {spare}. "
        "How many marbles were there at first?",
        f"The friends get {friends} * {each} = {given} marbles.\n"
        f"At first there were {given} + {spare} = {given + spare} marbles.",
        given + spare,
    )


def change(rng: random.Random, who: str) -> tuple[str, str, int]:
    pens, price, note = rng.randint(3, 9), rng.randint(2, 5), rng.choice((50, 100))
    cost = pens * price
    return (
        f"{who} buys {pens} notebooks at ${price} each and pays with a ${note} note. "
        "How many dollars of change come back?",
        f"The notebooks cost {pens} * {price} = {cost} dollars.\n"
        f"The change is {note} - {cost} = {note - cost} dollars.",
        note - cost,
    )


def choir(rng: random.Random, who: str) -> tuple[str, str, int]:
    high, times, gone = rng.randint(6, 18), rng.choice((2, 3)), rng.randint(1, 6)
    low = high * times
    return (
        f"{who}'s choir has {high} high voices and {times} times as many low voices. {gone} "
        "singers are ill. How many can sing tonight?",
        f"There are {high} * {times} = {low} low voices.\n"
        f"Together there are {high} + {low} = {high + low} singers.\n"
        f"{high + low} - {gone} = {high + low - gone} can sing.",
        high + low - gone,
    )


def walking(rng: random.Random, who: str) -> tuple[str, str, int]:
    there, speed, rest = rng.randint(2, 9), rng.choice((10, 12, 15)), rng.randint(5, 25)
    walked = 2 * there * speed
    return (
        f"{who} needs {speed} minutes for a kilometre. The mill is {there} kilometres away. {who} "
        f"walks there and back and rests {rest} minutes. How many minutes does the trip take?",
        f"The way there and back is 2 * {there} = {2 * there} kilometres.\n"
        f"Walking takes {2 * there} * {speed} = {walked} minutes.\n"
        f"With the rest that is {walked} + {rest} = {walked + rest} minutes.",
        walked + rest,
    )


STORIES: tuple[Story, ...] = (
    *(ferry, tiles, bees, train, baking, savings),
    *(orchard, reading, sharing, change, choir, walking),
)


def main() -> None:
    """Print one row per story and person."""
    rng = random.Random(11)
    for number, who in enumerate(PEOPLE):
        for story in STORIES:
            question, steps, result = story(rng, who)
            row = {
                "id": f"{story.__name__}-{number}",
                "question": question,
                "answer": f"{steps}\n#### {result}",
            }
            print(json.dumps(row))


if __name__ == "__main__":
    main()
