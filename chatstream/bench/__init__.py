"""
`chatstream bench`: what a delivered token costs here, beside two baselines in the same run.

::

    upstream    a provider that speaks OpenAI, as a process
    baselines   a bare ASGI app that sends the same bytes, and the relay that most would write
    processes   servers as processes: their CPU time and their memory
    clients     the load: raw SSE and WebSocket readers that check every text
    streams     many chats at once, in turns between the servers
    endpoints   history, clear and feedback under twenty callers; memory
    flood       what one user's flood does to the others' first token
    providers   reading a provider's stream, beside httpx and its lines
    report      tables, ratios and what makes them doubtful
    readers     subscribers by the thousand, over raw SSE and WebSocket
    storm       a thousand of them come back at once; what running turns feel
    idle        memory of one that has nothing to read
    behind      in how many writes one that is behind is caught up
    recovery    a start on what a crash left
"""
