"""All groups of attacks, in the table's order."""

from tests.abuse import heads, names, pipelines, providers, silence, sockets
from tests.abuse.target import Group

GROUPS = (
    Group("pipelines", pipelines.ATTACKS),
    Group("heads", heads.ATTACKS),
    Group("sockets", sockets.ATTACKS),
    Group("names", names.ATTACKS),
    Group("silence", silence.ATTACKS, silence.world),
    Group("providers", providers.ATTACKS, providers.world),
    Group("inflating lists", providers.LISTS, providers.inflating),
)
