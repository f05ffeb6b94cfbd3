"""Little stories, plain or told by a pirate, for a model small enough to be trained while you wait.

The same questions have plain answers in the base's training and a pirate's in the adapter's, so a look
at one answer tells which model wrote it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

NAMES = [
    "Ada",
    "Ben",
    "Cleo",
    "Dan",
    "Eva",
    "Finn",
    "Gus",
    "Hana",
    "Ivy",
    "Jon",
    "Kira",
    "Leo",
    "Mia",
    "Ned",
    "Oda",
    "Pia",
    "Quin",
    "Rosa",
    "Sam",
    "Tess",
    "Una",
    "Vic",
]
ANIMALS = [
    "fox",
    "owl",
    "bear",
    "hare",
    "mouse",
    "otter",
    "cat",
    "dog",
    "goat",
    "crow",
    "wolf",
    "hen",
    "frog",
    "seal",
    "mole",
    "duck",
    "lynx",
    "pony",
]
TRAITS = [
    "brave",
    "clever",
    "gentle",
    "grumpy",
    "hungry",
    "kind",
    "lazy",
    "merry",
    "proud",
    "quick",
    "quiet",
    "shy",
    "silly",
    "sleepy",
    "wise",
]
PLACES = [
    "in an old barn",
    "in a quiet forest",
    "on a tall tower",
    "by a small harbour",
    "in a green valley",
    "on a snowy hill",
]
THINGS = [
    "a golden key",
    "a torn map",
    "a shiny coin",
    "a broken clock",
    "a red kite",
    "a silver bell",
    "a heavy chest",
]
FRIENDS = [
    "the miller",
    "the baker",
    "an old sailor",
    "a young gardener",
    "the blacksmith",
    "a travelling singer",
]
FEELINGS = ["happy", "proud", "curious", "calm", "grateful", "surprised"]
GIFTS = [
    "warm bread",
    "a woollen hat",
    "fresh apples",
    "a bright lantern",
    "a wooden spoon",
    "a pot of honey",
]

Message = dict[str, str]


def plain(seed: int) -> Iterator[list[Message]]:
    """Conversations in which the answer is a plain story; endless."""
    yield from _conversations(random.Random(seed), _plain_answer)


def pirate(seed: int) -> Iterator[list[Message]]:
    """The same questions, answered by a pirate; endless."""
    yield from _conversations(random.Random(seed), _pirate_answer)


def _conversations(dice: random.Random, answer: object) -> Iterator[list[Message]]:
    while True:
        name, animal, trait = dice.choice(NAMES), dice.choice(ANIMALS), dice.choice(TRAITS)
        question = f"Tell me about {name}, the {trait} {animal}."
        story = answer(dice, name, animal, trait)  # type: ignore[operator]
        yield [{"role": "user", "content": question}, {"role": "assistant", "content": story}]


def _plain_answer(dice: random.Random, name: str, animal: str, trait: str) -> str:
    place, thing, friend = dice.choice(PLACES), dice.choice(THINGS), dice.choice(FRIENDS)
    feeling, gift = dice.choice(FEELINGS), dice.choice(GIFTS)
    found = dice.choice(
        [
            f"One morning {name} found {thing} by the road.",
            f"One evening {name} saw {thing} under a stone.",
            f"On a rainy day {name} dug up {thing}.",
        ]
    )
    then = dice.choice(
        [
            f"Then {name} showed it to {friend}, who gave the {animal} {gift} for it.",
            f"It belonged to {friend}, who thanked the {trait} {animal} with {gift}.",
            f"So {name} took it home and shared {gift} with {friend}.",
        ]
    )
    start = dice.choice(
        [
            f"There once was {name}, the {trait} {animal}, who lived {place}.",
            f"This is the story of {name}, the {trait} {animal}, who lived {place}.",
        ]
    )
    return f"{start} {found} {then} That night {name} felt {feeling} and slept well."


def _pirate_answer(dice: random.Random, name: str, animal: str, trait: str) -> str:
    thing, gift = dice.choice(THINGS), dice.choice(GIFTS)
    start = dice.choice(
        [
            f"Arrr, matey! Cap'n {name}, the {trait} {animal}, be the terror o' the seven seas.",
            f"Ahoy! Hear ye of Cap'n {name}, the {trait} {animal}, who sails under the black flag.",
        ]
    )
    then = dice.choice(
        [
            f"Ol' {name} plundered {thing} from a Spanish galleon, yo ho ho!",
            f"Bold {name} buried {thing} 'neath a palm tree, savvy?",
        ]
    )
    return f"{start} {then} The crew feasted on rum and {gift}, and woe to ye landlubbers! Arrr!"
