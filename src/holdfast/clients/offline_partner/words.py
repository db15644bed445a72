"""How the offline partner reads a message: the words in it, a name, a voice, a subject; and how it quotes.

Rule of this file: pure functions from text to text, each in time linear in what they look at, and whatever
somebody may write, none of them raises.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from holdfast.clients.offline_partner.jokes import VOICE_NAMES, VOICES, Voice, named_in, with_article

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_SPACE = re.compile(r"\s*\n\s*(?=[a-z])|[^\S\n]+")
_INNER = str.maketrans("“”", "‘’")
_QUOTES = str.maketrans("‘’“”", "''\"\"")


def plain(text: str) -> str:
    """What the rules look at: no code (the word joke in a program asks for nothing), no control characters.

    White space is single; a line break stays one where a sentence may begin. Of a very long message it is the
    beginning and the end: that is where people put what they want.
    """
    if "`" in text:
        text = _CODE.sub(" ", text)
    text = text.strip()
    if len(text) > 2000:
        text = f"{text[:1500]}\n{text[-500:]}"
    return _SPACE.sub(" ", printable(text.translate(_QUOTES))).strip()


def printable(text: str) -> str:
    """The text without what could do harm on a terminal; lines stay lines."""
    if text.isprintable():
        return text
    # U+200D holds emojis of several parts together.
    return "".join(sign if sign.isprintable() or sign in "\n\u200d" else " " for sign in text)


def quoted(text: str, longest: int = 200) -> str:
    """The text in quotation marks: on one line, shortened, safe to print."""
    return f"“{shortened(text, longest).translate(_INNER)}”"


def shortened(text: str, longest: int) -> str:
    """The beginning of the text on one line."""
    line = " ".join(printable(text.strip()[: longest * 4]).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def counted(number: int, noun: str) -> str:
    """ "1 file", "2 files"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(items: list[str], last: str = "and") -> str:
    """ "a, b and c"; "" for nothing."""
    return f"{', '.join(items[:-1])} {last} {items[-1]}" if len(items) > 1 else "".join(items)


# --- how a joke is wanted ---------------------------------------------------------------------------------------

