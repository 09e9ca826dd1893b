"""
A turn that is asked for: who will answer it, its place among those that run, its `turn.started`.
"""

from __future__ import annotations

import time

from chatstream.events import Json, timestamp
from chatstream.log.files.live_turn import LiveTurn
from chatstream.providers import ProviderRequest
from chatstream.providers.registry import Providers
from chatstream.providers.route.attempts import Route
from chatstream.providers.route.cache import Answers
from chatstream.providers.route.cached import CachedRoute
from chatstream.providers.route.source import Source
from chatstream.schemas import ReplacingTurnRequest, TurnRequest
from chatstream.settings import Settings
from chatstream.turns.admission import Admission, Slot
from chatstream.turns.reply import Reply
from chatstream.views.versions import AgainRequest


class Starting:
    """
    What one request needs to start a turn. `leave` must follow, whatever became of it.

    Nothing is needed where the turn turns out to be known: neither `check` nor `take` is called.

    Attributes:
        slot: Its place among the running turns, to be passed on to the turn.
    """

    def __init__(
        self,
        request: TurnRequest,
        providers: Providers,
        settings: Settings,
        admission: Admission,
    ) -> None:
        self._request = request
        self._providers = providers
        self._settings = settings
        self._admission = admission
        self.slot = Slot(admission, request.user_id)
        self._route: Route | None = None
        self._taken: tuple[Route, Json] | None = None

    def check(self) -> None:
        """
        Refuse what can surely not start, before anything is done for it.

        Raises:
            BadRequest: The provider is unknown here.
            Unavailable, StorageFull, StorageFailed: The server drains, or the disk has no room.
        """
        self._found_route()
        self._admission.check_open()

    def take(self) -> Json:
        """
        Take the places that the turn needs; returns what `turn.started` says.

        Again it looks whether they may still be used.

        Raises:
            BadRequest, Unavailable, TooManyRequests, StorageFull, StorageFailed: It cannot start.
        """
        route = self._found_route()
        route.admit()
        self.slot.take()
        fields = self._started(route)
        self._taken = route, fields
        return fields

    def reply(self, turn: LiveTurn, answers: Answers | None) -> Reply | None:
        """
        Return the reply of the turn that was started; None where it was not by this request.

        `answers` are looked into first, unless another answer is what is wanted.
        """
        if self._taken is None:
            return None
        request = self._request
        route, fields = self._taken
        self._route = None  # it is the reply's from now on
        asked = ProviderRequest(
            messages=(),
            model=fields["request"]["model"],
            system=fields["request"].get("system"),
            temperature=request.temperature,
            max_tokens=request.max_tokens,
        )
        beginning = request.partial if isinstance(request, AgainRequest) else ""
        source: Source = route
        if answers is not None and fields.get("kind") not in ("regenerate", "continue"):
            source = CachedRoute(answers, turn.conversation.address.user_id, route)
        return Reply(turn, fields, source, asked, self._settings, beginning)

    def leave(self) -> None:
        """Let go of what was taken, and not passed on to a reply."""
        self.slot.give_back()
        if self._route is not None:
            self._route.leave()

    def _found_route(self) -> Route:
        if self._route is None:
            request = self._request
            name, model = request.provider, request.model
            if isinstance(request, AgainRequest) and name not in self._providers.by_name:
                # The provider of that turn is gone, and its model too; the message is not.
                name = model = None
            self._route = self._providers.route(name, model, self._settings, request.user_id)
        return self._route

    def _started(self, route: Route) -> Json:
        request = self._request
        asked: Json = {"provider": route.name, "model": route.model}
        asked |= request.model_dump(include={"temperature", "max_tokens"}, exclude_none=True)
        system = request.system if request.system is not None else self._settings.system_prompt
        if system is not None:
            asked["system"] = system
        fields: Json = {
            "message": {"role": "user", "content": request.message},
            "request": asked,
            "created_at": timestamp(time.time_ns() // 1_000_000),
        }
        if isinstance(request, ReplacingTurnRequest) and request.replaces is not None:
            kind = request.kind if isinstance(request, AgainRequest) else "edit"
            fields |= {"replaces": request.replaces, "kind": kind}
        return fields
