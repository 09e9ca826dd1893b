"""
Every error that chatstream raises on purpose, in one tree.

::

    ChatstreamError
    ├── InvalidRequest          422  a field, an id or a range is wrong; names the field
    ├── BadRequest              400  broken JSON, an empty or over-long message, an unknown provider
    ├── Forbidden               403  a foreign Host or Origin
    ├── NotFound                404  no such turn, conversation or path, or not the caller's
    ├── Conflict                409  a turn_id used with another body
    ├── BodyTooSlow             408
    ├── BodyTooLarge            413
    ├── NotJson                 415
    ├── TooManyRequests         429  with Retry-After
    ├── TurnEnded               409  the log refuses anything after a turn's terminal event
    ├── Unavailable             503  shedding load or draining, with Retry-After
    ├── StorageFull             507
    ├── StorageFailed           503  the disk cannot be used, with Retry-After
    ├── ProviderError           502  the provider gave up
    │   └── ProviderTimeout     504
    ├── DataFolderError              the data folder cannot be used (at start)
    └── SettingsError                a setting is wrong (at start)

Class attributes carry what the edge needs (`status`, `code`, `title`), instances carry the
evidence. A message may be shown to the client: it never holds a key, a path or another
user's data.
"""

from __future__ import annotations

from typing import ClassVar


class ChatstreamError(Exception):
    """The root. `message` is one sentence that may be shown to the caller."""

    status: ClassVar[int] = 500
    code: str = "internal"
    title: ClassVar[str] = "Internal error"
    retryable: bool = False

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class InvalidRequest(ChatstreamError):
    """A field of the request is wrong; `errors` lists each with its name and its limit."""

    status = 422
    code = "invalid_request"
    title = "Unprocessable request"

    def __init__(self, *errors: tuple[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in errors))
        self.errors = [{"field": field, "message": message} for field, message in errors]


class BadRequest(ChatstreamError):
    """The request cannot be taken as it is: broken JSON, an empty or over-long message."""

    status = 400
    code = "bad_request"
    title = "Bad request"


class Forbidden(ChatstreamError):
    """The request comes from somewhere that may not ask."""

    status = 403
    code = "forbidden"
    title = "Forbidden"


class NotFound(ChatstreamError):
    """It does not exist, or is not the caller's: the two are told alike on purpose."""

    status = 404
    code = "not_found"
    title = "Not found"


class Conflict(ChatstreamError):
    """The request contradicts what has already happened; `turn_id` is the turn that it is about."""

    status = 409
    code = "conflict"
    title = "Conflict"

    def __init__(
        self, message: str, *, code: str | None = None, turn_id: str | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.turn_id = turn_id


class TurnEnded(ChatstreamError):
    """The turn has its terminal event: the log takes nothing of it any more."""

    status = 409
    code = "turn_ended"
    title = "The turn has ended"


class BodyTooSlow(ChatstreamError):
    """The body did not arrive in time."""

    status = 408
    code = "request_timeout"
    title = "Request timeout"


class BodyTooLarge(ChatstreamError):
    """The body is over `MAX_BODY_BYTES`."""

    status = 413
    code = "body_too_large"
    title = "Content too large"


class NotJson(ChatstreamError):
    """The body's content type is not JSON."""

    status = 415
    code = "not_json"
    title = "Unsupported media type"


class RetryLater(ChatstreamError):
    """Refused for now; `retry_after` is in whole seconds, at least 1."""

    retryable = True

    def __init__(self, message: str, *, retry_after: int = 1, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = max(1, retry_after)


class TooManyRequests(RetryLater):
    """The caller is over a limit of their own; `headers` say which."""

    status = 429
    code = "rate_limited"
    title = "Too many requests"

    def __init__(
        self,
        message: str,
        *,
        retry_after: int = 1,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after, code=code)
        self.headers = headers or {}


OVERLOADED = "overloaded"
"""The code of what is refused since there is too much to do."""


class Unavailable(RetryLater):
    """The server is starting, draining, or sheds load."""

    status = 503
    code = "unavailable"
    title = "Service unavailable"


class StorageFull(ChatstreamError):
    """The disk is full: no turn starts until there is room; running ones may end."""

    status = 507
    code = "storage_full"
    title = "Insufficient storage"


class StorageFailed(RetryLater):
    """The disk refused to read, write or sync; nothing of it was acknowledged."""

    status = 503
    code = "storage_failed"
    title = "Storage failed"


class ProviderError(ChatstreamError):
    """The provider failed this turn. `upstream_status` is its HTTP status, where it gave one."""

    status = 502
    code = "provider_error"
    title = "Provider failed"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retryable: bool = False,
        upstream_status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.retryable = retryable
        self.upstream_status = upstream_status
        self.retry_after = retry_after


class ProviderTimeout(ProviderError):
    """The provider was too slow: to connect, to begin, to go on, or to end."""

    status = 504
    code = "provider_timeout"
    title = "Provider timed out"


class DataFolderError(ChatstreamError):
    """The data folder cannot be used: owned by another process, newer, or not writable."""

    code = "data_folder"
    title = "Data folder unusable"


class SettingsError(ChatstreamError):
    """A setting is wrong; the message names it and the value that it takes."""

    code = "settings"
    title = "Wrong setting"
