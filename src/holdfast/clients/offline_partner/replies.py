"""What the offline partner replies, one function for each rule.

Rule of this file: nothing is remembered between calls. Whatever the partner knows it reads from the messages in
front of it, and what is not there it says it was not sent; so a conversation that lost its context shows at once.

A reply gets what was sent and the match of its rule's pattern. None means that it has nothing to say after all.
"""

from __future__ import annotations

import re

from holdfast.clients.offline_partner.jokes import (
    JOKES,
    TOPICS,
    Joke,
    as_joke,
    begun_in,
    found_in,
    tell,
    topic_in,
    with_article,
)
from holdfast.clients.offline_partner.sent import Said, Sent
from holdfast.clients.offline_partner.words import (
    Style,
    counted,
    listed,
    name_in,
    plain,
    printable,
    quoted,
    shortened,
    style_in,
    subject_in,
)

WHO = "I am holdfast's offline partner: a set of rules, no language model."
NO_JOKE_ABOUT = "I know no joke about"
OFFER = "Shall I tell you"


def attachments(*messages: Said) -> str:
    """The images and files of these messages in words, "" if there are none."""
    images = sum(message.images for message in messages)
    files = [name for message in messages for name in message.files]
    told = [counted(images, "image")] if images else []
    if files:
        names = ", ".join(shortened(name, 40) for name in files[:5]) + (", …" if len(files) > 5 else "")
        told.append(f"{counted(len(files), 'file')} ({names})")
    return listed(told)


# --- jokes ------------------------------------------------------------------------------------------------------


def tell_joke(sent: Sent, match: re.Match[str]) -> str:
    """A new joke, about what was asked for if there is one; otherwise the truth about that."""
    subject = subject_in(sent.request)
    topic = topic_in(subject or match[0])
    if subject and topic is None:
        known = listed([with_article(topic) for topic in TOPICS], "or")
        about = shortened(subject, 40)
        return f"{NO_JOKE_ABOUT} {about}, and a set of rules cannot invent one. {OFFER} one about {known}?"
    if topic is None and re.search(r"\b(?:another|one more|next|different|more)\b", match[0], re.IGNORECASE):
        return tell_another(sent, match)
    return _tell_new(sent, topic)


def tell_another(sent: Sent, match: re.Match[str]) -> str:
    """A joke that was not told yet, about the same as the last one."""
    if subject_in(sent.request):
        return tell_joke(sent, match)
    previous = _previous(sent)
    if previous is None:
        return "I was not sent any earlier joke, so to me this is the first:\n" + _tell_new(sent, None)
    return _tell_new(sent, previous.topic or None)


def tell_about(sent: Sent, match: re.Match[str]) -> str | None:
    """ "And about a cat?", or just "a cat": asks for a joke only where jokes were spoken of."""
    last = sent.mine[-1].text if sent.mine else ""
    return _tell_new(sent, topic_in(match[0])) if OFFER in last or found_in(last) else None


def _tell_new(sent: Sent, topic: str | None) -> str:
    """A joke that these messages do not hold yet: about the topic while there is one, then about others."""
    new = [joke for joke in JOKES if joke not in sent.told]
    left = new or sent.told[:-1]  # in the end the one told longest ago, not the last one again
    fitting = [joke for joke in left if topic in (None, joke.topic)]
    joke = (fitting or left)[0]
    lead = ""
    if not new:
        lead = "You have had every joke that I know, so here is one of them again:\n"
    elif not fitting:
        lead = f"You have had all my jokes about {_any(topic)}. Here is one about {_any(joke.topic)}:\n"
    style = style_in(sent.request)
    return lead + tell(joke, style.voice, emojis=bool(style.emojis))


def _any(topic: str | None) -> str:
    return with_article(topic) if topic else "anything"


def retell_joke(sent: Sent, match: re.Match[str]) -> str:
    """The last joke again, in the style that is asked for."""
    named = re.search(r"\b([\w'-]+) joke\b", sent.request, re.IGNORECASE)
    subject = subject_in(sent.request) or (topic_in(named[1]) if named else None) or ""
    joke = _previous(sent, subject)
    if joke is None:
        about = f" about {shortened(subject, 40)}" if subject else ""
        return (
            f"I would love to, but I was not sent any earlier joke{about}: there is none in the messages before me. "
            "Ask me for one first, and I shall gladly tell it again."
        )
    style = _style_so_far(sent)
    return tell(joke, style.voice, emojis=bool(style.emojis))


def explain_joke(sent: Sent, match: re.Match[str]) -> str:
    """An honest attempt."""
    joke = _previous(sent)
    if joke is None:
        return "I was not sent any earlier joke, so there is none that I could explain."
    return f"It hangs on this line: {quoted(joke.punchline or joke.setup)} I know it by heart; laughing is your part."


def go_on(sent: Sent, match: re.Match[str]) -> str | None:
    """What a cancelled stream or a killed process left of an answer is among the messages: start it once more."""
    joke = begun_in(sent.mine[-1].text) if sent.mine else None
    return f"Where was I? From the top:\n{tell(joke)}" if joke else None


