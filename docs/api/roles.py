"""Show the Sphinx roles of docstrings as plain code: the pages are Markdown."""

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:class|func|meth|mod):`~?([^`]+)`")


class Roles(Extension):
    """Rewrites the docstring of every object that the pages show."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:  # noqa: D102 (named by griffe)
        if obj.docstring:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
