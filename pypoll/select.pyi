# Of a name that is imported twice, mypy takes the first one and pyright the last.
from pypoll.events import *
from pypoll.poller import poll as poll
from select import *  # type: ignore[assignment]

from pypoll.events import *
from pypoll.poller import poll as poll
