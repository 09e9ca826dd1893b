"""
Providers of one's own: given to `create_app`, or made from a Python path of
`CHATSTREAM_PROVIDERS=[name=]module:Class`.

What a path names is called once, without arguments: a class, or a function that returns a
provider. It has the one method of `Provider`; `name`, `model`, `models` and `aclose` may
be there. What it raises and yields is held to the protocol here, so that retries, the breaker and
the timers treat it as any other.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import operator
import re
from collections.abc import AsyncGenerator, Callable, Container, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, get_args

from chatstream.errors import ProviderError, ProviderTimeout, SettingsError
from chatstream.providers import (
    Bounded,
    Closes,
    Finish,
    FinishReason,
    ListsModels,
    Piece,
    Provider,
    ProviderRequest,
    Reasoning,
    Text,
)
from chatstream.providers.http.said import CONTENT

logger = logging.getLogger(__name__)

_ENTRY = re.compile(r"(?:(?P<name>[^=:]*)=)?(?P<module>[\w.]+):(?P<path>[\w.]+)")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}", re.ASCII)
_REASONS = frozenset(get_args(FinishReason))


def registered(entries: Sequence[str], taken: Container[str]) -> dict[str, Provider]:
    """
    Make the providers that a setting names.

    A provider's name is the one before `=`, else its own `name`, else its class's in lower case.

    Raises:
        SettingsError: One of them cannot be found, made or used, or its name is `taken`.
    """
    found: dict[str, Provider] = {}
    for entry in entries:
        where = f"CHATSTREAM_PROVIDERS: {entry}"
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise _wrong(where, "must be of the form module:Class, or name=module:Class")
        made = _make(where, _find(where, match["module"], match["path"]))
        name = match["name"] if match["name"] is not None else _own_name(made)
        _check_name(where, name, "name=module:Class")
        if name in taken or name in found:
            whose = "a built-in provider" if name in taken else "another of these"
            raise _wrong(
                where, f"{name} is the name of {whose}; name=module:Class gives a different one"
            )
        found[name] = Registered(name, made)
    return found


def held(providers: Sequence[Provider]) -> dict[str, Provider]:
    """
    Return given providers by name, each held to the protocol.

    A provider's name is its own `name`, else its class's in lower case.

    Raises:
        SettingsError: One of them cannot be used, or two have one name.
    """
    found: dict[str, Provider] = {}
    for provider in providers:
        where = f"providers: {type(provider).__name__}"
        _check(where, provider)
        name = _own_name(provider)
        _check_name(where, name, "its attribute `name`")
        if name in found:
            raise _wrong(where, f"{name} is the name of another of these")
        found[name] = Registered(name, provider)
    return found


def _check_name(where: str, name: Any, remedy: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _wrong(
            where,
            f"the name {name!r}: takes up to 64 of a-z, 0-9, _ and -, and a letter first; "
            f"{remedy} gives another",
        )


def _find(where: str, module: str, path: str) -> Callable[[], Any]:
    try:
        target = operator.attrgetter(path)(importlib.import_module(module))
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise _wrong(where, f"there is no module {error.name}") from error
        raise _wrong(where, f"{module} cannot be imported: {_told(error)}") from error
    except AttributeError as error:
        if error.name and error.name in path.split("."):
            raise _wrong(where, f"{module} has no {path}") from error
        raise _wrong(where, f"{module} cannot be imported: {_told(error)}") from error
    except Exception as error:
        raise _wrong(where, f"{module} cannot be imported: {_told(error)}") from error
    if not callable(target):
        raise _wrong(where, "is neither a class nor a function that makes a provider")
    return target  # type: ignore[no-any-return]  # callable, and what it makes is checked


def _make(where: str, target: Callable[[], Any]) -> Any:
    try:
        made = target()
    except Exception as error:
        raise _wrong(where, f"cannot be made: {_told(error)}") from error
    if inspect.iscoroutine(made):
        made.close()  # an async factory: nobody would await it
    _check(where, made)
    return made


def _check(where: str, made: Any) -> None:
    reply = getattr(made, "reply", None)
    if not callable(reply):
        raise _wrong(where, f"wrong protocol: {type(made).__name__} has no method `reply`")
    if inspect.iscoroutinefunction(reply) or inspect.isgeneratorfunction(reply):
        raise _wrong(
            where, "wrong protocol: `reply` must be an async generator: `async def` with `yield`"
        )
    try:
        inspect.signature(reply).bind(None)
    except TypeError as error:
        raise _wrong(
            where, f"wrong protocol: `reply` must take one argument, the request: {error}"
        ) from error


def _own_name(made: Any) -> Any:
    return getattr(made, "name", None) or type(made).__name__.lower()


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _wrong(where: str, message: str) -> SettingsError:
    return SettingsError(f"{where}: {message}")


class Failed(Exception):
    """Stands in the log for an error whose words may quote what users said."""


def _tell(name: str, error: Exception) -> None:
    """Log where it was raised; what it says only where the log may hold what users said."""
    told: Exception = error
    if CONTENT.disabled:
        told = Failed(f"{type(error).__name__}; CHATSTREAM_LOG_CONTENT=true shows what it says")
        told.__traceback__ = error.__traceback__
    logger.warning("provider failed", extra={"provider": name}, exc_info=told)


class Registered:
    """One's own provider under its name, held to what `Provider` promises."""

    def __init__(self, name: str, provider: Any) -> None:
        model = getattr(provider, "model", None)
        self.name = name
        self.model = model if isinstance(model, str) and model else name
        self._provider = provider
        if isinstance(provider, Bounded):
            self.concurrency = provider.concurrency

    async def reply(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """
        Yield the pieces up to the first `Finish`; as `Provider.reply` promises.

        What it raises besides a `ProviderError` is logged, and may be tried again.
        """
        try:
            pieces = self._provider.reply(request)
            if not isinstance(pieces, AsyncGenerator):
                raise TypeError("reply must return an async generator")
            async with aclosing(pieces):
                async for piece in pieces:
                    if isinstance(piece, Finish):
                        known = piece.reason in _REASONS
                        yield piece if known else replace(piece, reason="other")
                        return
                    if isinstance(piece, Text | Reasoning):
                        if not isinstance(piece.text, str):
                            raise TypeError("a text must be a str")
                        if not piece.text:
                            continue
                    elif not isinstance(piece, Piece):
                        raise TypeError(f"reply must yield pieces, not {type(piece).__name__}")
                    yield piece
        except ProviderError:
            raise
        except TimeoutError as error:
            raise ProviderTimeout("The provider was too slow.", retryable=True) from error
        except Exception as error:
            _tell(self.name, error)
            raise ProviderError("The provider failed.", retryable=True) from error

    async def models(self) -> list[str]:
        """Return its models; none, where it lists none."""
        if not isinstance(self._provider, ListsModels):
            return []
        try:
            return [str(model) for model in await self._provider.models()]
        except ProviderError:
            raise
        except Exception as error:
            _tell(self.name, error)
            raise ProviderError("The provider failed.", retryable=True) from error

    async def aclose(self) -> None:
        """Have it release what it holds, where it says how; the others are closed all the same."""
        if isinstance(self._provider, Closes):
            try:
                await self._provider.aclose()
            except Exception as error:
                logger.warning("provider not closed", extra={"provider": self.name}, exc_info=error)
