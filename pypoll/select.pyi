# If a name is imported twice, mypy uses the first import and pyright the last.
from pypoll.events import *
from pypoll.poller import poll as poll
from select import *  # type: ignore[assignment]

from pypoll.events import *
from pypoll.poller import poll as poll