def _previous(sent: Sent, subject: str = "") -> Joke | None:
    """The joke that was told last (about the subject, if there is one), by the partner or a model before it."""
    bare = re.sub(r"\A(?:an?|the|some|any|my|your) ", "", subject, flags=re.IGNORECASE)
    for asked, text in reversed(sent.exchanges):
        joke = found_in(text) or begun_in(text) or _foreign(sent, asked, text)
        if joke is None:
            continue
        meant = bare.lower() in f"{asked} {joke.setup} {joke.punchline}".lower()
        if meant or (joke.topic and joke.topic == topic_in(subject)):
            return joke
    return None


def _foreign(sent: Sent, asked: str, text: str) -> Joke | None:
    """A joke that is not from the collection: whatever another model answered when it was asked for one."""
    if not re.search(r"joke|laugh|smile|funny|cheer|another|one more", asked[:2000], re.IGNORECASE):
        return None
    text = printable(text[:2000]).strip()
    is_joke = text and NO_JOKE_ABOUT not in text and sent.reply_to(asked) in (tell_joke, tell_another)
    return as_joke(text) if is_joke else None


def _style_so_far(sent: Sent) -> Style:
    """The style asked for since the last new joke, now included: "add emojis" keeps the voice of before."""
    wanted = style_in(sent.request)
    for said in reversed(sent.before):
        reply = sent.reply_to(said.text)
        if reply in (tell_joke, tell_another, retell_joke):
            earlier = style_in(plain(said.text))
            wanted = Style(wanted.voice or earlier.voice, earlier.emojis if wanted.emojis is None else wanted.emojis)
        if reply in (tell_joke, tell_another) or None not in wanted:
            break
    return wanted


def no_jokes(sent: Sent, match: re.Match[str]) -> str:
    """Not wanted."""
    return "All right, no jokes. I can also remember your name, or tell you what you said first."


def hear_joke(sent: Sent, match: re.Match[str]) -> str:
    """The user has one."""
    return "Go on, I am listening! Being a set of rules I shall not get it, but I am a grateful audience."


# --- names and other things to remember -------------------------------------------------------------------------


def tell_name(sent: Sent, match: re.Match[str]) -> str:
    """The user's name."""
    if sent.name:
        return f"Your name is {sent.name}. You told me so in this conversation."
    return "You have not told me your name in the messages that I was sent. Say “my name is …”, and I will know it."


def note_name(sent: Sent, match: re.Match[str]) -> str | None:
    """The user says a name, or only "I'm tired"."""
    name = name_in(sent.request)
    return f"Nice to meet you, {name}! Ask me for your name later, and see whether I was sent it." if name else None


def tell_fact(sent: Sent, match: re.Match[str]) -> str:
    """Whatever the user has said of "my ..."."""
    thing = match["thing"].strip()
    fact = re.compile(rf"\bmy {re.escape(thing)} (?:is|are|was|were)\b", re.IGNORECASE)
    for said in reversed(sent.yours):
        for sentence in re.split(r"(?<=[.?!])\s|\n", plain(said.text)):
            if fact.search(sentence) and not sentence.endswith("?"):
                return f"You told me: {quoted(sentence)}"
    return f"You have not told me about your {shortened(thing, 40)} in the messages that I was sent."


def note_fact(sent: Sent, match: re.Match[str]) -> str:
    """Something to remember."""
    return f"Noted: {quoted(match[0])} I will know it for as long as I am sent this conversation."


# --- who said what ----------------------------------------------------------------------------------------------


def said_by_you(sent: Sent, match: re.Match[str]) -> str:
    """What the user said first, or last."""
    if not sent.before:
        return "Nothing before this: it is the first message of yours that I was sent."
    if _asks_for_first(sent.request):
        return f"The first thing you said was: {_what(sent.before[0])}"
    return f"Just before this you said: {_what(sent.before[-1])}"


def said_by_me(sent: Sent, match: re.Match[str]) -> str:
    """What the partner said first, or last."""
    if not sent.mine:
        return "Nothing yet: I was sent no earlier answer of mine."
    if _asks_for_first(sent.request):
        return f"The first thing I said was: {quoted(sent.mine[0].text, 600)}"
    return f"The last thing I said was: {quoted(sent.mine[-1].text, 600)}"


def _asks_for_first(request: str) -> bool:
    return re.search(r"\b(?:first|beginning|begin|start)\b", request, re.IGNORECASE) is not None


def _what(said: Said) -> str:
    words = [quoted(said.text)] if said.text.strip() else []
    return " and ".join([*words, attachments(said)] if attachments(said) else words) or "nothing"


def repeat(sent: Sent, match: re.Match[str]) -> str | None:
    """The last answer, as it was."""
    if not sent.mine:
        return "I would, but I was sent no earlier answer of mine to repeat."
    return printable(sent.mine[-1].text[:1000]).strip() or None


