"""The offline partner's rules: a table, read from top to bottom.

Rule of this file: `answer` is a pure function of what is sent. What has to do with tools goes first (see `calls`).
The first rule whose pattern is found in the last thing the user said, and whose reply has something to say, gives the
answer; the last rule fits everything.

The patterns see what `plain` makes of a message: single spaces, straight quotes, no code. Case does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from holdfast.clients.offline_partner import replies
from holdfast.clients.offline_partner.calls import Call, Unclear, Wishes, calls_for, can_call, in_form, results_told
from holdfast.clients.offline_partner.jokes import TOPICS
from holdfast.clients.offline_partner.replies import attachments
from holdfast.clients.offline_partner.sent import Reply, Said, Sent
from holdfast.clients.offline_partner.words import STYLED, plain

# No answer is longer, whatever was asked; the replies keep well below it by themselves.
LONGEST = 1900


NO_WISHES = Wishes()


class Spoken(NamedTuple):
    """What the partner says: words, or calls of tools."""

    text: str
    calls: Sequence[Call] = ()


def answer(instructions: str | None, messages: Sequence[Said], wishes: Wishes = NO_WISHES) -> Spoken:
    """What the partner says to these messages. The same messages get the same answer; it never raises.

    A tool that is named is called; then the form of an answer counts, if one is asked for; then the results of calls.
    """
    sent = Sent(instructions, messages, _reply_to, can_call(wishes))
    unclear = ""
    if sent.last.role == "user":
        try:
            calls = calls_for(sent.last.text, wishes)
        except Unclear as what:
            unclear, calls = str(what), []
        if calls:
            return Spoken("", calls)
    if wishes.answer_format is not None:
        return Spoken(in_form(sent.yours[-1].text if sent.yours else "", wishes.answer_format))
    return Spoken(_kept_short(unclear or _results(sent) or _words(sent)))


def _results(sent: Sent) -> str:
    """What came of the calls that were made last; "" if something was said since."""
    names = {call.id: call.name for said in sent.messages for call in said.calls}
    last: list[tuple[str, str, bool]] = []
    for said in reversed(sent.messages):
        if said.role != "tool":
            break
        last[:0] = [(names.get(each.id, ""), each.text, each.is_error) for each in said.results]
    return results_told(last)


def _words(sent: Sent) -> str:
    text = _first_reply(sent)
    seen = attachments(sent.last) if sent.last.role == "user" and sent.request else ""
    if seen:
        text += f"\n(I also see {seen}, but I cannot look inside.)"
    return text


def _kept_short(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST].rstrip() + "…"


def _first_reply(sent: Sent) -> str:
    for rule in RULES:
        match = rule.pattern.search(sent.request)
        text = rule.reply(sent, match) if match else None
        if text:
            return text
    raise AssertionError("The last rule fits everything.")


def _reply_to(text: str) -> Reply:
    request = plain(text)
    return next(rule.reply for rule in RULES if rule.pattern.search(request))


class Rule(NamedTuple):
    """If the pattern is found in the request, `reply` says the answer, or None to leave it to the rules below."""

    pattern: re.Pattern[str]
    reply: Reply


def _rule(reply: Reply, *patterns: str) -> Rule:
    return Rule(re.compile("|".join(patterns), re.IGNORECASE | re.DOTALL), reply)


# Words that may stand before a request without changing it.
_LEAD = (
    r"\A(?:\W*\b(?:please|ok|okay|now|and|then|so|hey|hi|hello|yes|well|just|great|haha|lol|again|but|also|maybe)\b)*"
    r"\W*"
)
# And after one.
_TAIL = r"(?:\W+(?:please|then|now|thanks|thank you|again|once more))*\W*\Z"
_TOPIC = rf"(?:{'|'.join(word for words in TOPICS.values() for word in words)})"
_WANT = (
    r"(?:tell|give|make|write|crack|share|know|hear|want|need|like|love|try|say|send|got|you have|how about"
    r"|what about|let's have|let me (?:have|hear))"
)
# "me a really good pirate joke", but not "me the joke" or "you a joke".
_A_JOKE = r"(?:(?!(?:it|its|it's|that|this|these|those|the|your|you|no)\b)[\w'-]+ ){0,5}jokes?\b"
_KIND_OF = r"(?:(?:an?|another|one more|some|more|any|new|different|other|next|quick|short|funny|good)\b )*"
_BE = r"(?:was|is|were|are)"

RULES: tuple[Rule, ...] = (
    _rule(replies.wordless, r"\A[^\w😂🤣]*\Z"),
    # Jokes that are not wanted, or that the user has.
    _rule(
        replies.no_jokes,
        r"(?<!why )\b(?:don't|do not|never|not) (?:\w+ )?(?:tell|want|like|need|give|make|hear)\b"
        r"[^,.?!\n]{0,40}\bjokes?\b",
        r"\b(?:no|stop|hate) (?:(?:more|the|all|these|your|telling|me|with) )*jokes?\b",
    ),
    _rule(
        replies.hear_joke,
        r"\b(?:tell you|you (?:want to|wanna) hear|i have|i've got|i know|i heard) an? (?:[\w'-]+ ){0,3}joke",
    ),
    # Who the partner is.
    _rule(
        replies.instructions,
        r"\byour (?:\w+ )?(?:instructions?|prompt|system message)\b",
        r"\bthe system (?:prompt|message)\b",
        r"\bwhat (?:do|are|were) the instructions\b",
        r"\bwhat (?:were|are) you (?:told|instructed)\b",
    ),
    _rule(
        replies.who,
        r"\b(?:who|what) are you\b(?! (?:doing|saying|going|talking|up|able))",
        r"\bwhat(?:'s| is) your name\b",
        r"\bare you (?:(?:an?|the|really|some) )*(?:\w+ )?"
        r"(?:ai|bot|robot|human|person|llm|model|gpt\S*|chatgpt|real|machine|alive)\b",
        r"\bintroduce yourself\b",
        r"\bwho (?:am i|is) (?:talking|this|speaking)\b",
        r"\b(?:what|which) (?:language )?model(?: are| is this| do you|\W*\Z)",
    ),
    # What was sent.
    _rule(
        replies.count_messages,
        r"\bhow many (?:\w+ ){0,2}?(?:messages?|turns?)\b",
        r"\bcount (?:the|our|my) (?:messages|turns)\b",
        r"\b(?:which|what) turn\b",
    ),
    _rule(
        replies.said_by_you,
        r"\bwhat (?:did|have|had) i (?:(?:just|first|last) )?(?:say|said|asked?|tell|told|write|written|send|sent)\b",
        rf"\bwhat {_BE} my (?:very )?(?:first|last|previous) (?:message|question|words?|request|sentence)\b",
        rf"\bwhat {_BE} the (?:very )?(?:first|last|previous) (?:thing|message|question|words?) (?:that )?i\b",
        r"\b(?:remember|repeat|know|recall) what i (?:(?:just|first|last) )?(?:said|asked|wrote|told)\b",
    ),
    _rule(
        replies.said_by_me,
        r"\bwhat (?:did|have) you (?:(?:just|first|last) )?(?:say|said|answer(?:ed)?|tell|told|reply|write|written)\b",
        rf"\bwhat {_BE} your (?:very )?(?:first|last|previous) (?:message|answer|reply|words?)\b",
        rf"\bwhat {_BE} the (?:very )?(?:first|last|previous) (?:thing|message|answer|words?) (?:that )?you\b",
    ),
    _rule(
        replies.tell_name,
        r"\b(?:what(?:'s| is| was)|say|tell me|remember|know|recall|forg[eo]t|forgotten) my (?:own )?name\b",
        r"\bwho am i\b",
        r"\bwhat am i called\b",
        r"\b(?:remember|know|recall) (?:me|who i am)\s*(?:[.?!,]|\Z)",
    ),
    _rule(
        replies.tell_memory,
        r"\bwhat (?:do|can|did) you (?:still )?(?:remember|recall)\b",
        r"\bwhat (?:do|can) you see\W*\Z",
        r"\bwhat do you (?:still )?know (?:about|of) (?:me|us|this conversation|so far)\b",
        r"\bdo you (?:still )?remember (?:anything|everything|our|this|what we)\b",
        r"\b(?:summari[sz]e|recap|sum up)\b[^.?!]{0,30}\b(?:conversation|chat|so far|this)\b",
        r"\bwhat have we\b",
    ),
    _rule(
        replies.tell_fact,
        r"\bwhat(?:'s|'re| is| are| was| were) my (?P<thing>[\w' -]{1,40}?)"
        r"(?: (?:again|called|named|like))*\s*(?:[?.!,]|\Z)",
    ),
    # Jokes: a new one, the last one again, one more.
    _rule(
        replies.tell_joke,
        rf"\b{_WANT} {_A_JOKE}",
        r"\b(?:tell|give)\b[^.?!\n]{0,80}\b(?:an?|another) (?:[\w'-]+ ){0,3}jokes?\b",
        r"(?<!\bthe )(?<!\bthat )(?<!\bthis )(?<!\byour )\bjokes? about \w",
        rf"{_LEAD}{_KIND_OF}(?:{_TOPIC} )?jokes?(?=\s*(?:[.?!,]|\Z)| (?:about|on|with|in|please|now|for|then)\b)",
        r"\bmake (?:me|us) (?:laugh|smile)\b",
        r"\bcheer (?:me|us) up\b",
        r"\b(?:say|tell (?:me|us)) something funny\b",
    ),
    _rule(
        replies.retell_joke,
        rf"\A(?=.*\b(?:it|that|this|joke|one|again|same)\b)(?=.*{STYLED})",
        rf"{_LEAD}(?:the )?(?:same )?(?:one )?(?={STYLED})",
        r"\b(?:re)?tell (?:me |us )?(?:it|that|this)(?: one)?(?:,? (?:please|again|once more|plainly)\b|\s*[.?!]|\Z)",
        r"\b(?:(?:re)?tell|repeat|say)\b[^.?!\n]{0,20}\b(?:the|that|this|your|last)\b[^.?!\n]{0,20}\bjoke\b",
        r"\bjoke (?:again|once more)\b",
        r"\bretell\b",
    ),
    _rule(
        replies.tell_another,
        rf"{_LEAD}(?:(?:tell|give) (?:me|us) )?(?:another|one more|the next|next|more)"
        rf"(?:\W+(?:one|joke|please|then|now))*(?: about .{{1,60}}|\W+{STYLED}.{{0,60}})?{_TAIL}",
    ),
    _rule(
        replies.tell_about,
        rf"{_LEAD}(?:(?:what|how|one|something) )?about (?:[\w'-]+ ){{0,2}}{_TOPIC}\b.{{0,40}}{_TAIL}",
        rf"{_LEAD}(?:(?:sure|an?|the) )*{_TOPIC}(?: one)?{_TAIL}",
    ),
    _rule(
        replies.explain_joke,
        r"\bexplain\b[^.?!]{0,30}\b(?:joke|it|that)\b",
        r"\bwhy is (?:it|that) funny\b",
        r"\bdon't (?:get|understand) (?:it|that|the joke|that joke)\b",
    ),
    # The last answer again.
    _rule(replies.go_on, rf"{_LEAD}(?:go on|continue|carry on|keep going|finish it|go ahead)\b.{{0,30}}\Z"),
    _rule(
        replies.repeat,
        rf"\b(?:repeat|say) (?:that|it|this|yourself|your last answer){_TAIL}",
        rf"\A\W*(?:again|once more|one more time|pardon|come again|repeat){_TAIL}",
    ),
    # What the user wants to be remembered.
    _rule(replies.note_name, r"\b(?:my name|call me|i'm|i am|i go by)\b"),
    _rule(
        replies.note_fact,
        r"\bmy (?!name\b)[\w' -]{1,40}? (?:is|are) (?!what|who|why|how)[^?\n]+\Z",
        r"\bremember (?:that|this)\b[^?\n]+\Z",
    ),
    # Manners.
    _rule(
        replies.abilities,
        r"\bwhat (?:else )?(?:can you|are you able to|do you) do\b",
        r"\A\W*help\b.{0,20}\Z",
        r"\bhow (?:do|does|can) (?:you|this) (?:work|help)\b",
    ),
    _rule(replies.well, r"\bhow (?:are|r) (?:you|u)\b", r"\bhow's it going\b", r"\bhow do you do\b"),
    _rule(
        replies.tough_crowd,
        r"\b(?:not|isn't|wasn't|never) (?:\w+ ){0,2}funny\b",
        r"\b(?:bad|terrible|awful|lame|worst|stupid|boring) (?:joke|one)\b",
        r"\bjoke (?:was|is) (?:\w+ )?(?:bad|terrible|awful|lame|stupid|boring)\b",
    ),
    _rule(
        replies.applause,
        r"\A\W*(?:(?:ha){2,}h?|lol|lmao|rofl)\b",
        r"[😂🤣]",
        r"\b(?:good|great|nice|best|funny|lovely|brilliant) (?:one|joke)\b",
        r"\bfunny\W*\Z",
    ),
    _rule(replies.welcome, rf"{_LEAD}(?:many )?(?:thanks|thank you|thx|cheers)\b"),
    _rule(replies.goodbye, r"\b(?:good ?bye|bye|good night|see you|see ya|farewell|so long)\b.{0,30}\Z"),
    _rule(
        replies.greet,
        r"\A\W*(?:hello|hi|hey|hiya|howdy|ahoy|greetings|good (?:morning|afternoon|evening|day))\b"
        r"(?:\W+[\w']+){0,4}\W*\Z",
    ),
    _rule(
        replies.agree,
        r"\A(?:\W*\b(?:yes|yeah|yep|sure|ok|okay|of course|why not|please|do|go ahead|i would|tell me one|any)\b)+"
        rf"{_TAIL}",
    ),
    _rule(replies.decline, r"\A\W*(?:no|nope|nah|not now)(?:\W+thanks|\W+thank you)?\W*\Z"),
    # Whatever else was said.
    _rule(replies.echo, r""),
)
