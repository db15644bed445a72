"""Rigs: campaigns that try to break holdfast from outside, and one oracle that judges what is left.

    python -m rigs.kill --kills 1000       kill -9 at random moments of turns, over real sockets and a real file

Rule of this package: the library is run as it is. What a campaign has to know or to do is hung around it (a store
and a client that are subclasses, a service that writes down what it saw), never into it. A rig needs nothing that
`pip install -e '.[test]'` does not bring, and no root.

    talk       what is said: tokens, texts, answers (pure, known to all sides)
    evidence   the forms in which a campaign writes down what happened
    contents   what a store holds, read by a fresh process
    oracle     evidence -> violations (pure)
    marks      where every talker is, in memory that outlives its process
    aim        where the next kill is to fall
    service    the strict stand-in as a process that writes down what it was asked
    workers    the processes that are killed
    plants     planted faults: they prove that the oracle is not blind
    reports    what is printed
    kill       the campaign, and its command
"""
