"""
Who answers: the providers that the settings name, and the one that answers by default.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chatstream.errors import BadRequest, SettingsError
from chatstream.providers import Closes, ListsModels, Provider
from chatstream.providers.gemini import GeminiProvider
from chatstream.providers.local import Local, availability
from chatstream.providers.offline import Offline
from chatstream.providers.openai import OpenAIProvider
from chatstream.settings import Settings


@dataclass(frozen=True)
class Providers:
    """
    The providers of one application, by name.

    Attributes:
        default: Who answers when a turn names nobody.
        reason: Why, in half a sentence for the operator.
    """

    by_name: dict[str, Provider]
    default: str
    reason: str = ""
    models: dict[str, list[str]] = field(default_factory=dict)

    def get(self, name: str | None) -> Provider:
        """
        Return a provider, or the default one.

        Raises:
            BadRequest: There is none of this name here.
        """
        provider = self.by_name.get(name or self.default)
        if provider is None:
            known = ", ".join(self.by_name)
            raise BadRequest(
                f"provider: there is no {name!r} here; it takes one of {known}",
                code="unknown_provider",
            )
        return provider

    async def list_models(self, name: str) -> list[str]:
        """Return a provider's models, the default one first; asked for once."""
        provider = self.by_name[name]
        if name not in self.models:
            self.models[name] = (
                await provider.models() if isinstance(provider, ListsModels) else [provider.model]
            )
        return self.models[name]

    def warm_up(self) -> None:
        """Begin to load the local model, where it answers: its first answer is quick then."""
        provider = self.by_name[self.default]
        if isinstance(provider, Local):
            provider.start()

    async def aclose(self) -> None:
        """Release what they hold."""
        for provider in self.by_name.values():
            if isinstance(provider, Closes):
                await provider.aclose()


def build(settings: Settings) -> Providers:
    """
    Make the providers that can be used, and choose the default one.

    Raises:
        SettingsError: `PROVIDER` names one that cannot be used here; says why.
    """
    found: dict[str, Provider] = {}
    reasons: dict[str, str] = {}
    if settings.openai_api_key or "openai_base_url" in settings.model_fields_set:
        key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else ""
        found["openai"] = OpenAIProvider(
            base_url=settings.openai_base_url,
            api_key=key,
            model=settings.openai_model,
            connect_timeout=settings.connect_timeout,
            prefill=settings.openai_prefill,
        )
    else:
        reasons["openai"] = "OPENAI_API_KEY is not set"
    if settings.gemini_api_key:
        found["gemini"] = GeminiProvider(
            base_url=settings.gemini_base_url,
            api_key=settings.gemini_api_key.get_secret_value(),
            model=settings.gemini_model,
            connect_timeout=settings.connect_timeout,
        )
    else:
        reasons["gemini"] = "GEMINI_API_KEY is not set"
    missing = "--no-model was given" if settings.no_model else availability(settings.local_model)
    if missing is None:
        found["local"] = Local(settings.local_model)
    else:
        reasons["local"] = missing
    found["offline"] = Offline(reasons.get("local", "it was chosen by CHATSTREAM_PROVIDER"))
    if settings.provider is not None:
        if settings.provider not in found:
            known = ", ".join(found)
            why = reasons.get(settings.provider, f"takes one of {known}")
            raise SettingsError(f"CHATSTREAM_PROVIDER: {settings.provider}: {why}")
        return Providers(found, settings.provider, "CHATSTREAM_PROVIDER says so")
    return Providers(found, *_first(found, reasons))


def _first(found: dict[str, Provider], reasons: dict[str, str]) -> tuple[str, str]:
    if "openai" in found:
        return "openai", "OPENAI_API_KEY or OPENAI_BASE_URL is set"
    if "gemini" in found:
        return "gemini", "GEMINI_API_KEY is set"
    if "local" in found:
        return "local", "no provider's key is set"
    return "offline", f"no provider's key is set, and {reasons['local']}"
