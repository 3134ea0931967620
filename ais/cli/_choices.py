"""Options whose values are the keys of a registry.

A registry is read when a value is checked, completed or listed, not before: an entry that a program has added is a
choice like the others, and a command that needs none of them does not import them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo


class Choice(OptionInfo):
    """An option that takes one key of a registry.

    Args:
        option: such as ``--method``.
        registry: gives it. Where its entries have a sentence, `about`, the help lists it.
        help: what is chosen.
        aliases: other values that are taken, with the key that each stands for.
        old: the option's old name, which is taken, too.
    """

    def __init__(
        self,
        option: str,
        registry: Callable[[], Mapping[Any, Any]],
        help: str,
        aliases: Mapping[str, str] | None = None,
        old: str = "",
    ) -> None:
        super().__init__(
            default=option,
            param_decls=(old,) if old else (),
            help=help,
            callback=self._check,
            autocompletion=self._complete,
            show_default=True,
        )
        self._what = option.lstrip("-").replace("-", " ")
        self._registry, self._aliases = registry, aliases or {}

    def describe(self) -> str:
        """The choices, for the help."""
        lines = [(name, getattr(entry, "about", "")) for name, entry in self._registry().items()]
        if not any(about for _, about in lines):
            return f"One of: {', '.join(name for name, _ in lines)}."
        return " ".join(f"{name}: {about}" for name, about in lines)

    def _check(self, value: Any) -> Any:
        if value is None:
            return None
        value = self._aliases.get(value, value)
        choices = self._registry()
        if value not in choices:
            raise typer.BadParameter(
                f"There is no {self._what} {value!r}. Choose one of: {', '.join(choices)}."
            )
        return value

    def _complete(self, incomplete: str) -> list[str]:
        return [name for name in self._registry() if name.startswith(incomplete)]


class Command(TyperCommand):
    """A command whose help lists the choices of its options, and which takes no empty path for one."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        hints = self._hints()
        for param in self.params:
            for choice in getattr(hints.get(str(param.name)), "__metadata__", ()):
                if isinstance(choice, Choice):
                    param.help = f"{choice.help} {choice.describe()}"  # type: ignore[attr-defined]
        super().format_options(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """An empty path, such as that of a shell's variable which is not set, would be the working folder."""
        hints = self._hints()
        paths = [param for param in self.params if _is_path(hints.get(str(param.name)))]
        for option in [option for param in paths for option in param.opts]:
            if f"{option}=" in args or (option, "") in pairwise(args):
                raise typer.BadParameter(
                    f"The path is empty: give {option} the name of a file or a folder.", ctx
                )
        return super().parse_args(ctx, args)

    def _hints(self) -> dict[str, Any]:
        assert self.callback is not None
        return get_type_hints(inspect.unwrap(self.callback), include_extras=True)


def _is_path(hint: Any) -> bool:
    return hint is Path or any(map(_is_path, get_args(hint)))