def count_messages(sent: Sent, match: re.Match[str]) -> str:
    """How much of the conversation was sent."""
    roles = [message.role for message in sent.messages]
    turns = sum(role == "user" and before != "user" for role, before in zip(roles, ["", *roles], strict=False))
    others = len(roles) - len(sent.yours) - len(sent.mine)
    parts = [f"{len(sent.yours)} from you (this one included)", f"{len(sent.mine)} from me"]
    parts += [counted(others, "other")] if others else []
    return f"I see {counted(len(roles), 'message')}: {listed(parts)}. This is turn {turns} of our conversation."


def tell_memory(sent: Sent, match: re.Match[str]) -> str:
    """All that can be known from what was sent."""
    if not sent.before and not sent.mine:
        return "Nothing yet: this message is the first that I was sent."
    facts = [f"your name is {sent.name}"] if sent.name else []
    if sent.before:
        facts.append(f"the first thing you said was {_what(sent.before[0])}")
    if len(sent.before) > 1:
        facts.append(f"just before this you said {_what(sent.before[-1])}")
    if sent.told:
        facts.append(f"I told you {counted(len(sent.told), 'joke')}, the last about {_any(sent.told[-1].topic)}")
    if attachments(*sent.yours):
        facts.append(f"you showed me {attachments(*sent.yours)}")
    facts.append(f"I have answered {counted(len(sent.mine), 'time')}")
    return f"From the messages that I was sent I know this: {'; '.join(facts)}."


# --- who is speaking --------------------------------------------------------------------------------------------


def instructions(sent: Sent, match: re.Match[str]) -> str:
    """What the agent was instructed to do, word for word: the proof that instructions are sent."""
    if not sent.instructions:
        return "I was sent no instructions, so I follow my rules alone."
    return f"My instructions are: {quoted(sent.instructions, 600)}"


def who(sent: Sent, match: re.Match[str]) -> str:
    """No language model."""
    told = f" My instructions say: {quoted(sent.instructions)}" if sent.instructions else ""
    return f"{WHO} I answer from nothing but the messages that I am sent.{told}"


def abilities(sent: Sent, match: re.Match[str]) -> str:
    """What can be asked."""
    return (
        f"{WHO} I can tell jokes ({', '.join(TOPICS)}), tell the last one again with emojis or in anybody's voice, "
        "remember your name, and say what was said before. "
        f"{sent.can_call or 'Try: “Tell me a joke about a pirate.”'}"
    )


# --- manners ----------------------------------------------------------------------------------------------------


def wordless(sent: Sent, match: re.Match[str]) -> str:
    """An image alone, "???", or nothing at all."""
    seen = attachments(sent.last) if sent.last.role == "user" else ""
    if seen:
        return f"I was sent {seen}, but I cannot look inside. Tell me about it in words!"
    return "I was sent a message without words that I can read. Say hello, or ask me for a joke about a pirate."


def greet(sent: Sent, match: re.Match[str]) -> str:
    """Hello."""
    if sent.mine:
        return f"Hello again{_comma_name(sent)}! What shall we do next?"
    return f"Hello! {WHO} Tell me your name, or ask me for a joke about a pirate."


def well(sent: Sent, match: re.Match[str]) -> str:
    """How are you?"""
    return "All my rules are in order, thank you! And how are you?"


def applause(sent: Sent, match: re.Match[str]) -> str:
    """Somebody laughed."""
    return "Thank you, I am here all week! Say “another one” for the next."


def tough_crowd(sent: Sent, match: re.Match[str]) -> str:
    """Nobody laughed."""
    return "A tough crowd! Say “another one”, and I will try to do better."


def welcome(sent: Sent, match: re.Match[str]) -> str:
    """Thanks."""
    return f"You are welcome{_comma_name(sent)}! Anything else?"


def goodbye(sent: Sent, match: re.Match[str]) -> str:
    """Goodbye."""
    return f"Goodbye{_comma_name(sent)}! Bring this conversation when you come back, and I will know all of it."


def _comma_name(sent: Sent) -> str:
    return f", {sent.name}" if sent.name else ""


def agree(sent: Sent, match: re.Match[str]) -> str:
    """Yes: to an offer, if one was made."""
    offered = bool(sent.mine) and OFFER in sent.mine[-1].text
    return _tell_new(sent, None) if offered else "Good! What shall we do next?"


def decline(sent: Sent, match: re.Match[str]) -> str:
    """No."""
    return "All right. I am here when you want something."


def echo(sent: Sent, match: re.Match[str]) -> str:
    """What was heard, and the nearest thing that rules can do."""
    if sent.can_call:
        hint = sent.can_call
    elif re.search(r"\b(?:jokes?|funny|emojis?|voice)\b", sent.request, re.IGNORECASE):
        hint = "With jokes I can do this: “Tell me a joke about a robot”, then “Now tell it in the voice of a pirate”."
    elif sent.request.endswith("?"):
        hint = "I have no answer to that, but you may ask me what you said first, or what your name is."
    else:
        hint = "I am a set of rules and understand little more; ask me “what can you do?” to see what."
    return f"I heard: {quoted(sent.last.text)} {hint}"
