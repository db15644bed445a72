"""The offline partner's jokes and voices, and how a joke is told.

Rule of this file: a punchline is never reworded, however the joke is told. A joke bears a strange voice and any
number of emojis, but not another punchline; and it is by its punchlines that the partner finds the jokes it has
told in the messages it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct


class Joke(Struct, frozen=True):
    """A joke in two halves. `topic` is a key of TOPICS, or "" for one that is not from this collection."""

    topic: str
    setup: str
    punchline: str


class Voice(Struct, frozen=True):
    """How somebody tells a joke: what they say around the halves, and their words for some of ours (setup only).

    `{echo}` in the closing stands for the punchline's last words.
    """

    opening: str
    middle: str = ""
    closing: str = ""
    emoji: str = ""
    words: Mapping[str, str] = {}
    loud: bool = False


# What each topic is also called. The order is the order in which topics are offered.
TOPICS: dict[str, tuple[str, ...]] = {
    "pirate": ("pirate", "pirates", "buccaneer", "buccaneers"),
    "robot": ("robot", "robots", "android", "androids", "bot", "bots", "chatbot", "chatbots", "ai"),
    "programmer": ("programmer", "programmers", "programming", "developer", "developers", "coder", "coders"),
    "cat": ("cat", "cats", "kitten", "kittens"),
    "penguin": ("penguin", "penguins"),
    "ghost": ("ghost", "ghosts"),
    "parrot": ("parrot", "parrots"),
    "octopus": ("octopus", "octopuses", "octopi"),
}

JOKES: tuple[Joke, ...] = (
    Joke(
        "pirate",
        "Why did the pirate take his parrot to the bank?",
        "It was the only one aboard who kept repeating the account number.",
    ),
    Joke(
        "pirate",
        "Why does the pirate dig into every hot cross bun?",
        "X marks the spot, and this time somebody has buttered it.",
    ),
    Joke(
        "pirate",
        "Why was the pirate thrown out of the orchestra?",
        "Whenever the others played a high C, he set sail for it.",
    ),
    Joke(
        "robot",
        "A robot goes to the doctor and says that it feels nothing at all.",
        "“Wonderful,” says the doctor. “All tests passed.”",
    ),
    Joke(
        "robot",
        "Why does nobody play hide-and-seek with the robot?",
        "It counts to 10 in binary and comes looking after two.",
    ),
    Joke(
        "robot",
        "Why did the robot fall in love with the vacuum cleaner?",
        "It was the first one who ever picked up everything it dropped.",
    ),
    Joke(
        "programmer",
        "Why did the programmer plant a bug in the garden?",
        "The release notes had promised new features by spring.",
    ),
    Joke(
        "programmer",
        "At the checkout, a programmer is asked: “Anything else?”",
        "“I have no idea,” says the programmer. “I only wrote the if.”",
    ),
    Joke(
        "cat",
        "Why did the cat apply for a job in quality control?",
        "It wanted to be paid, at last, for pushing things off the table.",
    ),
    Joke(
        "cat",
        "The cat has written its memoirs, and they are very short.",
        "“I was let in. I was let out. I was let in.”",
    ),
    Joke(
        "penguin",
        "Why is the penguin never invited to a casual party?",
        "It has been overdressed since it hatched.",
    ),
    Joke(
        "penguin",
        "How does a penguin take its drink?",
        "On the rocks, and it brings the rocks.",
    ),
    Joke(
        "ghost",
        "Why did the ghost fail its driving test?",
        "It went straight through the roundabout, the wall and the examiner.",
    ),
    Joke(
        "ghost",
        "Why did the ghost move out of the old castle?",
        "It could not get used to the living conditions.",
    ),
    Joke(
        "parrot",
        "Why did the parrot get the job in the call centre?",
        "It could say “your call is important to us” all day, and mean it as much as anybody there.",
    ),
    Joke(
        "octopus",
        "Why does the octopus lose every game of cards?",
        "It has eight good hands and one honest face.",
    ),
)

VOICES: dict[str, Voice] = {
    "parrot": Voice("Squawk!", "Squawk!", "{echo}! {echo}! Pieces of eight!", "🦜"),
    "pirate": Voice(
        "Arrr, lend me yer ears!",
        "Har har!",
        "Now swab the deck, ye landlubbers!",
        "🏴‍☠️",
        {"the": "th'", "is": "be", "of": "o'", "his": "'is", "my": "me", "you": "ye", "your": "yer", "and": "an'"},
    ),
    "robot": Voice(
        "Beep. Joke module loaded. Setup:", "Bzzt. Punchline:", "Laughter in 3, 2, 1. Ha. Ha. Ha.", "🤖", loud=True
    ),
    "cat": Voice("Meow. You may listen.", "Purr:", "Meow. Now open a tin.", "🐾"),
    "ghost": Voice("Whoooo goes there?", "Boooo!", "And with that it faded through the wall.", "👻"),
    "poet": Voice(
        "Hark, gentle friends!",
        "O sweet surprise:",
        "Exit, pursued by laughter.",
        "🎭",
        {"does": "doth", "has": "hath", "goes": "goeth", "you": "thou", "your": "thy", "never": "ne'er"},
    ),
    "butler": Voice("If I may be so bold:", "One is informed, I regret to say:", "Will that be all?", "🎩"),
    "grandmother": Voice("Come and sit down, dear.", "Now, you will like this:", "Have another biscuit.", "🧶"),
    "commentator": Voice(
        "And we are off!", "Here it comes, and it goes in:", "What a finish! The crowd goes wild!", "📣"
    ),
}

VOICE_NAMES: dict[str, tuple[str, ...]] = {
    "parrot": ("parrot", "parrots", "macaw", "cockatoo"),
    "pirate": ("pirate", "pirates", "buccaneer", "sailor"),
    "robot": ("robot", "robots", "android", "computer", "machine"),
    "cat": ("cat", "cats", "kitten"),
    "ghost": ("ghost", "ghosts"),
    "poet": ("poet", "shakespeare", "bard"),
    "butler": ("butler", "valet"),
    "grandmother": ("grandmother", "grandma", "granny", "gran", "nana"),
    "commentator": ("commentator", "sportscaster", "announcer"),
}

EMOJIS: dict[str, str] = {
    "pirate": "🏴‍☠️",
    "parrot": "🦜",
    "bank": "🏦",
    "account": "💰",
    "bun": "🥯",
    "spot": "❌",
    "buttered": "🧈",
    "orchestra": "🎻",
    "sail": "⛵",
    "robot": "🤖",
    "doctor": "🩺",
    "tests": "✅",
    "hide-and-seek": "🙈",
    "binary": "🔢",
    "love": "💘",
    "vacuum": "🧹",
    "programmer": "🧑‍💻",
    "bug": "🐛",
    "spring": "🌷",
    "checkout": "🛒",
    "cat": "🐱",
    "job": "💼",
    "table": "🏺",
    "memoirs": "📖",
    "penguin": "🐧",
    "party": "🎉",
    "overdressed": "🤵",
    "drink": "🥤",
    "rocks": "🧊",
    "ghost": "👻",
    "driving": "🚗",
    "roundabout": "🔄",
    "wall": "🧱",
    "castle": "🏰",
    "call": "📞",
    "octopus": "🐙",
    "cards": "🃏",
    "hands": "✋",
    "dog": "🐶",
    "fish": "🐟",
    "ship": "🚢",
    "computer": "💻",
}

_NOT_WORDS = re.compile(r"[\W_]+")


def tell(joke: Joke, voice: Voice | None = None, *, emojis: bool = False) -> str:
    """The joke as somebody tells it: plainly, in a voice, with emojis, or both."""
    setup, punchline = joke.setup, joke.punchline
    if voice is not None:
        setup = re.sub(r"[A-Za-z]+", lambda word: voice.words.get(word[0], word[0]), setup)
        setup, punchline = _spaced(voice.opening, setup), _spaced(voice.middle, punchline)
    if emojis:
        setup = _spaced(setup, *(_emojis_for(joke.setup) or ["🤔"]))
        punchline = _spaced(punchline, *_emojis_for(joke.punchline), "😂")
    lines = [setup, punchline]
    if voice is not None and voice.closing:
        closing = voice.closing.replace("{echo}", _last_words(joke.punchline))
        lines.append(_spaced(closing, voice.emoji if emojis else ""))
    text = "\n".join(lines)
    return text.upper() if voice is not None and voice.loud else text


def found_in(text: str) -> Joke | None:
    """The joke of this collection whose punchline stands in `text`, in whatever voice it was told."""
    folded = _folded(text)
    return next((joke for joke, punchline in _PUNCHLINES if punchline in folded), None)


def begun_in(text: str) -> Joke | None:
    """The joke of which `text` is only a beginning: an answer that was cut off."""
    folded = _folded(text)
    if folded.count(" ") < 3:
        return None
    return next((joke for joke, whole in _WHOLE if whole.startswith(folded) and whole != folded), None)


def as_joke(text: str) -> Joke:
    """A joke that another has told, split before its last sentence so that it can be told again."""
    match = re.match(r"(.*[.?!:][\"”’]?)\s+(\S.*)", text.strip()[:900], re.DOTALL)
    setup, punchline = match.groups() if match else (text.strip()[:900], "")
    return Joke("", setup, punchline)


def topic_in(text: str) -> str | None:
    """The topic that `text` speaks of, if there is a joke about it."""
    return named_in(text, TOPICS)


def named_in(text: str, names: Mapping[str, Iterable[str]]) -> str | None:
    """Which of `names` the text speaks of: the first, but the parrot in "a pirate's parrot"."""
    meant = {word: name for name, words in names.items() for word in words}
    found = [match for match in re.finditer(r"[^\W_]+", text) if match[0].lower() in meant]
    if not found:
        return None
    free = [match for match in found if not text.startswith("'s", match.end())]
    return meant[(free or found)[0][0].lower()]


def with_article(noun: str) -> str:
    """ "a pirate", "an octopus"."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _folded(text: str) -> str:
    return _NOT_WORDS.sub(" ", text.casefold()).strip()


def _spaced(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _emojis_for(sentence: str) -> list[str]:
    words = re.findall(r"[a-z-]+", sentence.lower())
    found = [EMOJIS.get(word) or EMOJIS.get(word.removesuffix("s")) for word in words]
    return list(dict.fromkeys(emoji for emoji in found if emoji))[:3]


def _last_words(punchline: str) -> str:
    words = _NOT_WORDS.sub(" ", punchline).split()[-2:]
    return " ".join(words)[:60].capitalize() or "Ha"


_PUNCHLINES = tuple((joke, _folded(joke.punchline)) for joke in JOKES)
_WHOLE = tuple((joke, _folded(tell(joke))) for joke in JOKES)
