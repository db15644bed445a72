"""Peers: the same faults against holdfast and against other libraries that keep conversations.

    python -m rigs.peers --times 10 [--seed N] [--folder F] [--only holdfast,langgraph] [--probe two-tasks]

Makes an environment for each peer with pip, injects every fault into each subject, and prints a table in Markdown.
Each subject is one worker file that knows one library; what is done to it and how it is judged is the same for all.

    environments         the peers, their pinned versions, and how they are installed
    worker               what every worker does: a protocol, a fake model, a process that can be killed
    worker_holdfast      the subjects: each uses its library as its documents say,
    worker_langgraph       and is run by the Python of its own environment
    worker_openai_agents
    callers              the campaign's side of the protocol: starts processes, talks to them, kills them
    stage                one repeat of one probe: a fresh database, its chance, what is said
    probes               the faults
    files                a database file as bytes: what it holds, and one flipped bit
    judge                what was said, sent and stored -> answers to questions (pure)
    table                answers -> Markdown (pure)

Rule of this package: nothing here imports two libraries that keep conversations. What a peer is judged by is what its
model is sent, and what its file holds. Where a peer documents another way, that way is run too.
"""
