"""The command line: `holdfast chat`, `threads` and `doctor`. A surface on the roof: nothing below knows of it.

`main` reads the arguments and turns errors into exit codes. `chat`, `threads` and `doctor` are the commands; a module
is imported when its command is chosen, so that help costs nothing. The rest serves them:

    session      one conversation: say something, show the answer as it comes
    commands     what may be typed in a chat besides messages, as one table
    prompt       where lines come from: a person at a terminal, or a pipe
    interrupts   what Ctrl-C means
    loading      the tools that --tools names
    calls        tool calls, shown while they are made
    approving    calls that wait to be allowed, asked about
    branches     the ways that a conversation has gone, and which one a person means
    underway     a turn that has not ended: who makes it, what there is of it, how to end it
    changes      threads: fork, rewind, switch, stop, rename, delete
    export       threads: written down, as JSON, Markdown, messages
    finding      which threads there are, and which one a person means
    checks       what the doctor found: check_system, check_store, check_service
    partner      who answers
    screen       what goes to stdout, what goes beside it
    transcript   turns as text and as JSON
    places       --store
    trouble      errors in the words of this program
    terminal     pure: text from elsewhere made safe, widths, colours
"""
