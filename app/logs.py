"""The log of every process, the web server's, a worker's and beat's: JSON for machines, or lines for people.

structlog makes the lines, out of records of the standard library's `logging`: so Celery's, Werkzeug's and SQLAlchemy's
lines are as ours. What `outbox.logs.tell` says brings its event and fields along. Nothing here is asked for by name:
`logging.getLogger(__name__)` is all that the rest of the application knows.
"""

import json
import logging
import os
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from logging.handlers import WatchedFileHandler
from types import TracebackType
from typing import Any

from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter, plain_traceback
from structlog.processors import ExceptionRenderer, format_exc_info
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor

from app.masking import Mask
from app.settings import AppSettings
from outbox.logs import request_id, tell

log = logging.getLogger(__name__)

_STDERR = 2
"""Its descriptor, whatever has been put in the place of `sys.stderr`."""

_encode = json.JSONEncoder(default=repr).encode
"""structlog's renderer makes an encoder for each line."""

_DIM, _BOLD, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[41m"}

_TRACE = "  | "
"""Before each line of a traceback: what is said in it cannot pass for a line of the log."""


def set_up(settings: AppSettings) -> None:
    """Have all that this process logs written to stderr, as LOG_FORMAT, LOG_LEVEL and LOG_ADDRESSES say.

    Unless somebody has set up `logging` already: who runs us within something larger has a log of their own.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    handler = _Handler(_STDERR)
    handler.setFormatter(formatter(settings, people=sys.stderr.isatty()))
    root.addHandler(handler)
    root.setLevel(settings.log_level)
    logging.captureWarnings(True)
    # No line says which thread or process it is of: that need not be found out.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    sys.excepthook = _tell_uncaught
    threading.excepthook = lambda args: _tell_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    logging.getLogger("werkzeug").addFilter(_is_no_access)
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)  # eight lines at each start, of no news


def set_up_celery(settings: AppSettings, level: int, path: str | None) -> None:
    """What Celery's command line asks for beside: no less than LOG_LEVEL, and perhaps a file."""
    root = logging.getLogger()
    root.setLevel(min(level or logging.CRITICAL, root.level))
    if path is not None:
        file = WatchedFileHandler(path, encoding="utf-8", errors="backslashreplace")
        file.setFormatter(formatter(settings, people=False))
        root.handlers[:] = [file]


def formatter(settings: AppSettings, *, people: bool) -> logging.Formatter:
    """`people`: whether a terminal reads along, which decides where LOG_FORMAT does not."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not people)
    mask = Mask.of(settings, addresses=settings.log_addresses)

    def masked_trace(_: object, __: str, line: EventDict) -> EventDict:
        if "exception" in line:
            line["exception"] = mask(line["exception"], keep="\n")
        return line

    if as_json:
        # Without the locals of the frames: they hold whatever they hold.
        exception = ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
        return _Formatter(mask, exception, masked_trace, _as_json, whole=True)
    return _Formatter(mask, format_exc_info, masked_trace, _for_people, _renderer(colours=people), whole=False)


class _Formatter(logging.Formatter):
    """A record, through structlog's processors.

    Its own ProcessorFormatter does the same by copying the record twice, for loggers that are structlog's: a third of
    what a line costs, and no logger here is.
    """

    def __init__(self, mask: Mask, *processors: Processor, whole: bool) -> None:
        super().__init__()
        self._mask = mask
        self._processors = processors
        self._whole = whole

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: Any = _line(record, self._mask, whole=self._whole)
        for processor in self._processors:
            line = processor(None, "", line)
        return str(line)


class _Handler(logging.Handler):
    """To stderr, a line in one write: whole, whichever threads and processes share it.

    Without `logging`'s lock, which all conversations of a worker would queue for, and without a file's buffer, which
    has another. A record that cannot be made a line of is told of without its words, which nobody has looked at.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def createLock(self) -> None:  # noqa: N802 - the name is logging's
        """None is needed."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """As `logging`, which from Python 3.13 on enters the lock without asking whether there is one."""
        passes = bool(self.filter(record))
        if passes:
            self.emit(record)
        return passes

    def emit(self, record: logging.LogRecord) -> None:
        """Write it."""
        try:
            self._write(self.format(record))
        except Exception:  # noqa: BLE001 - as in logging: whatever it is, the caller's work goes on
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Say where it came from."""
        where, error = f"{record.pathname}:{record.lineno}", sys.exc_info()[0]
        name = error.__name__ if error else "an error"
        with suppress(OSError):
            self._write(f'{{"level": "error", "event": "log.broken", "message": "{name} over a line of {where}"}}')

    def _write(self, line: str) -> None:
        os.write(self._descriptor, f"{line}\n".encode("utf-8", "backslashreplace"))


def _tell_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """What ends the process, or a thread of it, says no more than other lines do."""
    if not issubclass(kind, Exception):
        sys.__excepthook__(kind, error or kind(), trace)  # Ctrl-C
        return
    sentence = "%(thread)s ends: %(why)s"
    where = threading.current_thread().name
    tell(log, logging.CRITICAL, "thread.ended", sentence, exc_info=error, thread=where, why=repr(error))


def _line(record: logging.LogRecord, mask: Mask, *, whole: bool) -> EventDict:
    """What a line has, in its order. What has no value is left out; so are, but for the `whole`, the fields that its
    sentence names."""
    fields: dict[str, Any] = mask(getattr(record, "fields", {}))
    # A sentence of `tell`'s is ours, and what stands in it has been looked at.
    message = record.msg % fields if fields else mask(record.getMessage())
    line = {
        "time": f"{_second(int(record.created))}.{int(record.msecs):03d}Z",
        "level": record.levelname.lower(),
        "event": getattr(record, "event", None),
        "message": message,
        "logger": record.name,
        "request_id": mask(request_id.get()),
        **{name: value for name, value in fields.items() if whole or f"%({name})" not in record.msg},
        "exc_info": record.exc_info,
    }
    return {name: value for name, value in line.items() if value is not None}


def _as_json(_: object, __: str, line: EventDict) -> str:
    return _encode(line)


@lru_cache(8)
def _second(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _for_people(_: object, __: str, line: EventDict) -> EventDict:
    """The event's name in place of the logger's, and the traceback set off."""
    logger = line.pop("logger")
    line["event"] = line.get("event", logger)
    if "exception" in line:
        line["exception"] = "\n".join(f"{_TRACE}{text}" for text in line["exception"].split("\n"))
    return line


def _renderer(*, colours: bool) -> ConsoleRenderer:
    dim, bold, reset = (_DIM, _BOLD, _RESET) if colours else ("", "", "")

    def level(key: str, value: object) -> str:
        del key
        return f"{_COLOURS.get(str(value), '') if colours else ''}{value!s:8}{reset}"

    columns = [
        Column("", KeyValueColumnFormatter(dim, "", reset, str)),
        Column("time", KeyValueColumnFormatter(None, dim, reset, str)),
        Column("level", level),
        Column("event", KeyValueColumnFormatter(None, bold, reset, str, width=16)),
        Column("message", KeyValueColumnFormatter(None, "", reset, str)),
    ]
    return ConsoleRenderer(columns=columns, sort_keys=False, exception_formatter=plain_traceback)


def _is_no_access(record: logging.LogRecord) -> bool:
    """Not Werkzeug's line for each request of `flask run`: `http.request` is there, and has no query in it."""
    return " - - [" not in str(record.msg)
