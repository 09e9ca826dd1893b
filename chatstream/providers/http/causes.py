"""
Two causes of a refusal that statuses do not tell apart: an empty account, and a missing model.

Vendors answer either with 400, 402, 403, 404 or 429, and say the cause in a code or a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Final

_EMPTY_WORDS: Final = frozenset(
    (
        "1008",  # MiniMax's
        "1113",  # Zhipu's
        "access_terminated",
        "account_overdue",
        "allocationquota.freetieronly",
        "arrearage",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "budget_exceeded",
        "credit_balance_exhausted",
        "exceeded_current_quota_error",
        "insufficient_balance",
        "insufficient_credits",
        "insufficient_funds",
        "insufficient_user_quota",
        "payment_required",
        "pre_consume_token_quota_failed",
        "quota_not_enough",
    )
)
# Some say these of a minute's quota too, but then also when to come back.
_UNCLEAR_WORDS: Final = frozenset(("insufficient_quota", "quota_exceeded"))
_EMPTY_TEXT: Final = re.compile(
    r"(?:insufficient|not enough|no more) (?:\w+ )?(?:credits?|balance|funds)"
    r"|\b(?:no|any|out of|(?:used|depleted|exhausted)(?: up)?(?: all)?(?: of)?)"
    r"(?: your| the| its)?(?: available| remaining| prepaid)? credits?\b"
    r"|credits?(?: balance)? (?:is|are|has been|have been) (?:too low|depleted|exhausted|used up)"
    r"|balance (?:is )?(?:insufficient|not enough|too low)|(?:more|add|buy|purchase) credits"
    r"|payment required|spend(?:ing)? (?:limit|cap)"
    r"|account.{0,60}(?:past due|overdue|in arrears)"
    r"|account.{0,60}\bis suspended|out of call volume quota|key limit exceeded"
    r"|reached your (?:\w+ ){0,3}(?:usage|spend|credit) limit"
    r"|budget (?:has been|is|was) exceeded|exceeded (?:\w+ ){0,3}budget\b"
    r"|free (?:tier|quota|allocation|trial)\b.{0,60}(?:exhausted|used up)"
    r"|余额不足|欠费|预扣费|额度(?:失败|不足|已用尽|用完)",
    re.IGNORECASE,
)
# Not as a part of an address, which rate limits name for those who want a higher one.
_BILLING_TEXT: Final = re.compile(r"(?<!/)\bbilling\b|current quota", re.IGNORECASE)
_RATE_TEXT: Final = re.compile(r"rate[ _-]?limit|too many requests", re.IGNORECASE)
_EMPTY_STATUSES: Final = frozenset((None, 400, 402, 403, 412, 429))

_MODEL_WORDS: Final = frozenset(
    (
        "deployment_not_found",
        "deploymentnotfound",
        "invalid_model",
        "model_not_available",
        "model_not_exist",
        "model_not_found",
        "model_not_supported",
        "modelnotfound",
        "unknown_model",
    )
)
_MODEL_TEXT: Final = re.compile(
    r"\b(?:model|deployment)s?\b.{0,300}?\b(?:not found|not exist|cannot be found|not be found"
    r"|not available|inaccessible|not have access|been (?:removed|retired|decommissioned))"
    r"|\bmodel (?:identifier|id|name)\b.{0,300}?\b(?:is|was) (?:invalid|not valid|unknown)"
    r"|\b(?:requested|selected|specified|provided|given) model\b.{0,300}?"
    r"\bis not (?:supported|valid|known)|\bno models? (?:is |are )?loaded"
    r"|(?:no such|unknown|invalid|unsupported) model\b|not a valid model|^model: "
    r"|\b(?:unable to access|no endpoints found for|no access to model)\b",
    re.IGNORECASE | re.DOTALL,
)
_PATH_TEXT: Final = re.compile(
    r"\b(?:route|path|url|page not found)\b|cannot (?:post|get)\b", re.IGNORECASE
)


def account_is_empty(status: int | None, said: Set[str], text: str, *, waits: bool) -> bool:
    """
    Tell whether it is the account that has nothing left, which no waiting mends.

    Args:
        said: The codes in the error, in lower case.
        waits: The provider says when to come back: then what is unclear is a rate limit.
    """
    if status == 402 or said & _EMPTY_WORDS:
        return True
    if said & _UNCLEAR_WORDS and not waits:
        return True
    if status not in _EMPTY_STATUSES or _RATE_TEXT.search(text):
        return False
    return bool(_EMPTY_TEXT.search(text) or (not waits and _BILLING_TEXT.search(text)))


def model_is_missing(status: int | None, said: Set[str], text: str, model: str) -> bool:
    """Tell whether it is the model that is not there; not so where nothing names one."""
    if said & _MODEL_WORDS:
        return True
    named = re.compile(rf"(?<![\w-]){re.escape(model)}(?![\w-])") if model else None
    unnamed = named.sub("", text) if named else text  # a name may be a path
    if status not in (None, 400, 403, 404, 422) or _PATH_TEXT.search(unnamed):
        return False
    return (status == 404 and unnamed != text) or _MODEL_TEXT.search(text) is not None