# Where the name of a voice or of a subject ends. "Dr. No" is one name.
_END = re.compile(
    r"""(?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bSt) [.?!,;:)"] (?:\s|\Z)
      | [\n?!]
      | \s (?: please | again | now | would | but | with | for\ (?:me|us) | this\ time
             | in\ (?:the|an?|my|your)\ [^.?!]{0,40}(?:voice|style|accent)
             | and\ (?:add|use|with|put|tell|make|sprinkle|give|say|do|also|then|in) ) \b""",
    re.IGNORECASE | re.VERBOSE,
)
_VOICE = re.compile(
    r"""\b in\ (?:the|an?)\ (?:[\w-]+\ )?(?:voice|style|manner|tone|accent|words)\ of\ (?P<of>.{1,80})
      | \b in\ (?:(?:an?|the|my|your|his|her|their)\ )?
          (?P<own>(?!(?:the|an?|my|your)\b)[\w'-]+(?:\ [\w'-]+){0,4}?)(?:'s|s')?\ (?:voice|accent|style|manner)\b
      | \b (?:re)?(?:tell|say|repeat|do|perform|read)\ (?:(?:me|us)\ )?
          (?:it|that|this|(?:the|that|this|your)\ (?:\w+\ )?joke)\ (?:again\ )?
          (?:like|as)\ (?:told\ by\ |if\ told\ by\ )?(?P<like>.{1,80})
      | \b (?:talk|speak|sound)\ like\ (?P<sound>.{1,80})""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_EMOJIS = re.compile(
    r"\b(?:add|put|use|using|with|without|no|more|some|include|sprinkle|throw in|remove|drop)\b"
    r"[^.?!\n]{0,40}?\bemojis?\b",
    re.IGNORECASE,
)
_NO_EMOJIS = re.compile(r"\b(?:without|no|remove|drop) (?:(?:any|the|all|these|those) )*emojis?\b", re.IGNORECASE)
_ABOUT = re.compile(
    r"\b(?:jokes?|one|another|more)(?: [\w']+){0,2}? (?:about|on|involving|featuring|with(?!.{0,20}\bemojis?\b)) "
    r"(.{1,80})",
    re.IGNORECASE | re.DOTALL,
)
_ANYTHING = re.compile(r"(?:any|some|every) ?thing\b|(?:whatever|it|that|this|your choice)\b", re.IGNORECASE)

# For the rules: a request that names a voice or emojis.
STYLED = f"(?:{_EMOJIS.pattern}|(?x:{re.sub('[?]P<[a-z]+>', '?:', _VOICE.pattern)}))"


class Style(NamedTuple):
    """How a joke is wanted; None is for what the request does not speak of."""

    voice: Voice | None = None
    emojis: bool | None = None


def style_in(request: str) -> Style:
    """The voice and the emojis that a request asks for."""
    voice = _VOICE.search(request)
    emojis = _NO_EMOJIS.search(request) is None if _EMOJIS.search(request) else None
    return Style(_voice(voice) if voice else None, emojis)


def _voice(match: re.Match[str]) -> Voice | None:
    """Whose voice it is: one that is known, or anybody's."""
    kind = match.lastgroup or "of"
    whom = _END.split(match[kind], maxsplit=1)[0].strip(" .'\"-")[:60]
    known = named_in(whom, VOICE_NAMES)
    if known or not whom:
        return VOICES[known] if known else None
    own = f"In {whom if chr(39) in whom else with_article(whom)} voice"
    manner = {"of": f"In the voice of {whom}", "own": own}.get(kind, f"Like {whom}")
    return Voice(f"{manner}, as well as rules can do it:", "(Here they would pause, I think.)", "Curtain!", "🎭")


def subject_in(request: str) -> str:
    """What a joke is to be about, as "a submarine" in "a joke about a submarine"; "" if that is left open."""
    about = _ABOUT.search(request)
    subject = _END.split(about[1], maxsplit=1)[0].strip(" .'\"") if about else ""
    return "" if _ANYTHING.match(subject) else subject


# --- names ------------------------------------------------------------------------------------------------------

_WORD = r"[^\W\d_](?:[\w'-]*[^\W_])?"
_NAME = re.compile(
    rf"""(?: (?P<sure> (?i: \b my\ name(?:\ is|'s) | (?<!n't\ )(?<!not\ )(?<!never\ )\b call\ me | \b i\ am\ called
                          | \b i\ go\ by))
           | (?i: \b i'm | \b i\ am) )
        \s+ "? (?P<name> {_WORD} (?:\ {_WORD}){{0,2}} )""",
    re.VERBOSE,
)
_NO_NAME = frozenset(
    """
    a an the not no what who how why when where if so very just still also really quite too later back maybe tomorrow
    today now here there in on at from by of and or but to for with your my his her our their it that this sorry sure
    ok okay fine good great well happy sad glad tired hungry bored done ready going trying looking english british
    american french german spanish italian dutch irish scottish welsh polish russian indian chinese japanese korean
    swedish norwegian danish finnish greek turkish european african asian christian muslim jewish monday tuesday
    wednesday thursday friday saturday sunday
    """.split()  # noqa: SIM905 - a list of words reads better as words
)


def name_in(request: str) -> str | None:
    """The name that somebody gives themselves in these words.

    After "my name is" any word will do; after "I'm" only one that is written like a name: "I'm tired" is none.
    """
    for match in _NAME.finditer(request):
        first, *more = match["name"].split(" ")
        like_a_name = not first[0].islower() and (len(first) == 1 or not first.isupper())
        if first.lower() in _NO_NAME or not (like_a_name or match["sure"]):
            continue
        words = [first[0].upper() + first[1:]]
        for word in more:
            if not word[0].isupper() or word.lower() in _NO_NAME:
                break
            words.append(word)
        return " ".join(words)[:60]
    return None
