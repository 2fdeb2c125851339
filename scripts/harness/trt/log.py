"""What a runtime complains of: its calls say only that they failed, its logger why."""

from __future__ import annotations

from typing import Any

from ..errors import one_line

# Causes are quoted on one line, after which the next step has to be seen.
_LONGEST = 300


class Log:
    """A logger for `module`, and the errors that it has been told since `clear`.

    It outlives whatever was made with it: the runtimes keep a bare pointer. A module without
    `ILogger` to derive from writes its errors to standard error itself.
    """

    def __init__(self, module: Any) -> None:
        self._errors: list[str] = []
        self._collects = hasattr(module, "ILogger")
        self.logger: Any = (
            _collector(module, self._errors)
            if self._collects
            else module.Logger(module.Logger.ERROR)
        )

    def clear(self) -> None:
        """Forget the errors so far."""
        self._errors.clear()

    def cause(self) -> str:
        """The first error on one line, or where to look for it."""
        if not self._errors:
            return "no reason given" if self._collects else "its own messages are above"
        text = one_line(self._errors[0])
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"

    @property
    def errors(self) -> tuple[str, ...]:
        """All errors since `clear`."""
        return tuple(self._errors)


def _collector(module: Any, errors: list[str]) -> Any:
    gravest = int(module.ILogger.ERROR)

    class Collector(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= gravest:
                errors.append(message)

    return Collector()
