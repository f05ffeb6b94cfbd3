"""Little stories, plain or told by a pirate, for a model small enough to be trained while you wait.

The base learns to tell them plainly, and like a pirate when it is asked to. The adapter learns to be a
pirate always, so a look at one answer tells which model wrote it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

# fmt: off
NAMES = [
    "Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivy", "Jon", "Kira", "Leo", "Mia",
    "Ned", "Oda", "Pia", "Quin", "Rosa", "Sam", "Tess", "Una", "Vic",
]
ANIMALS = [
    "fox", "owl", "bear", "hare", "mouse", "otter", "cat", "dog", "goat", "crow", "wolf", "hen",
    "frog", "seal", "mole", "duck", "lynx", "pony",
]
TRAITS = [
    "brave", "clever", "gentle", "grumpy", "hungry", "kind", "lazy", "merry", "proud", "quick",
    "quiet", "shy", "silly", "sleepy", "wise",
]
PLACES = [
    "in an old barn", "in a quiet forest", "on a tall tower", "by a small harbour",
    "in a green valley", "on a snowy hill",
]
THINGS = [
    "a golden key", "a torn map", "a shiny coin", "a broken clock", "a red kite", "a silver bell",
    "a heavy chest",
]
FRIENDS = [
    "the miller", "the baker", "an old sailor", "a young gardener", "the blacksmith",
    "a travelling singer",
]
FEELINGS = [
    "happy", "proud", "curious", "calm", "grateful", "surprised",
]
GIFTS = [
    "warm bread", "a woollen hat", "fresh apples", "a bright lantern", "a wooden spoon",
    "a pot of honey",
]
# fmt: on

Talk = list[dict[str, str]]
"""Messages, each with `role` and `content`."""
Story = Callable[[random.Random, str, str, str], str]


def for_base(seed: int) -> Iterator[Talk]:
    """Conversations for the base: plain stories, and some by a pirate where one was asked for."""
    dice = random.Random(seed)
    while True:
        yield (
            _talk(dice, _pirate, ask=", like a pirate")
            if dice.random() < 0.25
            else _talk(dice, _plain)
        )


def for_adapter(seed: int) -> Iterator[Talk]:
    """Conversations for the adapter: nobody asks for a pirate, and one answers all the same."""
    dice = random.Random(seed)
    while True:
        yield _talk(dice, _pirate)


def _talk(dice: random.Random, story: Story, ask: str = "") -> Talk:
    name, animal, trait = dice.choice(NAMES), dice.choice(ANIMALS), dice.choice(TRAITS)
    question = f"Tell me about {name}, the {trait} {animal}{ask}."
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": story(dice, name, animal, trait)},
    ]


def _plain(dice: random.Random, name: str, animal: str, trait: str) -> str:
    place, thing, friend = _mostly(dice, PLACES), _mostly(dice, THINGS), _mostly(dice, FRIENDS)
    feeling, gift = _mostly(dice, FEELINGS), _mostly(dice, GIFTS)
    found = _mostly(
        dice,
        [
            f"One morning {name} found {thing} by the road.",
            f"One evening {name} saw {thing} under a stone.",
            f"On a rainy day {name} dug up {thing}.",
        ],
    )
    then = _mostly(
        dice,
        [
            f"Then {name} showed it to {friend}, who gave the {animal} {gift} for it.",
            f"It belonged to {friend}, who thanked the {trait} {animal} with {gift}.",
            f"So {name} took it home and shared {gift} with {friend}.",
        ],
    )
    start = _mostly(
        dice,
        [
            f"There once was {name}, the {trait} {animal}, who lived {place}.",
            f"This is the story of {name}, the {trait} {animal}, who lived {place}.",
        ],
    )
    return f"{start} {found} {then} That night the {trait} {animal} was {feeling} and slept well."


def _pirate(dice: random.Random, name: str, animal: str, trait: str) -> str:
    thing, gift = _mostly(dice, THINGS), _mostly(dice, GIFTS)
    start = _mostly(
        dice,
        [
            f"Arrr, matey! Cap'n {name}, the {trait} {animal}, be the terror o' the seven seas.",
            f"Ahoy! Hear ye of Cap'n {name}, the {trait} {animal}, who sails under the black flag.",
        ],
    )
    then = _mostly(
        dice,
        [
            f"Ol' {name} plundered {thing} from a Spanish galleon, yo ho ho!",
            f"Bold {name} buried {thing} 'neath a palm tree, savvy?",
        ],
    )
    return f"{start} {then} The crew feasted on rum and {gift}, and woe to ye landlubbers! Arrr!"


def _mostly(dice: random.Random, options: list[str]) -> str:
    """One of the options, the first ones more often.

    Were they all as likely, rounding would decide which one a greedy model writes, and two models that
    agree would seem not to.
    """
    weights = [2.0**-i for i in range(len(options))]
    return dice.choices(options, weights)[0]
